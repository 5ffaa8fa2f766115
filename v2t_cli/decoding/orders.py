"""Other orders of the words of a text: those that the decoder finds most natural first.

A text of twelve words has hundreds of orders that come of one swap or move. The decoder judges them all after it has read the text
once: an order is as probable as the words that meet in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, product

import numpy as np

REACH = 4  # places by which a word or a block moves, at most: so the number of orders grows with the length, not with its square
LONGEST_BLOCK = 4  # words that move together, at most


def ranked(junctions: np.ndarray) -> Iterator[list[int]]:
    """Other orders of the words of a text, the most probable first; equal ones by how little they change.

    junctions: (words + 1, words). At [i, j], how many nats more probable word j is in place of word i than word i itself; the last row
    is about what follows the last word.
    """
    orders = _orders(junctions.shape[1])
    if len(orders):
        meet = junctions[orders[:, :-1] + 1, orders[:, 1:]].sum(axis=1)  # zero where the same words meet as before
        yield from (orders[it].tolist() for it in np.argsort(-(junctions[0, orders[:, 0]] + meet), kind="stable"))


@lru_cache(maxsize=128)
def _orders(count: int) -> np.ndarray:
    """Orders of so many words, other than the given one: (orders, count)."""
    kinds = (_swaps(count), _moves(count), _block_swaps(count), _rotations(count))
    made = dict.fromkeys(tuple(order) for kind in kinds for order in kind)
    return np.array(list(made), dtype=np.int64).reshape(len(made), count)


def _swaps(count: int) -> Iterator[list[int]]:
    """Two words that are up to REACH places apart change places, the nearer ones first."""
    for distance in range(1, REACH + 1):
        for left in range(count - distance):
            order = list(range(count))
            order[left], order[left + distance] = left + distance, left
            yield order


def _moves(count: int) -> Iterator[list[int]]:
    """One to LONGEST_BLOCK neighbouring words move by up to REACH places."""
    for size in range(1, LONGEST_BLOCK + 1):
        for start, distance in product(range(count - size + 1), range(1, REACH + 1)):
            a, b, c = start, start + size, start + size + distance
            if c <= count:
                yield [*range(a), *range(b, c), *range(a, b), *range(c, count)]
            a, b, c = start - distance, start, start + size
            if a >= 0:
                yield [*range(a), *range(b, c), *range(a, b), *range(c, count)]


def _block_swaps(count: int) -> Iterator[list[int]]:
    """Two blocks of at most LONGEST_BLOCK words with one to REACH words between them, such as the towns in "from A to B"."""
    sizes = range(1, LONGEST_BLOCK + 1)
    for first, second, between in product(sizes, sizes, range(1, REACH + 1)):
        for start in range(count - first - between - second + 1):
            a, b, c, d = accumulate((start, first, between, second))
            yield [*range(a), *range(c, d), *range(b, c), *range(a, b), *range(d, count)]


def _rotations(count: int) -> Iterator[list[int]]:
    """What stands before and after each word, such as "and", or before and after each gap, changes places."""
    for middle in range(1, count - 1):
        yield [*range(middle + 1, count), middle, *range(middle)]
    for start in range(1, count):
        yield [*range(start, count), *range(start)]
