"""Columns of vectors in Parquet and Arrow files, by pyarrow, and in folders that Hugging Face's datasets saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from v2t_cli.core.errors import RequestError
from v2t_cli.io.stores.batch import (
    BATCH_ROWS,
    ID_NAMES,
    Batch,
    Columns,
    Format,
    Store,
    check_even,
    id_of,
    no_vector,
    pick,
    pick_texts,
    refusing,
    text_of,
)

_DATASET, _SPLITS = "dataset_info.json", "dataset_dict.json"  # that datasets writes into its folders
_PARQUET = "a Parquet file"


class _Choice:
    """The columns to read from tables of a schema."""

    def __init__(self, schema: Any, columns: Columns, name: str):

        def names(test: Callable[[Any], bool]) -> list[str]:
            return list(dict.fromkeys(field.name for field in schema if test(field.type)))

        self.vectors = pick(name, columns.vectors, names(_holds_vectors), schema.names, unlikely=names(_holds_integers))
        self.texts = pick_texts(name, columns.texts, names(_holds_texts))
        for column in filter(None, (self.vectors, self.texts)):
            if (count := schema.names.count(column)) > 1:
                raise RequestError(f"{name}: {count} columns are named '{column}'; rename all but one")
        nested = names(_is_nested)
        self.ids = next((column for column in ID_NAMES if schema.names.count(column) == 1 and column not in nested), None)
        self.name = name

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(filter(None, (self.vectors, self.ids, self.texts))))

    def batches(self, tables: Iterable[Any]) -> Iterator[Batch]:
        """The rows of record batches."""
        first = 0
        for whole in tables:
            for start in range(0, whole.num_rows, BATCH_ROWS):
                table = whole.slice(start, BATCH_ROWS)
                ids, texts = (None if column is None else table.column(column).to_pylist() for column in (self.ids, self.texts))
                yield Batch(
                    _vectors(table.column(self.vectors), self.name, first),
                    None if ids is None else [id_of(value) for value in ids],
                    None if texts is None else [text_of(value, self.name, row) for row, value in enumerate(texts, first)],
                )
                first += table.num_rows


def _stored(kind: Any) -> Any:
    """The type that an extension type, such as a tensor of fixed shape, is stored as."""
    import pyarrow

    return kind.storage_type if isinstance(kind, pyarrow.BaseExtensionType) else kind


def _is_nested(kind: Any) -> bool:
    from pyarrow import types

    return types.is_nested(_stored(kind))


def _numbers(kind: Any) -> Any:
    """The type of the elements of lists; None for what is no list."""
    from pyarrow import types

    kind = _stored(kind)
    return kind.value_type if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) else None


def _holds_vectors(kind: Any) -> bool:
    import pyarrow

    floats = (pyarrow.float16(), pyarrow.float32(), pyarrow.float64())
    return _numbers(kind) in (*floats, pyarrow.int8(), pyarrow.uint8(), pyarrow.bool_())


def _holds_integers(kind: Any) -> bool:
    """Lists of integers wider than a byte, which are rather tokens."""
    from pyarrow import types

    numbers = _numbers(kind)
    return numbers is not None and types.is_integer(numbers) and not _holds_vectors(kind)


def _holds_texts(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _vectors(column: Any, name: str, first: int) -> np.ndarray:
    """A column of lists as an array (rows, dim). Raises RequestError, naming the row, for NULLs and for rows of other lengths."""
    import pyarrow
    import pyarrow.compute

    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
    if column.null_count:
        raise no_vector(name, first + column.is_null().to_numpy(zero_copy_only=False).argmax())
    lengths = pyarrow.compute.list_value_length(column).to_numpy(zero_copy_only=False)
    check_even(lengths, name, first)
    numbers = column.flatten()
    if numbers.null_count:
        row = numbers.is_null().to_numpy(zero_copy_only=False).argmax() // lengths[0]
        raise RequestError(f"{name}: row {first + row} holds NULL among its numbers")
    return numbers.to_numpy(zero_copy_only=False).reshape(len(column), -1)  # a copy only of bool


# Parquet: single files and folders of them


def _parquet_files(folder: Path) -> list[Path]:
    """In order of their names, without what other programs hide, such as the log of a Delta table."""

    def is_hidden(path: Path) -> bool:
        return any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob("*.parquet") if not is_hidden(path) and path.is_file())


@contextmanager
def _open_parquet(path: Path, columns: Columns) -> Iterator[Store]:
    from pyarrow.parquet import ParquetFile, read_metadata

    files = _parquet_files(path) if path.is_dir() else [path]
    rows = 0
    for file in files:
        with refusing(str(file), _PARQUET):
            rows += read_metadata(file).num_rows
    with ParquetFile(files[0]) as file:
        choice = _Choice(file.schema_arrow, columns, str(path))

    def tables() -> Iterator[Any]:
        for file in files:
            # Not read ahead: a row group may be as large as the file.
            with refusing(str(file), _PARQUET), ParquetFile(file, memory_map=True, pre_buffer=False) as opened:
                if missing := [column for column in choice.columns if column not in opened.schema_arrow.names]:
                    raise RequestError(f"{file}: lacks column '{missing[0]}', which {files[0]} has")
                yield from opened.iter_batches(BATCH_ROWS, columns=choice.columns)

    yield Store(choice.batches(tables()), rows)


# Arrow: files (Feather) and streams


@contextmanager
def _open_file(path: Path, columns: Columns) -> Iterator[Store]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped, pyarrow.ipc.open_file(mapped) as reader:
        tables = (reader.get_batch(number) for number in range(reader.num_record_batches))
        yield Store(_Choice(reader.schema, columns, str(path)).batches(tables))


@contextmanager
def _open_stream(path: Path, columns: Columns) -> Iterator[Store]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped, pyarrow.ipc.open_stream(mapped) as reader:
        yield Store(_Choice(reader.schema, columns, str(path)).batches(reader))


# datasets


@contextmanager
def _open_dataset(path: Path, columns: Columns) -> Iterator[Store]:
    from datasets import Dataset, load_from_disk

    if (path / _SPLITS).is_file():
        splits = sorted(inner.name for inner in path.iterdir() if (inner / _DATASET).is_file())
        raise RequestError(f"{path}: holds several splits ({', '.join(splits)}); name the folder of one")
    dataset = load_from_disk(str(path))
    assert isinstance(dataset, Dataset)
    choice = _Choice(dataset.data.schema, columns, str(path))
    chosen = dataset.select_columns(choice.columns).with_format("arrow")  # which also follows the order that shuffle left
    tables = (table for first in range(0, len(chosen), BATCH_ROWS) for table in chosen[first : first + BATCH_ROWS].to_batches())
    yield Store(choice.batches(tables), len(chosen))


PARQUET = Format(_PARQUET, "pyarrow", lambda path, begin: begin.startswith(b"PAR1"), _open_parquet)
PARQUET_FOLDER = Format(
    "a folder of Parquet files", "pyarrow", lambda path, begin: path.is_dir() and bool(_parquet_files(path)), _open_parquet
)
ARROW_FILE = Format("an Arrow (Feather) file", "pyarrow", lambda path, begin: begin.startswith(b"ARROW1"), _open_file)
ARROW_STREAM = Format("an Arrow stream", "pyarrow", lambda path, begin: begin.startswith(b"\xff\xff\xff\xff"), _open_stream)
DATASET = Format(
    "a folder of datasets",
    "datasets",
    lambda path, begin: (path / _DATASET).is_file() or (path / _SPLITS).is_file(),
    _open_dataset,
)
