"""Folders of Chroma, by its own library, which works on a copy: it writes into a folder as soon as it opens it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.io.stores.batch import BATCH_ROWS, Batch, Columns, Format, Store, no_vector, pick, pick_texts, text_of

_DATABASE = "chroma.sqlite3"
_TEXTS = "document"


@contextmanager
def _open(path: Path, columns: Columns) -> Iterator[Store]:
    import chromadb

    name = str(path)
    texts = pick_texts(name, columns.texts, [_TEXTS])
    with tempfile.TemporaryDirectory(prefix="v2t-chroma-") as copy:
        try:
            _copy(path, Path(copy))
        except OSError as error:
            raise V2TError(f"{name}: cannot be copied to {tempfile.gettempdir()}: {error}; TMPDIR names another folder") from None
        client = chromadb.PersistentClient(copy, settings=chromadb.Settings(anonymized_telemetry=False))
        names = sorted(collection.name for collection in client.list_collections())
        if not names:
            raise RequestError(f"{name}: is a Chroma folder without a collection")
        # Without the function that embedded the texts: that may need a model, and reading needs none.
        collection = client.get_collection(pick(name, columns.vectors, names, names), embedding_function=None)
        yield Store(_batches(collection, name, texts is not None), collection.count())


def _copy(path: Path, copy: Path) -> None:
    """Copy a folder. The database by SQLite, which gives one state of it, even while another program writes. Raises OSError."""
    shutil.copytree(path, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(f"{_DATABASE}*"))
    source = f"{(path / _DATABASE).absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(source, uri=True)) as stored, closing(sqlite3.connect(copy / _DATABASE)) as copied:
        stored.execute("begin")
        stored.execute("select count(*) from sqlite_master").fetchone()  # fails if it is locked; `backup` would wait forever
        stored.backup(copied)


def _batches(collection: object, name: str, with_texts: bool) -> Iterator[Batch]:
    """float32, which Chroma stores and gives as float64."""
    from chromadb import Collection

    assert isinstance(collection, Collection)
    for first in range(0, collection.count(), BATCH_ROWS):
        found = collection.get(limit=BATCH_ROWS, offset=first, include=["embeddings", "documents"] if with_texts else ["embeddings"])
        vectors = found["embeddings"]
        if vectors is None or len(vectors) != len(found["ids"]):
            raise no_vector(name, first)
        texts = [text_of(text, name, row) for row, text in enumerate(found["documents"] or [], first)] if with_texts else None
        yield Batch(np.asarray(vectors, dtype=np.float32), found["ids"], texts)


CHROMA = Format("a Chroma folder", "chromadb", lambda path, begin: (path / _DATABASE).is_file(), _open)
