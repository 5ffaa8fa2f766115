"""What the formats of vector stores have in common: batches of rows, the choice of columns, and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line

BATCH_ROWS = 2048
ID_NAMES = ("id", "_id", "ids", "uuid")  # of columns that hold ids
MAX_TEXT = 2**16  # bytes, as of a line of a text file: an encoder's memory grows with its longest text
NAMED = 10  # names that a message lists
PACKAGES = {"faiss": "faiss-cpu"}  # by the name of the module, where they differ


class Columns(NamedTuple):
    """Which columns to read; None for what the user left open."""

    vectors: str | None = None
    texts: str | None = None


UNNAMED = Columns()


class Batch(NamedTuple):
    """Some rows of a store: vectors (rows, dim), of the type that is stored; ids and texts, where there are any."""

    vectors: np.ndarray
    ids: list[str] | None = None
    texts: list[str] | None = None


class Store(NamedTuple):
    """An open store. rows: how many it has, None if only reading tells."""

    batches: Iterator[Batch]
    rows: int | None = None


class Format(NamedTuple):
    """A kind of store.

    what: its name. library: the module that reads it. is_mine: whether a path and the first bytes of its file, none for a folder,
    are of this kind. open: opens a store; it may raise any error of the library.
    """

    what: str
    library: str
    is_mine: Callable[[Path, bytes], bool]
    open: Callable[[Path, Columns], AbstractContextManager[Store]]

    def check_library(self, name: str) -> None:
        """Raise RequestError if the library is missing."""
        try:
            import_module(self.library)
        except ImportError:
            package = PACKAGES.get(self.library, self.library)
            raise RequestError(f"{name}: is {self.what}, which needs {package}; pip install 'v2t[stores]'") from None


@contextmanager
def refusing(name: str, what: str) -> Iterator[None]:
    """Turn any error of a library into a RequestError: damaged files fail in many ways."""
    try:
        yield
    except (V2TError, MemoryError):
        raise
    except Exception as error:
        raise RequestError(f"{name}: cannot be read as {what}: {one_line(error)}") from None


def pick(
    name: str, asked: str | None, usable: Sequence[str], names: Sequence[str], default: str | None = None, unlikely: Sequence[str] = ()
) -> str:
    """The column of the vectors: the one asked for, else the default if it is usable, else the only usable one.

    usable: the columns that can be vectors; unlikely: those that are read only if they are asked for; names: of all columns. Raises
    RequestError, with the columns that would do.
    """
    if asked is not None and asked not in (*usable, *unlikely):
        why = "holds no vectors" if asked in names else "does not exist"
        raise RequestError(f"{name}: column '{asked}' {why}; {_would_do([*usable, *unlikely])}")
    if asked is None and default not in usable and len(usable) != 1:
        if usable:
            raise RequestError(f"{name}: several columns can be the vectors: {_listed(usable)}; --column names one")
        if unlikely:
            raise RequestError(f"{name}: no column is likely to hold vectors; if one does, --column names it: {_listed(unlikely)}")
        raise RequestError(f"{name}: no column holds vectors; there are: {_listed(names) or 'none'}")
    return asked or (default if default in usable else usable[0])  # type: ignore[return-value]


def pick_texts(name: str, asked: str | None, usable: Sequence[str]) -> str | None:
    """The column of the texts, if one is asked for. Raises RequestError, with the columns that would do."""
    if asked is not None and asked not in usable:
        raise RequestError(f"{name}: text column '{asked}' does not exist or holds no texts; {_would_do(usable)}")
    return asked


def _would_do(usable: Sequence[str]) -> str:
    return f"there are: {_listed(usable)}" if usable else "no column does"


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def refuse_columns(name: str, what: str, columns: Columns) -> None:
    """Raise RequestError if columns are asked of a format that has none."""
    for option, asked in (("--column", columns.vectors), ("--text-column", columns.texts)):
        if asked is not None:
            raise RequestError(f"{name}: is {what}, which has no columns; leave out {option}")


def text_of(value: Any, name: str, row: int) -> str:
    """A text of a store. Raises RequestError, naming the row, for what is none."""
    if not isinstance(value, str):
        raise RequestError(f"{name}: row {row} has no text: {'NULL' if value is None else type(value).__name__}")
    if len(value.encode("utf-8", "replace")) > MAX_TEXT:
        raise RequestError(f"{name}: the text of row {row} has more than {MAX_TEXT:,} bytes; split it: one sentence per row")
    return value


def id_of(value: Any) -> str:
    """An id of a store, whatever its type; nothing for NULL."""
    return "" if value is None else str(value)


def no_vector(name: str, row: int) -> RequestError:
    return RequestError(f"{name}: row {row} has no vector: NULL; leave such rows out")


def check_even(lengths: np.ndarray, name: str, first: int) -> None:
    """Raise RequestError, naming the row, unless all vectors are equally long. lengths: int (rows,); first: the number of the first."""
    if len(odd := np.flatnonzero(lengths != lengths[:1])):
        raise ragged(name, first + int(odd[0]), int(lengths[odd[0]]), int(lengths[0]))


def ragged(name: str, row: int, length: int, expected: int) -> RequestError:
    return RequestError(f"{name}: row {row} has {length} numbers, the rows before it have {expected}; all must be equally long")


def mixed(name: str, row: int, found: np.dtype, expected: np.dtype) -> RequestError:
    return RequestError(f"{name}: row {row} holds {found}, the rows before it {expected}; save all as one type, such as float32")


def stacked(rows: list[np.ndarray], name: str, first: int) -> np.ndarray:
    """Vectors (dim,) as one array. Raises RequestError, naming the row, unless all have one type and are equally long."""
    for row, vector in enumerate(rows, first):
        if vector.dtype != rows[0].dtype:
            raise mixed(name, row, vector.dtype, rows[0].dtype)
    check_even(np.array([len(row) for row in rows]), name, first)
    return np.stack(rows)
