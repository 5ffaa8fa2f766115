"""Vectors in files: .npy of shape (rows, dim), mapped from disk by NumPy, so that memory does not grow with them, and copies of stores."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from v2t_cli.core import streams
from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.io.atomic import replacing
from v2t_cli.io.foreign import SNIFFED, refuse_foreign
from v2t_cli.io.npy import MAGIC, Header, read_header, write_header
from v2t_cli.io.stores.batch import UNNAMED, Columns, Format, refuse_columns
from v2t_cli.io.stores.copy import check_store, copy_store
from v2t_cli.io.stores.formats import BEGIN, find_format
from v2t_cli.io.strings import Strings
from v2t_cli.io.temporary import copying, temporary_file

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
    """The rows of a .npy as float32.

    array: (rows, dim), as they are stored, mapped from disk: floating-point numbers, int8 or uint8 (also for bool). dim: 0 where there
    are no rows, and nothing tells their width. ids, texts: of the rows, where a store has them.
    """

    def __init__(self, stream: BinaryIO, name: str, ids: Strings | None = None, texts: Strings | None = None):
        """stream: a file on disk, at its beginning. Raises RequestError unless it is one whole array of vectors."""
        self.name, self._stream, self.ids, self.texts = name, stream, ids, texts
        header = _header(stream, name)
        _, fortran, dtype = header
        if dtype.hasobject:
            raise RequestError(f"{name}: holds Python objects, which need pickle and are never loaded; save it as float32")
        table = header.table
        if len(table) != 2 or not header.is_readable or min(table) < 0 or not min(table[0], 1) <= table[1] <= MAX_DIM:
            raise header.refused(name)
        self.rows, self.dim = map(int, table)  # a damaged header may say True
        start, row_bytes = stream.tell(), self.dim * dtype.itemsize
        self._end = start + self.rows * row_bytes
        self._check_size((os.fstat(stream.fileno()).st_size - start) // max(1, row_bytes))
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
        return max(1, min(size, CHUNK_NUMBERS // max(1, self.dim)))

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
def open_vectors(path: str, columns: Columns = UNNAMED, track: Track = silent) -> Iterator[VectorReader]:
    """Open a .npy file, a store, or `-` for a .npy from stdin. What is no .npy on disk is copied to a temporary file first.

    columns: those of a store. track: shows how far a store is copied. Each of several processes makes its own copy.

    Raises RequestError for anything but vectors in one of the formats that are read, V2TError if a copy does not fit. Pickled
    arrays are never loaded. The values are checked as they are read: `digest` reads all of them.
    """
    with ExitStack() as stack:
        name = "stdin" if path == "-" else path
        stream, kind = (_stdin(), None) if path == "-" else _opened(path, stack)
        if kind is not None:
            copy = copy_store(Path(path), kind, columns, track, stack)
            reader = VectorReader(copy.vectors, name, copy.ids, copy.texts)
        else:
            assert stream is not None  # only a folder has none, and only a store is a folder
            refuse_columns(name, "a .npy", columns)
            reader = VectorReader(stream if path != "-" and os.path.isfile(path) else _copied(stream, name, stack), name)
        if reader.array.dtype.kind == "f" and reader.array.dtype.itemsize != 4:
            log.info(f"{name}: {reader.array.dtype} numbers are read as float32")
        yield reader


def check_vectors(path: str, columns: Columns = UNNAMED) -> None:
    """Raise RequestError, as `open_vectors` does, for what shows before any row is read. path: a file or a folder."""
    with ExitStack() as stack:
        stream, kind = _opened(path, stack)
        if kind is not None:
            check_store(Path(path), kind, columns)
        elif stream is not None:
            refuse_columns(path, "a .npy", columns)
            VectorReader(stream, path)


def _stdin() -> BinaryIO:
    if streams.stdin().isatty():
        raise RequestError("stdin: is a terminal; expected a .npy, for example: v2t embed texts.txt -o - | v2t decode -")
    return streams.stdin()


def _opened(path: str, stack: ExitStack) -> tuple[BinaryIO | None, Format | None]:
    """The stream of a file, at its beginning, and the format of a store. A folder has no stream, a .npy no format."""
    try:
        if os.path.isdir(path):
            if kind := find_format(Path(path), None):
                return None, kind
            raise RequestError(f"{path}: is a folder without vectors; expected one of Chroma, of datasets, or of Parquet files")
        stream = stack.enter_context(open(path, "rb"))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such vector file; v2t embed creates one") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    if not os.path.isfile(path):  # a pipe can be read only once
        return stream, None
    begin = stream.read(BEGIN)
    stream.seek(0)
    return stream, None if begin.startswith(MAGIC) else find_format(Path(path), begin)


def _copied(stream: BinaryIO, name: str, stack: ExitStack) -> BinaryIO:
    """A temporary file, which nobody else sees, with what the stream holds."""
    begin = stream.read(SNIFFED)  # before more is copied: the stream may be endless
    if not begin.startswith(MAGIC):
        if kind := find_format(Path(name), begin):
            raise RequestError(f"{name}: is {kind.what}; a stream can only be a .npy: save it to a file, and name that")
        _header(io.BytesIO(begin), name)
    temporary = temporary_file(stack)
    with copying(name):
        temporary.write(begin)
        shutil.copyfileobj(stream, temporary)
        temporary.seek(0)
    return temporary


def _header(stream: BinaryIO, name: str) -> Header:
    """Raises RequestError for what is not a .npy."""
    refuse_foreign(stream.read(SNIFFED), name)
    stream.seek(0)
    try:
        return read_header(stream)
    except Exception as error:  # a damaged header fails in many ways, in NumPy's parser and in Python's
        raise RequestError(f"{name}: not a .npy file of vectors: {one_line(error)}") from None


def map_vectors(path: str | Path) -> np.ndarray:
    """All rows of a .npy, (rows, dim), mapped from disk as they are stored. Raises RequestError for any other file."""
    with open(path, "rb") as stream:
        return VectorReader(stream, str(path)).array


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
