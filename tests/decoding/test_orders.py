import itertools

import numpy as np
import pytest

from v2t_cli.decoding.orders import LONGEST_BLOCK, REACH, ranked


def orders_of(count: int) -> list[tuple[int, ...]]:
    """As they come where the decoder prefers none."""
    return [tuple(order) for order in ranked(np.zeros((count + 1, count), dtype=np.float32))]


def blocks_moved(count: int) -> set[tuple[int, ...]]:
    """Every order that comes of moving one to LONGEST_BLOCK neighbouring words by up to REACH places."""
    out = set()
    for size, start, place in itertools.product(range(1, LONGEST_BLOCK + 1), range(count), range(count)):
        if start + size <= count and place + size <= count and abs(place - start) <= REACH:
            words = list(range(count))
            block, rest = words[start : start + size], words[:start] + words[start + size :]
            out.add((*rest[:place], *block, *rest[place:]))
    return out - {tuple(range(count))}


def blocks_swapped(count: int) -> set[tuple[int, ...]]:
    """Every order that comes of swapping two blocks with one to REACH words between them."""
    words, out = list(range(count)), set()
    for a, b, c, d in itertools.combinations(range(count + 1), 4):
        if b - a <= LONGEST_BLOCK and c - b <= REACH and d - c <= LONGEST_BLOCK:
            out.add((*words[:a], *words[c:d], *words[b:c], *words[a:b], *words[d:]))
    return out


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9, 14])
def test_words_and_blocks_move_and_change_places(count):
    found = orders_of(count)
    assert len(set(found)) == len(found) and tuple(range(count)) not in found
    assert all(sorted(order) == list(range(count)) for order in found)
    assert blocks_moved(count) | blocks_swapped(count) <= set(found)
    swapped = (
        [order for order in itertools.permutations(range(count)) if sum(a != b for a, b in enumerate(order)) == 2] if count < 6 else []
    )
    assert {order for order in swapped if max(abs(a - b) for a, b in enumerate(order)) <= REACH} <= set(found)


def test_what_stands_before_and_after_a_word_or_a_gap_changes_places():
    found = orders_of(20)
    assert (*range(12, 20), 11, *range(11)) in found and (*range(12, 20), *range(12)) in found


def test_neighbours_come_first_where_the_decoder_prefers_nothing():
    assert orders_of(4)[:3] == [(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)]


@pytest.mark.parametrize("wrong", [(0, 2, 1, 3, 4, 5, 6, 7), (2, 3, 4, 0, 1, 5, 6, 7), (0, 5, 6, 3, 4, 1, 2, 7), (5, 6, 7, 4, 0, 1, 2, 3)])
def test_the_order_in_which_words_meet_that_belong_together_comes_first(wrong):
    """The words of a text are numbered as they ought to stand; the text has them in a wrong order."""
    count = len(wrong)
    follows = np.full((count + 1, count), -5.0)  # [i, j]: word j behind word i - 1, 0 for the beginning
    follows[range(count), range(count)] = 0.0
    nats = follows[[0, *(word + 1 for word in wrong)]][:, list(wrong)]
    own = [*nats.diagonal(), 0.0]
    first = next(ranked(nats - np.array(own)[:, None]))
    assert [wrong[number] for number in first] == list(range(count))


def test_orders_grow_no_faster_than_the_text():
    assert len(orders_of(120)) <= 2.2 * len(orders_of(60))
