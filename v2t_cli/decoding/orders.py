"""Other orders of the words of a text: those that the decoder finds most likely come first.

A text of twelve words has hundreds of orders that are one swap or move away. The decoder judges them all after it has read the text
once: how probable an order is, is estimated from the pairs of words that meet only in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np

REACH = 4  # words between those that change places, at most: so the number of orders grows with the length, not with its square
LONGEST_BLOCK = 4  # words that move together, at most, unless all others, but for one, do so, too


def ranked(junctions: np.ndarray) -> Iterator[list[int]]:
    """Other orders of the words of a text, the most probable first, and of equal ones that which changes the shortest part.

    junctions: (words + 1, words + 1), as in a Reading.
    """
    count = len(junctions) - 1
    cuts = _cuts(count)
    a, b, c, d = cuts.T
    together = b == c
    meet = junctions[a, c] + junctions[d, np.where(together, a, b)] + np.where(together, 0, junctions[c, a]) + junctions[b, d]
    for a, b, c, d in cuts[np.argsort(-meet, kind="stable")].tolist():
        yield [*range(a), *range(c, d), *range(b, c), *range(a, b), *range(d, count)]


@lru_cache(maxsize=128)
def _cuts(count: int) -> np.ndarray:
    """Four places a < b <= c < d in a text of so many words: int64 (orders, 4). What is between a and b changes places with what is
    between c and d.

    Where b is c, words move; else two of them, or two blocks, are swapped, such as the towns in "from A to B". Everything
    before a gap and everything behind it are swapped, too, however long they are; so is everything on both sides of a single word, such
    as "and".
    """
    sizes = range(1, LONGEST_BLOCK + 1)
    cuts = [np.empty((0, 4), dtype=np.int64)]
    for first, between, second in product(sizes, range(REACH + 1), sizes):
        starts = np.arange(max(0, count - first - between - second + 1))
        cuts.append(starts[:, None] + np.cumsum([0, first, between, second]))
    cuts += [np.array([(0, middle, middle + width, count)]) for width in (0, 1) for middle in range(1, count - width)]
    made = np.unique(np.concatenate(cuts), axis=0)
    return made[np.argsort(made[:, 3] - made[:, 0], kind="stable")]
