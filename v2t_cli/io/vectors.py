"""Vector files: .npy of shape (rows, dim), mapped from disk by NumPy, so that memory does not grow with them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.lib import format as npy

from v2t_cli.core import streams
from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.io.atomic import replacing
from v2t_cli.io.foreign import SNIFFED, refuse_foreign

CHUNK_ROWS = 4096
CHUNK_NUMBERS = 2**24  # fewer rows where vectors are wide
MAX_DIM = 2**20  # far more than any encoder has: wider ones are damage, and could exhaust memory


class Block(NamedTuple):
    """Vectors, float32 (rows, dim), and the number of the first row.

    The rows of a block are computed together. Blocks start at multiples of the block size, so several processes, or an
    interrupted run and its continuation, give identical results.
    """

    first: int
    vectors: np.ndarray


def grid(rows: int, size: int) -> list[range]:
    """The row numbers 0 … rows-1, `size` at a time."""
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]


def check_finite(vectors: np.ndarray, name: str, first: int = 0) -> None:
    """Raise RequestError, naming the rows, for values that are not finite. vectors: float32; first: the number of the first row."""
    bad = first + np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        more = f" and {len(bad) - 5} more of these {len(vectors)} rows" if len(bad) > 5 else ""
        numbers = f"row {bad[0]} contains" if len(bad) == 1 else f"rows {', '.join(map(str, bad[:5]))}{more} contain"
        raise RequestError(f"{name}: {numbers} NaN or infinity (as float32)")


class VectorReader:
    """The rows of a .npy as float32. array: (rows, dim), as they are stored, mapped from disk."""

    def __init__(self, stream: BinaryIO, name: str):
        """stream: a file on disk, at its beginning. Raises RequestError unless it is one whole array of vectors."""
        self.name, self._stream = name, stream
        shape, fortran, dtype = _read_header(stream, name)
        if dtype.hasobject:
            raise RequestError(f"{name}: holds Python objects, which need pickle and are never loaded; save it as float32")
        if len(shape) not in (1, 2) or dtype.kind != "f" or min(shape) < 0 or not 1 <= shape[-1] <= MAX_DIM:
            raise RequestError(f"{name}: holds {dtype} of shape {shape}; expected floating-point numbers of shape (rows, dim)")
        stored = (1, *shape) if len(shape) == 1 else shape  # one vector, as np.save writes a centroid
        self.rows, self.dim = map(int, stored)  # a damaged header may say True
        start, row_bytes = stream.tell(), self.dim * dtype.itemsize
        self._end = start + self.rows * row_bytes
        self._check_size((os.fstat(stream.fileno()).st_size - start) // row_bytes)
        if os.fstat(stream.fileno()).st_size > self._end:
            raise RequestError(f"{name}: has data after its {self.rows} rows: damaged, or several arrays, which np.concatenate joins")
        order: Literal["F", "C"] = "F" if fortran else "C"
        self.array = np.memmap(stream, dtype, "r", start, (self.rows, self.dim), order) if self.rows else np.empty((0, self.dim), dtype)

    def _check_size(self, complete: int | None = None) -> None:
        """Raise RequestError for a file that is too short: a map of it would kill the process. complete: rows that are there."""
        if os.fstat(self._stream.fileno()).st_size < self._end:
            found = "it became shorter while it was read" if complete is None else f"the file ends after {complete}"
            raise RequestError(f"{self.name}: is truncated: the header promises {self.rows} rows, {found}")

    def fitting(self, size: int) -> int:
        """A block size: at most `size` rows, fewer where vectors are wide."""
        return max(1, min(size, CHUNK_NUMBERS // self.dim))

    def chunks(self) -> list[range]:
        """The rows in blocks that suit reading."""
        return grid(self.rows, self.fitting(CHUNK_ROWS))

    def blocks(self, ranges: Iterable[range]) -> Iterator[Block]:
        """Yield the rows of these numbers. Raises RequestError, naming the row, for values that are not finite."""
        for rows in ranges:
            self._check_size()
            with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, and is reported as that
                vectors = np.array(self.array[rows.start : rows.stop], dtype=np.float32, order="C")
            check_finite(vectors, self.name, rows.start)
            yield Block(rows.start, vectors)

    def digest(self, processes: Processes = ALONE) -> str:
        """A hash (hex) of all float32 values, which several processes compute together. Raises as `blocks` does."""

        def mine() -> list[bytes]:
            return [hashlib.sha256(vectors.data).digest() for _, vectors in self.blocks(processes.split(self.chunks()))]

        digests = processes.gather(processes.on_all(mine))
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def read(self) -> np.ndarray:
        """All rows: float32 (rows, dim). Raises as `blocks` does."""
        out = np.empty((self.rows, self.dim), dtype=np.float32)
        for first, vectors in self.blocks(self.chunks()):
            out[first : first + len(vectors)] = vectors
        return out


@contextmanager
def open_vectors(path: str) -> Iterator[VectorReader]:
    """Open a .npy file, or `-` for stdin. stdin and pipes are copied to a temporary file first.

    Raises RequestError for anything but one whole .npy, V2TError if a copy does not fit. Pickled arrays are never loaded. The
    values are checked as they are read: `digest` reads all of them.
    """
    with ExitStack() as stack:
        if path == "-":
            stream = streams.stdin()
            if stream.isatty():
                raise RequestError("stdin: is a terminal; expected a .npy, for example: v2t embed texts.txt -o - | v2t decode -")
            name = "stdin"
        else:
            name, stream = path, stack.enter_context(_opened(path))
        if path == "-" or not os.path.isfile(path):
            stream = _copied(stream, name, stack)
        reader = VectorReader(stream, name)
        if reader.array.dtype.itemsize != 4:
            log.info(f"{name}: {reader.array.dtype} numbers are read as float32")
        yield reader


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such vector file; v2t embed creates one") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None


def _copied(stream: BinaryIO, name: str, stack: ExitStack) -> BinaryIO:
    """A temporary file, which nobody else sees, with what the stream holds."""
    begin = stream.read(SNIFFED)  # before more is copied: the stream may be endless
    if not begin.startswith(npy.MAGIC_PREFIX):
        _read_header(io.BytesIO(begin), name)
    temporary = stack.enter_context(tempfile.TemporaryFile())
    try:
        temporary.write(begin)
        shutil.copyfileobj(stream, temporary)
        temporary.seek(0)
    except OSError as error:
        where = f"cannot be copied to {tempfile.gettempdir()}: {error.strerror}"
        raise V2TError(f"{name}: {where}; TMPDIR names another folder") from None
    return temporary


def _read_header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is stored by columns, and type. Raises RequestError for what is not a .npy."""
    refuse_foreign(stream.read(SNIFFED), name)
    stream.seek(0)
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format version {version} is for structured arrays")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            return read(stream)
    except Exception as error:  # a damaged header fails in many ways, in NumPy's parser and in Python's
        raise RequestError(f"{name}: not a .npy file of vectors: {one_line(error)}") from None


def load_vectors(path: str) -> np.ndarray:
    """All rows of a file: float32 (rows, dim). Raises RequestError as `open_vectors` does, and for values that are not finite."""
    with open_vectors(path) as reader:
        return reader.read()


def map_vectors(path: str | Path) -> np.ndarray:
    """All rows of a file, (rows, dim), mapped from disk as they are stored. Raises RequestError as `open_vectors` does."""
    with _opened(str(path)) as stream:
        return VectorReader(stream, str(path)).array


def write_header(stream: BinaryIO, rows: int, dim: int) -> None:
    """Begin a .npy of float32 numbers, little-endian, in rows."""
    npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})


def as_bytes(vectors: np.ndarray) -> memoryview:
    """Rows as a .npy stores them after its header."""
    return np.ascontiguousarray(vectors, dtype="<f4").data.cast("B") if vectors.size else memoryview(b"")


@contextmanager
def write_vectors(path: str, dim: int) -> Iterator[Callable[[np.ndarray], object]]:
    """Yield a function that appends rows (n, dim) to a float32 .npy at `path`, which appears when the block ends without an error.

    NumPy pads the header so that the row count can be filled in at the end. `-` is stdout, spooled through a temporary file.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(tempfile.TemporaryFile() if path == "-" else replacing(path))
        write_header(stream, 0, dim)
        start = stream.tell()
        yield lambda vectors: stream.write(as_bytes(vectors))
        rows = (stream.seek(0, os.SEEK_END) - start) // (4 * dim)
        stream.seek(0)
        write_header(stream, rows, dim)
        if path == "-":
            stream.seek(0)
            shutil.copyfileobj(stream, streams.stdout())
            streams.stdout().flush()
