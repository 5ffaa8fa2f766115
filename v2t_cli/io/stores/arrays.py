"""Archives of arrays: .npz by NumPy's functions, .safetensors by its library."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from v2t_cli.core.errors import RequestError
from v2t_cli.io.npy import Header, read_header
from v2t_cli.io.stores.batch import BATCH_ROWS, ID_NAMES, Batch, Columns, Format, Store, id_of, pick, pick_texts, text_of

_NUMBERS = ("F16", "BF16", "F32", "F64", "I8", "U8", "BOOL")  # the types of safetensors that can be vectors
_LARGEST_HEADER = 100 * 2**20  # bytes, of a safetensors file


def _is_npz(path: Path, begin: bytes) -> bool:
    """By the names in the archive: other formats are zip archives too. Of a damaged one, only the first can be read."""
    if not begin.startswith(b"PK\x03\x04"):
        return False
    if path.is_file():  # of a stream, there is only the beginning
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    return begin[30 : 30 + int.from_bytes(begin[26:28], "little")].endswith(b".npy")


@contextmanager
def _open_npz(path: Path, columns: Columns) -> Iterator[Store]:
    """One array after the other would be read whole by numpy.load: here the rows come as the archive unpacks them."""
    name = str(path)
    with zipfile.ZipFile(path) as archive:
        headers: dict[str, Header] = {}
        for member in archive.namelist():
            with suppress(ValueError), archive.open(member) as stream:  # what is no array of numbers or strings is left out
                headers[member.removesuffix(".npy")] = read_header(stream)
        if pickled := [key for key, it in headers.items() if it.dtype.hasobject and key in (columns.vectors, columns.texts)]:
            raise RequestError(f"{name}: array '{pickled[0]}' holds Python objects, which need pickle and are never loaded")
        tables = {key: it for key, it in headers.items() if len(it.shape) == 2 and it.dtype.kind in "fiu"}
        usable = [key for key, it in tables.items() if it.is_readable]
        single = [key for key, it in headers.items() if len(it.shape) == 1 and it.shape[0] and it.is_readable]
        asked = columns.vectors or (next(iter(tables), None) if not usable else None)
        if asked in tables and asked not in usable:
            raise tables[asked].refused(f"{name}, array '{asked}'")
        vectors = _pick(name, columns.vectors, usable, single, [member.removesuffix(".npy") for member in archive.namelist()])
        rows = headers[vectors].table[0]
        listed = [key for key, it in headers.items() if it.shape == (rows,) and it.dtype.kind in "Uiu"]
        texts = pick_texts(name, columns.texts, [key for key in listed if headers[key].dtype.kind == "U"])
        ids = next((key for key in ID_NAMES if key in listed), None)

        def strings(key: str | None) -> Any:
            if key is None:
                return None
            with archive.open(f"{key}.npy") as stream:
                return npy.read_array(stream, allow_pickle=False)

        with archive.open(f"{vectors}.npy") as stream:
            yield Store(_npz_batches(stream, name, strings(ids), strings(texts)), rows)


def _npz_batches(stream: Any, name: str, ids: Any, texts: Any) -> Iterator[Batch]:
    header = read_header(stream)
    (rows, dim), (_, fortran, dtype) = header.table, header
    whole = np.frombuffer(stream.read(), dtype).reshape((rows, dim), order="F") if fortran else None  # its rows are not together
    for first in range(0, max(rows, 1), BATCH_ROWS):  # also without rows, which tells the width
        count = min(BATCH_ROWS, rows - first)
        if whole is not None:
            vectors = whole[first : first + count]
        else:
            vectors = np.frombuffer(stream.read(count * dim * dtype.itemsize), dtype).reshape(count, dim)
        some = slice(first, first + count)
        yield Batch(
            vectors,
            None if ids is None else [id_of(it) for it in ids[some]],
            None if texts is None else [text_of(str(it), name, row) for row, it in enumerate(texts[some], first)],
        )


def _pick(name: str, asked: str | None, tables: list[str], single: list[str], names: list[str]) -> str:
    """The array of the vectors: a single vector only where it is asked for, or where there is nothing else."""
    return pick(name, asked, tables, names, unlikely=single) if tables else pick(name, asked, single, names)


def _is_safetensors(path: Path, begin: bytes) -> bool:
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < _LARGEST_HEADER


@contextmanager
def _open_safetensors(path: Path, columns: Columns) -> Iterator[Store]:
    from safetensors import safe_open

    name = str(path)
    with safe_open(path, framework="numpy") as file:
        shapes = {key: (file.get_slice(key).get_shape(), file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118
    tables, single = ([key for key, (shape, dtype) in shapes.items() if len(shape) == axes and dtype in _NUMBERS] for axes in (2, 1))
    pick_texts(name, columns.texts, [])
    vectors = _pick(name, columns.vectors, tables, single, list(shapes))
    shape, dtype = shapes[vectors]
    rows = shape[0] if len(shape) == 2 else 1
    brain = dtype == "BF16"  # which NumPy does not have
    with safe_open(path, framework="pt" if brain else "numpy") as file:
        array = file.get_slice(vectors)

        def batches() -> Iterator[Batch]:
            if not rows:  # which its slices do not have
                yield Batch(np.empty(shape, np.float32))
            for first in range(0, rows, BATCH_ROWS):
                part = array[first : min(first + BATCH_ROWS, rows)] if len(shape) == 2 else array[:]
                yield Batch(np.atleast_2d(part.float().numpy() if brain else part))

        yield Store(batches(), rows)


NPZ = Format("a .npz archive", "numpy", _is_npz, _open_npz)
SAFETENSORS = Format("a safetensors file", "safetensors", _is_safetensors, _open_safetensors)
