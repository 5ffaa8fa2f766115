import itertools

import numpy as np
import pytest

from v2t_cli.decoding.orders import LONGEST_BLOCK, REACH, _cuts, ranked


def orders_of(count: int) -> list[tuple[int, ...]]:
    """As they come where the decoder prefers none."""
    return [tuple(order) for order in ranked(np.zeros((count + 1, count + 1), dtype=np.float32))]


def expected(count: int) -> set[tuple[int, ...]]:
    """Two blocks change places, with up to REACH words between them, or all that is before and after a word or a gap."""
    words, out = list(range(count)), set()
    for a, b, c, d in itertools.product(range(count + 1), repeat=4):
        near = b - a <= LONGEST_BLOCK and c - b <= REACH and d - c <= LONGEST_BLOCK
        if a < b <= c < d and (near or (a == 0 and d == count and c - b <= 1)):
            out.add((*words[:a], *words[c:d], *words[b:c], *words[a:b], *words[d:]))
    return out


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9, 14])
def test_words_and_blocks_move_and_change_places(count):
    found = orders_of(count)
    assert set(found) == expected(count) and len(set(found)) == len(found)
    assert all(sorted(order) == list(range(count)) != list(order) for order in found)


def test_what_stands_before_and_after_a_word_or_a_gap_changes_places():
    found = orders_of(20)
    assert (*range(12, 20), 11, *range(11)) in found and (*range(12, 20), *range(12)) in found


def test_the_shortest_changes_come_first_where_the_decoder_prefers_nothing():
    assert orders_of(4)[:3] == [(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)]
    changed = [max(places) - min(places) for order in orders_of(8) if (places := [i for i, word in enumerate(order) if word != i])]
    assert changed == sorted(changed)


@pytest.mark.parametrize("wrong", [(0, 2, 1, 3, 4, 5, 6, 7), (2, 3, 4, 0, 1, 5, 6, 7), (0, 5, 6, 3, 4, 1, 2, 7), (5, 6, 7, 4, 0, 1, 2, 3)])
def test_the_order_in_which_words_meet_that_belong_together_comes_first(wrong):
    """The words of a text are numbered as they ought to stand; the text has them in a wrong order."""
    count = len(wrong)
    follows = np.full((count + 1, count + 1), -5.0)  # [i, j]: word j behind word i - 1; the last column is the end
    np.fill_diagonal(follows, 0.0)
    nats = follows[[0, *(word + 1 for word in wrong)]][:, [*wrong, count]]
    first = next(ranked(nats - nats.diagonal()[:, None]))
    assert [wrong[number] for number in first] == list(range(count))


def test_an_order_is_as_probable_as_the_words_that_meet_in_it():
    count = 9
    junctions = np.random.default_rng(0).normal(size=(count + 1, count + 1))
    np.fill_diagonal(junctions, 0.0)
    scores = [sum(junctions[before + 1, word] for before, word in itertools.pairwise((-1, *order, count))) for order in ranked(junctions)]
    assert scores == pytest.approx(sorted(scores, reverse=True)) and len(scores) == len(expected(count))


def test_orders_grow_no_faster_than_the_text():
    assert _cuts(120).nbytes <= 2.2 * _cuts(60).nbytes
