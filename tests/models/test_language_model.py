"""Token rows, packed and padded."""

import numpy as np
import torch

from v2t_cli.models.language_model import TokenRows, pad

ROWS = [[5, 6, 7], [8], [], [9, 10]]


def lists(rows):
    return [row.tolist() for row in rows]


def test_rows_come_back():
    packed = TokenRows.of(iter(ROWS))
    assert len(packed) == 4 and lists(packed) == ROWS and packed.lengths.tolist() == [3, 1, 0, 2]
    assert lists(TokenRows.of([])) == []


def test_kept_rows_come_in_their_order():
    packed = TokenRows.of(ROWS)
    assert lists(packed.keep(np.array([3, 0, 3, 2]))) == [ROWS[3], ROWS[0], ROWS[3], []]
    assert lists(packed.keep(np.array([], dtype=np.int64))) == []


def test_padding():
    rows = TokenRows.of([[5, 6, 7], [8]])
    for given in (rows, lists(rows)):
        for left, expected in ((False, [[5, 6, 7], [8, 1, 1]]), (True, [[5, 6, 7], [1, 1, 8]])):
            ids, lengths = pad(given, 1, torch.device("cpu"), left)
            assert ids.tolist() == expected and ids.dtype == torch.int64
            assert lengths.tolist() == [3, 1]
