"""A store, of whatever format, as a temporary .npy: from then on it is read like any other vectors."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from v2t_cli.core.console import Track
from v2t_cli.io.npy import write_header
from v2t_cli.io.stores.batch import Columns, Format, mixed, ragged, refusing
from v2t_cli.io.strings import Strings
from v2t_cli.io.temporary import copying, temporary_file


class Copy(NamedTuple):
    """vectors: a .npy, of the type that the store has, but bool as uint8, and wider integers as float32; of shape (0, 0) where no row
    tells the width.
    """

    vectors: BinaryIO
    ids: Strings | None
    texts: Strings | None


def check_store(path: Path, kind: Format, columns: Columns) -> None:
    """Raise RequestError if the library is missing or a file does not open, for example for lack of a column. Reads no rows."""
    kind.check_library(str(path))
    if path.is_file():  # a folder may have to be copied
        with refusing(str(path), kind.what), kind.open(path, columns):
            pass


def copy_store(path: Path, kind: Format, columns: Columns, track: Track, stack: ExitStack) -> Copy:
    """Copy a store to temporary files, which nobody else sees, a batch at a time: memory does not grow with its rows.

    stack: closes the files, and so deletes them. Raises RequestError for what the store cannot give, V2TError if the copy
    does not fit.
    """
    name = str(path)
    kind.check_library(name)
    out = temporary_file(stack)
    ids = texts = None
    rows, dim, dtype = 0, 0, np.dtype(np.float32)
    stored = dtype
    with refusing(name, kind.what), kind.open(path, columns) as store, track("reading vectors", store.rows) as advance:
        for number, (vectors, some_ids, some_texts) in enumerate(store.batches):
            with copying(name):
                vectors = vectors.view(np.uint8) if vectors.dtype.kind == "b" else vectors
                if not number:
                    dim, stored = vectors.shape[1], vectors.dtype
                    dtype = np.dtype(np.float32) if stored.kind in "iu" and stored.itemsize > 1 else stored
                    write_header(out, 0, dim, dtype)
                    ids, texts = (None if some is None else Strings(stack) for some in (some_ids, some_texts))
                if vectors.shape[1] != dim:
                    raise ragged(name, rows, vectors.shape[1], dim)
                wider = vectors.dtype.itemsize > dtype.itemsize and dtype.itemsize < 4  # what float32 holds is enough
                if vectors.dtype.kind != stored.kind or wider:
                    raise mixed(name, rows, vectors.dtype, stored)
                with np.errstate(over="ignore"):  # becomes infinite, and is reported as that
                    some = np.ascontiguousarray(vectors, dtype)
                out.write(some.data.cast("B") if some.size else b"")
                for strings, new in ((ids, some_ids), (texts, some_texts)):
                    if strings is not None:
                        strings.extend(new or [])
                rows += len(vectors)
                advance(len(vectors))
    with copying(name):
        out.seek(0)
        write_header(out, rows, dim, dtype)
        out.seek(0)
        for written in filter(None, (ids, texts)):
            written.flush()
    return Copy(out, ids, texts)
