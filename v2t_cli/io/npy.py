"""Headers of .npy files, by NumPy's own functions."""

from __future__ import annotations

import warnings
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from v2t_cli.core.errors import RequestError

MAGIC = npy.MAGIC_PREFIX


class Header(NamedTuple):
    """Shape, whether the array is stored by columns, and type: that of bool is uint8, which has the same bytes."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @property
    def table(self) -> tuple[int, ...]:
        """The shape, (rows, dim) if these are vectors: a single one, as np.save writes a centroid, is one row."""
        return (1, *self.shape) if len(self.shape) == 1 else self.shape

    @property
    def is_readable(self) -> bool:
        """Whether the type is one that vectors are read from."""
        return self.dtype.kind == "f" or self.dtype in (np.int8, np.uint8)

    def refused(self, name: str) -> RequestError:
        """The error for an array that is no vectors."""
        way = "; .astype(numpy.int8), uint8 or float32 converts it" if self.dtype.kind in "iu" and not self.is_readable else ""
        expected = "expected floating-point numbers, int8, uint8 or bool of shape (rows, dim)"
        return RequestError(f"{name}: holds {self.dtype} of shape {self.shape}; {expected}{way}")


def read_header(stream: IO[bytes]) -> Header:
    """Raises many kinds of errors for what is damaged or no .npy: ValueError, and those of Python's parser."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} is for structured arrays")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote
        shape, fortran, dtype = read(stream)
    return Header(shape, fortran, np.dtype(np.uint8) if dtype.kind == "b" else dtype)


def write_header(stream: IO[bytes], rows: int, dim: int, dtype: Any = "<f4") -> None:
    """Begin a .npy of numbers, in rows. NumPy pads it, so that the row count can be filled in at the end."""
    descr = npy.dtype_to_descr(np.dtype(dtype))
    npy.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": (rows, dim)})
