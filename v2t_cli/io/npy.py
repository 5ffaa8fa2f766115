"""Headers of .npy files, by NumPy's own functions."""

from __future__ import annotations

import warnings
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

MAGIC = npy.MAGIC_PREFIX


class Header(NamedTuple):
    """Shape, whether the array is stored by columns, and type."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def read_header(stream: IO[bytes]) -> Header:
    """Raises many kinds of errors for what is damaged or no .npy: ValueError, and those of Python's parser."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} is for structured arrays")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote
        return Header(*read(stream))


def write_header(stream: IO[bytes], rows: int, dim: int, dtype: Any = "<f4") -> None:
    """Begin a .npy of numbers, in rows. NumPy pads it, so that the row count can be filled in at the end."""
    descr = npy.dtype_to_descr(np.dtype(dtype))
    npy.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": (rows, dim)})
