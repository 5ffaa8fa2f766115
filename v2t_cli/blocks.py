"""Blocks: the rows that are computed together. Several processes share them out, and an interrupted run goes on with the next.

A block begins at a multiple of the block size, whoever computes it: what comes out is then the same to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
    """Vectors, float32 (rows, dim), and the number of the first."""

    first: int
    vectors: np.ndarray


def grid(rows: int, size: int) -> list[range]:
    """The row numbers 0 … rows-1, `size` at a time."""
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]
