"""What PostgreSQL's COPY writes as text, with a column of pgvector: vector, halfvec or bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from v2t_cli.core.errors import RequestError
from v2t_cli.io.stores.batch import BATCH_ROWS, Batch, Columns, Format, Store, id_of, no_vector, stacked, text_of

_NULL, _END = rb"\N", rb"\."
_VECTOR = re.compile(rb"\[-?[0-9][-+.,0-9eE]*\]?|[01]{8,}")  # a whole field, or its beginning
_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _is_mine(path: Path, begin: bytes) -> bool:
    line = begin.partition(b"\n")[0].removesuffix(b"\r")
    fields = line.split(b"\t")
    return b"\0" not in line and (any(map(_VECTOR.fullmatch, fields)) or (len(fields) > 1 and _NULL in fields))


@contextmanager
def _open(path: Path, columns: Columns) -> Iterator[Store]:
    yield Store(_batches(path, columns))


def _batches(path: Path, columns: Columns) -> Iterator[Batch]:
    name, first = str(path), 0
    with open(path, "rb") as stream:
        rows = _rows(stream, name)
        while some := list(islice(rows, BATCH_ROWS)):
            if not first:
                width = len(some[0])
                place = _place(columns.vectors, width, name, "--column") if columns.vectors is not None else _likely(some[0])
                text = _place(columns.texts, width, name, "--text-column") if columns.texts is not None else None
                with_ids = width > 1 and place != 0
            vectors = [_vector(fields[place], name, row) for row, fields in enumerate(some, first)]
            texts = None if text is None else [text_of(_text(fields[text], name), name, row) for row, fields in enumerate(some, first)]
            ids = [id_of(_text(fields[0], name)) for fields in some] if with_ids else None
            yield Batch(stacked(vectors, name, first), ids, texts)
            first += len(some)


def _rows(stream: Iterator[bytes], name: str) -> Iterator[list[bytes]]:
    """The fields of each line, as they are escaped. Raises RequestError for lines of another number of fields."""
    width = 0
    for row, line in enumerate(stream):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if line == _END:
            return
        fields = line.split(b"\t")
        width = width or len(fields)
        if len(fields) != width:
            raise RequestError(f"{name}: row {row} has {len(fields)} columns, the rows before it have {width}")
        yield fields


def _place(asked: str, width: int, name: str, option: str) -> int:
    if not (asked.isdecimal() and 1 <= int(asked) <= width):
        raise RequestError(f"{name}: {option} {asked}: there is no such column; they are counted from 1 to {width}")
    return int(asked) - 1


def _likely(fields: list[bytes]) -> int:
    """The place of the only field that looks like a vector, else of the last."""
    places = [place for place, field in enumerate(fields) if _VECTOR.fullmatch(field)]
    return places[0] if len(places) == 1 else len(fields) - 1


def _vector(field: bytes, name: str, row: int) -> np.ndarray:
    """`[1,2,3]` as float32 (dim,), 0101 as uint8 of zeros and ones. Raises RequestError, naming the row."""
    if field == _NULL:
        raise no_vector(name, row)
    if field and not field.strip(b"01"):
        return np.frombuffer(field, dtype=np.uint8) - ord("0")
    try:
        numbers = np.asarray(json.loads(field)) if field.startswith(b"[") else np.empty(0)
    except ValueError:
        numbers = np.empty(0)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iuf":
        found = field[:30].decode(errors="replace")
        raise RequestError(f"{name}: row {row} has no vector such as [0.1,0.2] in this column: {found}; --column names another, from 1")
    with np.errstate(over="ignore"):  # becomes infinite, and is reported as that
        return numbers.astype(np.float32)


def _text(field: bytes, name: str) -> str | None:
    """A field without its escapes; None for NULL."""
    if field == _NULL:
        return None
    try:
        return _ESCAPE.sub(_unescaped, field).decode()
    except UnicodeDecodeError:
        raise RequestError(f"{name}: not UTF-8; in psql: SET client_encoding TO 'UTF8' before COPY") from None


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if code[:1] == b"x" and len(code) > 1:
        return bytes([int(code[1:], 16)])
    return bytes([int(code, 8) & 255]) if code[:1] in b"01234567" else _LETTERS.get(code, code)


PGVECTOR = Format("text of PostgreSQL's COPY", "json", _is_mine, _open)
