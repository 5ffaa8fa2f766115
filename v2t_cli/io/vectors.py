"""Vector files: .npy of shape (rows, dim), read and written as streams, so that memory does not grow with them."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.io.atomic import replacing

CHUNK_ROWS = 4096


CHUNK_NUMBERS = 2**24  # of wide vectors, fewer rows


MAX_NUMBERS = 2**48


class VectorReader:
    """The rows of a .npy, in order, as float32. `rows`, `dim` and the stored `dtype` are known before anything is read."""

    def __init__(self, stream: BinaryIO, name: str):
        self.name = name
        self._stream = stream
        shape, fortran, self.dtype = self._header()
        if len(shape) == 1:  # one vector, as np.save writes a centroid
            shape = (1, *shape)
        if self.dtype.hasobject:
            raise RequestError(f"{name}: holds Python objects, which need pickle and are never loaded; save it as float32")
        if len(shape) != 2 or self.dtype.kind != "f" or shape[0] < 0 or shape[1] < 1:
            found = f"{self.dtype} of shape {shape}"
            raise RequestError(f"{name}: holds {found}, expected floating-point numbers of shape (rows, dim)")
        self.rows, self.dim = map(int, shape)  # a damaged header may say True
        if self.rows * self.dim > MAX_NUMBERS:
            raise RequestError(f"{name}: promises {self.rows} rows of {self.dim} numbers, more than any file holds; the header is damaged")
        self._next = 0  # the row that the stream is at
        self._columns = None
        if fortran:  # stored column by column: a row is complete only when all is read
            self._columns = np.frombuffer(self._read(self.rows * self.dim, 0), self.dtype).reshape(self.dim, self.rows).T

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype]:
        try:
            version = npy.read_magic(self._stream)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"format version {version} is for structured arrays")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of headers that Python 2 wrote
                return read(self._stream)
        except Exception as error:  # a damaged header fails in many ways, in NumPy's parser and in Python's
            raise RequestError(f"{self.name}: not a .npy file of vectors: {one_line(error)}") from None

    def _read(self, numbers: int, row: int) -> bytes:
        wanted = numbers * self.dtype.itemsize
        data = self._stream.read(wanted)
        if len(data) < wanted:
            row += len(data) // (self.dim * self.dtype.itemsize)
            raise RequestError(f"{self.name}: ends after {row} of {self.rows} rows; the file is truncated")
        return data

    def goes_on(self) -> bool:
        """Whether there is something behind the last row of a file."""
        if self._columns is None:
            self._seek(self.rows)
        return bool(self._stream.read(1))

    def _seek(self, row: int) -> None:
        if row != self._next:
            self._stream.seek((row - self._next) * self.dim * self.dtype.itemsize, os.SEEK_CUR)
            self._next = row

    def fitting(self, size: int) -> int:
        """At most so many rows, and fewer of wide vectors, so that a block of them stays small."""
        return max(1, min(size, CHUNK_NUMBERS // self.dim))

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield all rows as float32 arrays of shape (rows, dim), many at a time. Raises as `blocks` does."""
        for _, vectors in self.blocks(grid(self.rows, self.fitting(CHUNK_ROWS))):
            yield vectors

    def blocks(self, ranges: Iterable[range]) -> Iterator[Block]:
        """Yield the rows of these numbers, ascending. A stream can be read only once, and without gaps.

        Raises RequestError, naming the row, for a truncated file and for values that are not finite.
        """
        for rows in ranges:
            if self._columns is not None:
                vectors = self._columns[rows.start : rows.stop]
            else:
                self._seek(rows.start)
                vectors = np.frombuffer(self._read(len(rows) * self.dim, rows.start), self.dtype).reshape(len(rows), self.dim)
                self._next = rows.stop
            with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, and is reported as that
                vectors = np.array(vectors, dtype=np.float32, order="C")
            bad = rows.start + np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            if len(bad):
                more = f" and {len(bad) - 5} more of these {len(rows)} rows" if len(bad) > 5 else ""
                numbers = f"row {bad[0]} holds" if len(bad) == 1 else f"rows {', '.join(map(str, bad[:5]))}{more} hold"
                raise RequestError(f"{self.name}: {numbers} NaN or infinity in float32")
            yield Block(rows.start, vectors)


@contextmanager
def open_vectors(path: str, check: bool = True) -> Iterator[VectorReader]:
    """Open a .npy file, or stdin for `-`. A file is checked to its end first, so that work does not stop in the middle.

    check: to be left out where `digest` went before. Raises RequestError for anything but a whole .npy of finite numbers;
    pickled arrays are never loaded.
    """
    if path == "-":
        if sys.stdin.isatty():
            raise RequestError("stdin: is a terminal, expected a .npy; for example: v2t embed texts.txt -o - | v2t decode -")
        yield _told(VectorReader(sys.stdin.buffer, "stdin"))
        return
    with _open(path) as stream:
        if check and stream.seekable():
            for _ in _digests(VectorReader(stream, path), ALONE):
                pass
            stream.seek(0)
        yield _told(VectorReader(stream, path))


def digest(path: str, processes: Processes = ALONE) -> str:
    """A hash (hex) of the float32 values of a file, which several processes read together.

    Raises RequestError as `open_vectors` does.
    """

    def mine() -> list[bytes]:
        with _open(path) as stream:
            return list(_digests(VectorReader(stream, path), processes))

    digests: list[bytes] = processes.together(mine)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _digests(reader: VectorReader, processes: Processes) -> Iterator[bytes]:
    """SHA-256 of each chunk of this process's share of a file, which must end where they end."""
    for _, vectors in reader.blocks(processes.share(grid(reader.rows, reader.fitting(CHUNK_ROWS)))):
        yield hashlib.sha256(vectors.data).digest()
    if reader.goes_on():
        raise RequestError(f"{reader.name}: goes on behind its {reader.rows} rows; damaged, or several arrays in one file")


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    try:
        stream = open(path, "rb")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file of vectors; v2t embed makes one from texts") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    with stream:
        if stream.peek(2).startswith(b"PK"):
            raise RequestError(f"{path}: is an archive (.npz), expected a .npy; np.save writes one array of it")
        yield stream


def _told(reader: VectorReader) -> VectorReader:
    if reader.dtype.itemsize != 4:
        log.info(f"{reader.name}: {reader.dtype} numbers are read as float32")
    return reader


def load_vectors(path: str) -> np.ndarray:
    """All rows as one float32 array of shape (rows, dim). Raises RequestError as `open_vectors` does."""
    with open_vectors(path) as reader:
        out = np.empty((reader.rows, reader.dim), dtype=np.float32)
        start = 0
        for chunk in reader.chunks():
            out[start : start + len(chunk)] = chunk
            start += len(chunk)
    return out


class VectorWriter:
    """Writes rows behind a header whose row count is filled in by `close_header`.

    NumPy pads the header so that the first axis can grow in place: the header with the final count has the same length.
    """

    def __init__(self, stream: BinaryIO, dim: int):
        self.rows = 0
        self.dim = dim
        self._stream = stream
        self._write_header()

    def _write_header(self) -> None:
        npy.write_array_header_1_0(self._stream, {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.dim)})

    def write(self, vectors: np.ndarray) -> None:
        self._stream.write(np.ascontiguousarray(vectors, dtype="<f4").data)
        self.rows += len(vectors)

    def close_header(self) -> None:
        self._stream.seek(0)
        self._write_header()


@contextmanager
def write_vectors(path: str, dim: int) -> Iterator[VectorWriter]:
    """Open a writer for a float32 .npy at `path`, which appears when the block ends well; `-` is stdout.

    stdout is spooled through a temporary file, because the header in front needs the number of rows.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(tempfile.TemporaryFile() if path == "-" else replacing(path))
        writer = VectorWriter(stream, dim)
        yield writer
        writer.close_header()
        if path == "-":
            stream.seek(0)
            shutil.copyfileobj(stream, sys.stdout.buffer)
            sys.stdout.buffer.flush()


class PartialVectors:
    """A .npy of known shape that is filled over several runs: what an interrupted run wrote is kept."""

    def __init__(self, path: Path, rows: int, dim: int):
        self.path, self.rows, self.dim = path, rows, dim
        self._part = path.with_suffix(".part")

    def done(self) -> int:
        """Rows that are already on disk."""
        size = self._part.stat().st_size if self._part.exists() else 0
        return min(size // (4 * self.dim), self.rows)

    def discard(self) -> None:
        """Drop what there is, finished or not."""
        for path in (self.path, self._part):
            path.unlink(missing_ok=True)

    def append(self, chunks: Iterator[np.ndarray]) -> None:
        """Write float32 chunks behind the rows that are there; give the file its final form once all rows are."""
        with open(self._part, "ab") as stream:
            stream.truncate(self.done() * 4 * self.dim)  # half a row, if the power went
            for chunk in chunks:
                stream.write(np.ascontiguousarray(chunk, dtype="<f4").data)
        if self.done() == self.rows:
            with replacing(self.path) as out, open(self._part, "rb") as stream:
                npy.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.dim)})
                shutil.copyfileobj(stream, out)
            os.unlink(self._part)


class Block(NamedTuple):
    """Vectors, float32 (rows, dim), and the number of the first."""

    first: int
    vectors: np.ndarray


def grid(rows: int, size: int) -> list[range]:
    """The row numbers 0 … rows-1, `size` at a time."""
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]
