"""Which store a path is: by its content, as far as content can tell."""

from __future__ import annotations

from pathlib import Path

from v2t_cli.io.stores.arrays import NPZ, SAFETENSORS
from v2t_cli.io.stores.batch import Format
from v2t_cli.io.stores.chroma import CHROMA
from v2t_cli.io.stores.faiss_index import FAISS
from v2t_cli.io.stores.json_lines import JSON_LINES
from v2t_cli.io.stores.pgvector import PGVECTOR
from v2t_cli.io.stores.tables import ARROW_FILE, ARROW_STREAM, DATASET, PARQUET, PARQUET_FOLDER

BEGIN = 2**16  # bytes that tell a format: the first line of a text may be long
_FOLDERS = (CHROMA, DATASET, PARQUET_FOLDER)
_FILES = (PARQUET, ARROW_FILE, ARROW_STREAM, NPZ, SAFETENSORS, FAISS, PGVECTOR, JSON_LINES)  # a table may begin with a column of JSON


def find_format(path: Path, begin: bytes | None) -> Format | None:
    """The format of a file that begins so, or of a folder (begin: None); None for what is no store, such as a .npy."""
    return next((it for it in (_FOLDERS if begin is None else _FILES) if it.is_mine(path, begin or b"")), None)
