"""JSON objects with vectors, one per line, or OpenAI's answers: of /v1/embeddings, or of a batch, one per line."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.io.stores.batch import BATCH_ROWS, ID_NAMES, Batch, Columns, Format, Store, id_of, no_vector, pick, stacked, text_of

_KEY = "embedding"


class _Item(NamedTuple):
    """An object with a vector. id: None if it has none; where: its line, for messages."""

    values: dict[str, Any]
    id: str | None
    where: str


def _is_mine(path: Path, begin: bytes) -> bool:
    return begin.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and b"\0" not in begin


@contextmanager
def _open(path: Path, columns: Columns) -> Iterator[Store]:
    yield Store(_batches(path, columns))


def _batches(path: Path, columns: Columns) -> Iterator[Batch]:
    name, items = str(path), _items(path)
    first, key, with_ids = 0, None, False
    while some := list(islice(items, BATCH_ROWS)):
        if key is None:
            values = some[0].values
            usable = [it for it, value in values.items() if it in (columns.vectors, _KEY) or _is_vector(value)]
            key = pick(name, columns.vectors, usable, list(values), _KEY)
            with_ids = some[0].id is not None
        rows = [_vector(it, key, name, first + number) for number, it in enumerate(some)]
        texts = None
        if columns.texts is not None:
            texts = [text_of(it.values.get(columns.texts), name, row) for row, it in enumerate(some, first)]
        yield Batch(stacked(rows, name, first), [it.id or "" for it in some] if with_ids else None, texts)
        first += len(some)


def _items(path: Path) -> Iterator[_Item]:
    """The objects of all lines, or of the one document that the file is."""
    with open(path, encoding="utf-8-sig", newline="\n") as stream:
        number, begun = 1, False
        while text := stream.readline():
            if text.strip():
                where = f"{path}, line {number}"
                try:
                    text, document = (text, json.loads(text)) if begun else _first(text, stream)
                except json.JSONDecodeError as error:
                    raise RequestError(f"{where}: not JSON: {one_line(error)}") from None
                begun = True
                yield from _of_document(document, where)
            number += text.count("\n")


def _first(text: str, stream: TextIO) -> tuple[str, Any]:
    """The text of the document that begins with this line, and what it holds. Raises JSONDecodeError.

    While only its end is missing, as much again is read: in a file of lines, a damaged one shows at once.
    """
    while True:
        try:
            return text, json.loads(text)
        except json.JSONDecodeError as error:
            if error.pos < len(text.rstrip()) or not (more := stream.readlines(len(text))):
                raise
        text += "".join(more)


def _of_document(document: Any, where: str) -> Iterator[_Item]:
    if not isinstance(document, dict):
        raise RequestError(f"{where}: expected a JSON object, got {type(document).__name__}")
    if "custom_id" in document and "response" in document:
        name, response = id_of(document["custom_id"]), document["response"]
        body = response.get("body") if isinstance(response, dict) else None
        data = _data(body)
        if data is None:
            raise RequestError(f"{where}: request '{name}' of the batch failed, so it has no vectors; leave its line out")
        for number, values in enumerate(data):
            yield _Item(values, name if len(data) == 1 else f"{name}-{values.get('index', number)}", where)
    elif document.get("object") == "list" and (data := _data(document)) is not None:
        for values in data:
            yield _Item(values, None, where)
    else:
        yield _Item(document, next((id_of(document[key]) for key in ID_NAMES if key in document), None), where)


def _data(answer: Any) -> list[dict[str, Any]] | None:
    """The objects of an answer, in the order of their texts; None if there are none."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(it, dict) for it in data):
        return None
    return sorted(data, key=lambda it: it["index"]) if all(isinstance(it.get("index"), int) for it in data) else data


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(it) in (int, float) for it in value)


def _vector(item: _Item, key: str, name: str, row: int) -> np.ndarray:
    """float32 (dim,), from numbers, or from base64 of little-endian float32. Raises RequestError, naming the line or row."""
    if key not in item.values:
        raise RequestError(f"{item.where}: lacks the key '{key}'")
    value = item.values[key]
    if value is None:
        raise no_vector(name, row)
    try:
        array = np.frombuffer(base64.b64decode(value, validate=True), "<f4") if isinstance(value, str) else np.asarray(value)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{item.where}: '{key}' is no vector: {one_line(error)}") from None
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not len(array):
        raise RequestError(f"{item.where}: '{key}' is no vector; expected a list of numbers, or base64 of float32")
    with np.errstate(over="ignore"):  # becomes infinite, and is reported as that
        return array.astype(np.float32)


JSON_LINES = Format("JSON lines", "json", _is_mine, _open)
