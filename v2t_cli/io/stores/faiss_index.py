"""Indexes that FAISS wrote. Compressed ones give approximate vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from v2t_cli.core.errors import RequestError
from v2t_cli.io.stores.batch import BATCH_ROWS, Batch, Columns, Format, Store, id_of, refuse_columns

_LETTERS = (b"Ix", b"Iw", b"Iv", b"IV", b"IH", b"IB", b"IN", b"IL", b"IM", b"IS", b"IP", b"IR", b"I2")  # with which names of kinds begin
_BINARY = b"IB"
_WHAT = "a FAISS index"


def _is_mine(path: Path, begin: bytes) -> bool:
    return begin.startswith(_LETTERS) and b"\0" in begin[:16]  # its sizes are small numbers of 8 bytes; a text holds no NUL


@contextmanager
def _open(path: Path, columns: Columns) -> Iterator[Store]:
    import faiss

    refuse_columns(str(path), _WHAT, columns)
    with open(path, "rb") as stream:
        binary = stream.read(2) == _BINARY
    read: Callable[[str, int], Any] = faiss.read_index_binary if binary else faiss.read_index
    mapped = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP)  # of all its parts, in newer versions
    try:
        index = read(str(path), mapped | faiss.IO_FLAG_READ_ONLY)
    except MemoryError:  # a damaged size asks for any amount
        raise RequestError(f"{path}: cannot be read as {_WHAT}: it is damaged, or needs more memory than there is") from None
    inner, ids, transforms = _unwrapped(index)
    if isinstance(inner, faiss.IndexIVF):
        ids = _map_lists(inner, ids)
    try:
        if inner.ntotal:
            # Alone, because an error in several threads would end the process.
            inner.reconstruct(0)
    except RuntimeError:
        raise RequestError(f"{path}: a FAISS index of type {type(inner).__name__} cannot reconstruct its vectors") from None

    def batches() -> Iterator[Batch]:
        for first in range(0, max(inner.ntotal, 1), BATCH_ROWS):
            count = min(BATCH_ROWS, inner.ntotal - first)
            if isinstance(inner, faiss.IndexIVF):
                vectors = inner.reconstruct_batch(np.arange(first, first + count))
            else:
                vectors = inner.reconstruct_n(first, count)
            for transform in transforms:
                vectors = transform.reverse_transform(vectors)
            yield Batch(vectors, None if ids is None else [id_of(it) for it in ids[first : first + count]])

    # `index` owns what the other names refer to: it lives as long as this generator.
    yield Store(batches(), index.ntotal)


def _unwrapped(index: Any) -> tuple[Any, np.ndarray | None, list[Any]]:
    """The index that keeps the vectors, the ids given to them (int64), and the transforms to undo, the last one first."""
    import faiss

    ids: np.ndarray | None = None
    transforms: list[Any] = []
    downcast = faiss.downcast_IndexBinary if isinstance(index, faiss.IndexBinary) else faiss.downcast_index
    while True:
        if isinstance(index, (faiss.IndexIDMap, faiss.IndexBinaryIDMap)):
            ids = faiss.vector_to_array(index.id_map)
        elif isinstance(index, faiss.IndexPreTransform):
            chain = [faiss.downcast_VectorTransform(index.chain.at(number)) for number in range(index.chain.size())]
            transforms = chain[::-1] + transforms
        else:
            return index, ids, transforms
        index = downcast(index.index)


def _map_lists(index: Any, given: np.ndarray | None) -> np.ndarray | None:
    """Let an IVF index find its rows by their place in the order of ids. Returns the ids (int64); None if they are 0 … rows-1.

    Its own maps need ids that are 0 … rows-1, or that are all different. given: ids by those in the lists.
    """
    import faiss

    lists, ids, places = index.invlists, [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number in range(index.nlist):
        if size := lists.list_size(number):
            pointer = lists.get_ids(number)
            ids.append(faiss.rev_swig_ptr(pointer, size).copy())
            lists.release_ids(number, pointer)
            places.append(number << 32 | np.arange(size, dtype=np.int64))  # as FAISS writes a list and an offset
    stored, where = np.concatenate(ids), np.concatenate(places)
    order = np.argsort(stored, kind="stable")
    stored = stored[order]
    index.direct_map.type = faiss.DirectMap.Array
    faiss.copy_array_to_vector(where[order], index.direct_map.array)
    if given is not None:
        return given[stored]
    return None if np.array_equal(stored, np.arange(len(stored))) else stored


FAISS = Format(_WHAT, "faiss", _is_mine, _open)
