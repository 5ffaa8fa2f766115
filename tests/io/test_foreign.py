"""Files that are neither .npy nor a store are named by what they are, with a way that works."""

import gzip
import io
import json
import lzma
import re
import sqlite3
import zipfile

import numpy as np
import pytest
import torch
from tiny import load_vectors

from v2t_cli.core.errors import RequestError
from v2t_cli.io.foreign import SNIFFED, refuse_foreign

ROWS = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)


def written(write) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table embeddings (id)")
        return connection.serialize()


def zipped(name: str) -> bytes:
    def write(stream):
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(name, "x" * 100)

    return written(write)


RAW = ROWS.tobytes()
FORMATS = {
    "sqlite": (database(), "an SQLite database", "if it is Chroma's, name its folder"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + RAW, "an HDF5 file", "h5py.File('v.bin')"),
    "pt": (written(lambda stream: torch.save(torch.from_numpy(ROWS), stream)), "a PyTorch file", "load('v.bin', weights_only=True)"),
    "old pt": (
        written(lambda stream: torch.save(torch.from_numpy(ROWS), stream, _use_new_zipfile_serialization=False)),
        "a Python pickle",
        "never loads it",
    ),
    "zip": (zipped("readme.txt"), "a zip archive", "unzip v.bin"),
    "npy.gz": (gzip.compress(written(lambda stream: np.save(stream, ROWS))), "compressed with gzip", "gunzip v.bin"),
    "npy.xz": (lzma.compress(RAW), "compressed with xz", "unxz v.bin"),
    "csv": (b"0.1,-2.5e-3,1\n0.4,0.5,6\n", "text with numbers", "numpy.loadtxt('v.bin', delimiter=',', ndmin=2)"),
    "json": (json.dumps(ROWS[:2].tolist()).encode(), "JSON", "numpy.save"),
    "text": (("Где лодка?\n" * 100).encode(), "text", "v2t embed makes vectors of texts"),
    "text like a FAISS index": (b"INSTRUCTIONS\nIt is a text.\n", "text", "v2t embed"),
}


@pytest.mark.parametrize("form", FORMATS)
def test_a_foreign_file_is_named(tmp_path, monkeypatch, form):
    content, what, way = FORMATS[form]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.bin").write_bytes(content)
    with pytest.raises(RequestError) as caught:
        load_vectors("v.bin")
    assert str(caught.value).startswith(f"v.bin: is {what}") and "not a .npy file; " in str(caught.value) and way in str(caught.value)
    with pytest.raises(RequestError, match=f"^stdin: is {re.escape(what)}"):
        refuse_foreign(content[:SNIFFED], "stdin")


@pytest.mark.parametrize("form", ["pt", "csv"])
def test_the_way_leads_to_the_vectors(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    content = "\n".join(",".join(map(repr, row)) for row in ROWS.tolist()).encode() if form == "csv" else FORMATS[form][0]
    (tmp_path / "it's.bin").write_bytes(content)
    with pytest.raises(RequestError) as caught:
        load_vectors("it's.bin")
    exec(str(caught.value).partition("in Python: ")[2].replace("NAME", "vectors"), {})
    np.testing.assert_allclose(load_vectors("vecs.npy"), ROWS)


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\0", RAW, b"\0", b"\x80", "кот".encode()[:-1] + b"\xff\0"])
def test_what_is_not_known_is_left_to_numpy(content):
    refuse_foreign(content, "v.bin")


def test_nothing_is_called_empty():
    with pytest.raises(RequestError, match="^stdin is empty"):
        refuse_foreign(b"", "stdin")
