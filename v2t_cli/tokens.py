"""Rows of token ids: kept compactly for a corpus, padded for a batch."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from v2t_cli.device import to_device


class TokenRows:
    """Token ids of many texts, in one array: as Python lists they would take ten times the memory.

    Item i: int32 (tokens,), of row i.
    """

    def __init__(self, ids: np.ndarray, ends: np.ndarray):
        """ids: int32, one row behind the other; ends: int64 (rows,), where each row ends."""
        self._ids, self._ends = ids, ends

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> TokenRows:
        """Pack rows, which are taken one by one."""
        ids, ends = array("i"), array("q")
        for row in rows:
            ids.extend(row)
            ends.append(len(ids))
        return cls(np.array(ids, dtype=np.int32), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> np.ndarray:
        end = self._ends[place]
        return self._ids[end - self.lengths[place] : end]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row: int64 (rows,)."""
        return np.diff(self._ends, prepend=0)

    def keep(self, which: np.ndarray) -> TokenRows:
        """The rows at the positions `which`, in that order."""
        lengths = self.lengths[which]
        ends = lengths.cumsum()
        shift = np.repeat(self._ends[which] - ends, lengths)  # from the place of a token here to its place in the whole
        return TokenRows(self._ids[np.arange(len(shift)) + shift], ends)


def pad(rows: Sequence[Sequence[int]] | TokenRows, pad_id: int, device: torch.device, left: bool = False) -> tuple[Tensor, Tensor]:
    """Token rows -> (ids (batch, time), lengths (batch,)), int64, padded on the right, or on the left."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    places, longest = np.arange(lengths.max()), lengths.max()
    within = places >= (longest - lengths)[:, None] if left else places < lengths[:, None]
    ids = np.full(within.shape, pad_id, dtype=np.int64)
    ids[within] = np.concatenate(list(rows))
    return to_device(torch.from_numpy(ids), device), to_device(torch.from_numpy(lengths), device)
