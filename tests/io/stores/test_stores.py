"""The same rows in every format are the rows of the .npy; ids and texts come with them."""

import base64
import hashlib
import json
import os
import sqlite3
import sys
import tempfile
import tracemalloc
import zipfile
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import load_vectors

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.io.stores.batch import Columns
from v2t_cli.io.strings import Strings
from v2t_cli.io.vectors import check_vectors, open_vectors

COUNT, DIM = 40, 16
ROWS = np.random.default_rng(7).normal(size=(COUNT, DIM)).astype(np.float32)
IDS = [f"строка {number}" for number in range(COUNT)]
IDS[3], IDS[4] = "a\tb\nc", ""
TEXTS = [f"Где лодка {number}?\tТут «она»." for number in range(COUNT)]
KEYS = np.random.default_rng(8).choice(10**6, COUNT, replace=False) * 1000  # ids that are numbers, in no order


def library(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install 'v2t[stores]'")


def read(path, column=None, text_column=None):
    """Rows, ids and texts of a store."""
    check_vectors(str(path), Columns(column, text_column))
    with open_vectors(str(path), Columns(column, text_column)) as reader:
        return reader.read(), *(None if it is None else it.read(0, reader.rows) for it in (reader.ids, reader.texts))


def same(rows, expected=ROWS):
    return rows.dtype == np.float32 and rows.shape == expected.shape and rows.tobytes() == expected.tobytes()


def refused(path, message, *columns):
    with pytest.raises(RequestError, match=message) as caught:
        read(path, *columns)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
    """The folder of temporary files: nothing is left there."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not os.listdir(folder)


@pytest.fixture
def small_batches(monkeypatch):
    """So that a few rows come in several batches."""
    for module in ("arrays", "tables", "faiss_index", "chroma", "json_lines", "pgvector"):
        monkeypatch.setattr(f"v2t_cli.io.stores.{module}.BATCH_ROWS", 7)


pytestmark = pytest.mark.usefixtures("small_batches")


class TestArrays:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_npz(self, tmp_path, save, order):
        save(tmp_path / "v.npz", emb=np.asarray(ROWS, order=order), ids=np.array(IDS), text=np.array(TEXTS), mean=ROWS[0], n=3)
        rows, ids, texts = read(tmp_path / "v.npz", None, "text")
        assert same(rows) and ids == IDS and texts == TEXTS

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_the_stored_type_is_kept(self, tmp_path, dtype):
        np.savez(tmp_path / "v.npz", ROWS.astype(dtype))
        save_file({"v": ROWS.astype(dtype)}, tmp_path / "v.safetensors")
        for name in ("v.npz", "v.safetensors"):
            with open_vectors(str(tmp_path / name)) as reader:
                assert reader.array.dtype == dtype and reader.ids is None
                assert same(reader.read(), ROWS.astype(dtype).astype(np.float32))

    def test_safetensors(self, tmp_path):
        import torch
        from safetensors.torch import save_file as save_torch

        save_file({"v": ROWS, "mean": ROWS[0]}, tmp_path / "v.bin")  # by content, whatever its name
        assert same(read(tmp_path / "v.bin")[0])
        save_torch({"v": torch.from_numpy(ROWS).bfloat16()}, tmp_path / "b.safetensors")
        assert same(read(tmp_path / "b.safetensors")[0], torch.from_numpy(ROWS).bfloat16().float().numpy())

    def test_the_array_must_be_clear(self, tmp_path):
        np.savez(tmp_path / "v.npz", a=ROWS, b=ROWS[::-1], c=ROWS[0], d=np.array([{}], dtype=object))
        save_file({"a": ROWS, "b": ROWS[::-1].copy(), "c": ROWS[0]}, tmp_path / "v.safetensors")
        for name in ("v.npz", "v.safetensors"):
            refused(tmp_path / name, "several columns can be the vectors: a, b; --column names one")
            refused(tmp_path / name, "column 'x' does not exist; there are: a, b, c", "x")
            assert same(read(tmp_path / name, "c")[0], ROWS[:1])
            refused(tmp_path / name, "text column 'x' does not exist or holds no texts; no column does", "a", "x")
            assert same(read(tmp_path / name, "b")[0], ROWS[::-1])
        refused(tmp_path / "v.npz", "array 'd' holds Python objects, which need pickle and are never loaded", "d")

    def test_a_single_vector(self, tmp_path):
        np.savez(tmp_path / "v.npz", ROWS[0], ids=np.array(IDS[:1]))
        save_file({"v": ROWS[0]}, tmp_path / "v.safetensors")
        for name in ("v.npz", "v.safetensors"):
            assert same(read(tmp_path / name)[0], ROWS[:1])

    def test_signs_are_bytes_and_wider_integers_need_a_decision(self, tmp_path):
        np.savez(tmp_path / "v.npz", ROWS > 0, tokens=np.ones((COUNT, 3), int))
        save_file({"v": ROWS > 0}, tmp_path / "v.safetensors")
        for name in ("v.npz", "v.safetensors"):
            with open_vectors(str(tmp_path / name)) as reader:
                assert reader.array.dtype == np.uint8 and np.array_equal(reader.array, ROWS > 0)
        way = r"v.npz, array 'tokens': holds int64 of shape \(40, 3\); expected .*; .astype\(numpy.int8\), uint8 or float32 converts it"
        refused(tmp_path / "v.npz", way, "tokens")
        np.savez(tmp_path / "v.npz", tokens=np.ones((COUNT, 3), int))
        refused(tmp_path / "v.npz", way)

    @pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
    def test_what_is_no_array_is_left_out(self, tmp_path):
        np.savez(tmp_path / "v.npz", v=ROWS, structured=np.zeros(COUNT, dtype=[("имя", "f4")]))
        with zipfile.ZipFile(tmp_path / "v.npz", "a") as archive:
            archive.writestr("readme.txt", "vectors")
        assert same(read(tmp_path / "v.npz")[0])
        with zipfile.ZipFile(tmp_path / "v.npz") as archive, zipfile.ZipFile(tmp_path / "turned.npz", "w") as turned:
            for member in reversed(archive.namelist()):
                turned.writestr(member, archive.read(member))
        assert turned.namelist()[0] == "readme.txt" and same(read(tmp_path / "turned.npz")[0])

    def test_long_lists_of_names_are_cut(self, tmp_path):
        np.savez(tmp_path / "v.npz", **{f"a{number}": ROWS for number in range(200)})
        refused(tmp_path / "v.npz", "can be the vectors: a0, a1, .*, a9, and 190 more; --column names one")

    def test_no_rows(self, tmp_path):
        np.savez(tmp_path / "v.npz", ROWS[:0])
        save_file({"v": ROWS[:0]}, tmp_path / "v.safetensors")
        for name in ("v.npz", "v.safetensors"):
            assert load_vectors(str(tmp_path / name)).shape == (0, DIM)

    def test_damage(self, tmp_path):
        np.savez(tmp_path / "v.npz", ROWS)
        save_file({"v": ROWS}, tmp_path / "v.safetensors")
        for name, what in (("v.npz", "a .npz archive"), ("v.safetensors", "a safetensors file")):
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
            refused(tmp_path / name, f"cannot be read as {what}")


def table(pa, vectors=None, **columns):
    kind = pa.list_(pa.float32())
    return pa.table({"id": IDS, "v": vectors if vectors is not None else pa.array(list(ROWS), kind), "text": TEXTS, **columns})


def write_stream(pa, table, path):
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=15)


def write_file(pa, table, path):
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=15)


def write_parquet(pa, table, path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path, row_group_size=15)


def write_feather(pa, table, path):
    import pyarrow.feather

    pyarrow.feather.write_feather(table, path)  # compressed


WRITERS = {"parquet": write_parquet, "feather": write_feather, "file": write_file, "stream": write_stream}


@pytest.fixture
def pa():
    return library("pyarrow")


class TestTables:
    @pytest.mark.parametrize("form", WRITERS)
    @pytest.mark.parametrize("kind", ["list", "large", "fixed"])
    def test_every_kind_of_list(self, tmp_path, pa, form, kind):
        kinds = {"list": pa.list_(pa.float32()), "large": pa.large_list(pa.float32()), "fixed": pa.list_(pa.float32(), DIM)}
        path = tmp_path / "v.bin"
        WRITERS[form](pa, table(pa, pa.array(list(ROWS), kinds[kind])), path)
        rows, ids, texts = read(path, None, "text")
        assert same(rows) and ids == IDS and texts == TEXTS
        assert read(path)[2] is None

    @pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8"])
    def test_the_stored_type_is_kept(self, tmp_path, pa, dtype):
        vectors = (10 * np.abs(ROWS)).astype(dtype)
        write_parquet(pa, table(pa, pa.array(list(vectors), pa.list_(getattr(pa, dtype)()))), tmp_path / "v.parquet")
        with open_vectors(str(tmp_path / "v.parquet")) as reader:
            assert reader.array.dtype == dtype and reader.array.tobytes() == vectors.tobytes()

    def test_a_folder_of_parquet_files(self, tmp_path, pa):
        folder = tmp_path / "parts"
        (folder / "b").mkdir(parents=True)
        for name, rows in (("a.parquet", slice(0, 15)), ("b/0.parquet", slice(15, 22)), ("b/1.parquet", slice(22, 40))):
            write_parquet(pa, table(pa).slice(rows.start, rows.stop - rows.start), folder / name)
        (folder / "_SUCCESS").touch()
        (folder / "_delta_log").mkdir()
        (folder / "_delta_log" / "00010.checkpoint.parquet").write_bytes(b"another table")
        rows, ids, texts = read(folder, "v", "text")
        assert same(rows) and ids == IDS and texts == TEXTS
        write_parquet(pa, table(pa).drop_columns("id"), folder / "z.parquet")
        refused(folder, r"z.parquet: lacks column 'id', which .*a.parquet has")
        (folder / "z.parquet").write_bytes(b"PAR1 and then nothing")
        refused(folder, "z.parquet: cannot be read as a Parquet file")

    def test_ids_of_any_type(self, tmp_path, pa):
        write_parquet(pa, table(pa).drop_columns("id").append_column("_id", pa.array([None, *range(1, COUNT)])), tmp_path / "v.parquet")
        assert read(tmp_path / "v.parquet")[1] == ["", *map(str, range(1, COUNT))]

    def test_a_tensor_and_texts_as_categories(self, tmp_path, pa):
        tensor = pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [DIM]), pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), DIM)
        )
        given = table(pa, tensor).set_column(2, "text", pa.array(TEXTS).dictionary_encode())
        write_file(pa, given, tmp_path / "v.arrow")
        rows, _, texts = read(tmp_path / "v.arrow", None, "text")
        assert same(rows) and texts == TEXTS

    def test_the_column_must_be_clear(self, tmp_path, pa):
        path = tmp_path / "v.parquet"
        write_parquet(pa, table(pa, w=pa.array(list(ROWS[::-1]))), path)
        refused(path, "several columns can be the vectors: v, w; --column names one")
        refused(path, "column 'text' holds no vectors; there are: v, w", "text")
        refused(path, "column 'x' does not exist; there are: v, w", "x")
        refused(path, "text column 'v' does not exist or holds no texts; there are: id, text", "v", "v")
        assert same(read(path, "w")[0], ROWS[::-1])
        write_parquet(pa, table(pa).drop_columns("v"), path)
        refused(path, "no column holds vectors; there are: id, text")

    @pytest.mark.parametrize("form", WRITERS)
    def test_columns_of_one_name(self, tmp_path, pa, form):
        def with_another(name, values):
            return table(pa).append_column(pa.field(name, values.type), values)

        path = tmp_path / "v.bin"
        if form != "feather":  # which cannot hold them
            WRITERS[form](pa, with_another("id", pa.array(IDS)), path)
            rows, ids, texts = read(path, None, "text")
            assert same(rows) and ids is None and texts == TEXTS
            WRITERS[form](pa, with_another("v", pa.array(ROWS.tolist())), path)
            for column in (None, "v"):
                refused(path, "2 columns are named 'v'; rename all but one", column)

    def test_signs_are_bytes_and_wider_integers_must_be_named(self, tmp_path, pa):
        path = tmp_path / "v.parquet"
        write_parquet(pa, table(pa, tokens=pa.array([[1, 2**20]] * COUNT), signs=pa.array((ROWS > 0).tolist())).drop_columns("v"), path)
        with open_vectors(str(path)) as reader:
            assert reader.array.dtype == np.uint8 and np.array_equal(reader.array, ROWS > 0)
        assert same(read(path, "tokens")[0], np.full((COUNT, 2), [1, 2**20], np.float32))
        write_parquet(pa, table(pa, tokens=pa.array([[1, 2]] * COUNT)).drop_columns("v"), path)
        refused(path, "no column is likely to hold vectors; if one does, --column names it: tokens")

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(
        ("first", "second", "becomes"),
        [
            ("float32", "int8", None),
            ("int8", "float32", None),
            ("int8", "uint8", None),
            ("int64", "float32", None),
            ("float16", "float64", None),  # would overflow
            ("float32", "float64", "float32"),
            ("float64", "float16", "float64"),
        ],
    )
    def test_parts_of_unlike_types(self, tmp_path, pa, first, second, becomes):
        folder = tmp_path / "parts"
        folder.mkdir()
        for name, dtype in (("a", first), ("b", second)):
            write_parquet(pa, pa.table({"v": pa.array([[100, 1]] * 9, pa.list_(getattr(pa, dtype)()))}), folder / f"{name}.parquet")
        if becomes is None:
            refused(folder, f"row 9 holds {second}, the rows before it {first}; save all as one type, such as float32", "v")
        else:
            with open_vectors(str(folder)) as reader:
                assert reader.array.dtype == becomes and same(reader.read(), np.full((18, 2), [100, 1], np.float32))

    def test_rows_that_are_no_vectors(self, tmp_path, pa):
        path = tmp_path / "v.parquet"
        for change, message in (
            (lambda rows: rows[:20] + [None] + rows[21:], "row 20 has no vector: NULL"),
            (lambda rows: rows[:20] + [rows[20][:5]] + rows[21:], "row 20 has 5 numbers, the rows before it have 16"),
            (lambda rows: rows[:21] + [rows[20][:5]] * 19, "row 21 has 5 numbers, the rows before it have 16"),  # a batch begins there
            (lambda rows: rows[:20] + [[None, *rows[20][1:]]] + rows[21:], "row 20 holds NULL among its numbers"),
            (lambda rows: rows[:20] + [[float("nan"), *rows[20][1:]]] + rows[21:], "row 20 contains NaN"),
        ):
            write_parquet(pa, table(pa, pa.array(change(ROWS.tolist()), pa.list_(pa.float32()))), path)
            refused(path, message)
        write_parquet(pa, table(pa).set_column(2, "text", pa.array([*TEXTS[:9], None, *TEXTS[10:]])), path)
        refused(path, "row 9 has no text: NULL", "v", "text")
        write_parquet(pa, table(pa).set_column(2, "text", pa.array([*TEXTS[:9], "я" * 2**16, *TEXTS[10:]])), path)
        refused(path, "the text of row 9 has more than 65,536 bytes", "v", "text")

    @pytest.mark.parametrize("form", WRITERS)
    def test_no_rows_and_damage(self, tmp_path, pa, form):
        path = tmp_path / "v.bin"
        WRITERS[form](pa, table(pa).slice(0, 0), path)
        assert load_vectors(str(path)).shape[0] == 0
        WRITERS[form](pa, table(pa), path)
        path.write_bytes(path.read_bytes()[:-300])
        refused(path, "cannot be read as an? (Parquet|Arrow)")

    def test_datasets(self, tmp_path):
        datasets = library("datasets")
        whole = datasets.Dataset.from_dict({"id": IDS, "v": list(ROWS), "text": TEXTS}).with_format("torch")
        whole.save_to_disk(tmp_path / "whole", num_shards=3)
        datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(tmp_path / "splits")
        before = fingerprint(tmp_path / "whole")
        rows, ids, texts = read(tmp_path / "whole", None, "text")
        assert same(rows) and ids == IDS and texts == TEXTS
        assert fingerprint(tmp_path / "whole") == before
        refused(tmp_path / "splits", r"holds several splits \(test, train\); name the folder of one")
        (tmp_path / "whole" / "data-00001-of-00003.arrow").write_bytes(b"x")
        refused(tmp_path / "whole", "cannot be read as a folder of datasets")


@pytest.fixture
def faiss():
    return library("faiss")


def build(faiss, kind, ids=None, rows=ROWS):
    index = faiss.index_factory(DIM, kind)
    index.train(rows)
    if ids is None:
        index.add(rows)
    else:
        index.add_with_ids(rows, ids)
    return index


class TestFaiss:
    @pytest.mark.parametrize("kind", ["Flat", "HNSW8", "IVF4,Flat", "Flat,RFlat"])
    def test_exact(self, tmp_path, faiss, kind):
        faiss.write_index(build(faiss, kind), str(tmp_path / "i"))
        rows, ids, _ = read(tmp_path / "i")
        assert same(rows) and ids is None

    def test_a_damaged_size_that_asks_for_terabytes(self, tmp_path, faiss, monkeypatch):
        """FAISS checks the sizes of HNSW's arrays only by asking for the memory; which bytes they are depends on its version."""
        faiss.write_index(build(faiss, "HNSW8"), str(tmp_path / "i"))

        def ask_for_it(path, flags):
            raise MemoryError("std::bad_alloc")

        monkeypatch.setattr(faiss, "read_index", ask_for_it)
        refused(tmp_path / "i", "damaged, or needs more memory")

    @pytest.mark.parametrize("kind", ["IDMap,Flat", "IDMap2,Flat"])
    def test_ids_of_a_map(self, tmp_path, faiss, kind):
        faiss.write_index(build(faiss, kind, KEYS), str(tmp_path / "i"))
        rows, ids, _ = read(tmp_path / "i")
        assert same(rows) and ids == list(map(str, KEYS))

    @pytest.mark.parametrize("kind", ["IVF4,Flat", "IDMap,IVF4,Flat", "L2norm,IVF4,Flat"])
    def test_ids_of_lists(self, tmp_path, faiss, kind):
        rows = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True) if "norm" in kind else ROWS
        keys = KEYS.copy()
        keys[5] = keys[9]  # an id may be given twice
        faiss.write_index(build(faiss, kind, keys, rows), str(tmp_path / "i"))
        found, ids, _ = read(tmp_path / "i")
        order = np.arange(COUNT) if kind.startswith("IDMap") else np.argsort(keys, kind="stable")
        assert ids == list(map(str, keys[order]))
        found, expected = found.copy(), rows[order]
        twice = np.flatnonzero(keys[order] == keys[5])  # in any order
        for some in (found, expected):
            some[twice] = np.sort(some[twice], axis=0)
        np.testing.assert_allclose(found, expected, atol=0 if "norm" not in kind else 1e-6)

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            ("SQ8", 0.05),
            ("SQfp16", 0.01),
            ("PQ8x2", 3),
            ("IVF4,SQ8", 0.05),
            ("IVF4,PQ8x2", 3),
            ("PCA16,SQ8", 0.1),
            ("PCA16,IVF4,SQ8", 0.2),
        ],
    )
    def test_approximate(self, tmp_path, faiss, kind, error):
        faiss.write_index(build(faiss, kind), str(tmp_path / "i"))
        rows, ids, _ = read(tmp_path / "i")
        assert ids is None and 0 < np.abs(rows - ROWS).max() < error

    def test_bits(self, tmp_path, faiss):
        bits = np.random.default_rng(0).integers(0, 256, (COUNT, 8), dtype=np.uint8)
        plain, mapped = faiss.IndexBinaryFlat(64), faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(64))
        plain.add(bits)
        mapped.add_with_ids(bits, KEYS)
        for index in (plain, mapped):
            faiss.write_index_binary(index, str(tmp_path / "i"))
            with open_vectors(str(tmp_path / "i")) as reader:
                assert reader.array.dtype == np.uint8
                np.testing.assert_array_equal(reader.array, bits)

    def test_what_cannot_be_read(self, tmp_path, faiss):
        path = tmp_path / "i"
        faiss.write_index(build(faiss, "Flat"), str(path))
        refused(path, "is a FAISS index, which has no columns; leave out --column", "v")
        whole = path.read_bytes()
        for size in (20, 100, len(whole) - 100):
            path.write_bytes(whole[:size])
            refused(path, "cannot be read as a FAISS index")
        hashed = faiss.IndexBinaryHash(64, 8)
        hashed.add(np.ones((2, 8), np.uint8))
        faiss.write_index_binary(hashed, str(path))
        refused(path, "a FAISS index of type IndexBinaryHash cannot reconstruct its vectors")
        faiss.write_index(faiss.IndexFlatL2(DIM), str(path))
        assert load_vectors(str(path)).shape == (0, DIM)


def fingerprint(folder):
    return {path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in folder.rglob("*") if path.is_file()}


class TestChroma:
    @pytest.fixture
    def folder(self, tmp_path):
        chromadb = library("chromadb")
        client = chromadb.PersistentClient(str(tmp_path / "chroma"), settings=chromadb.Settings(anonymized_telemetry=False))
        self.client = client
        docs = client.create_collection("docs", embedding_function=None)
        for rows in (slice(0, 30), slice(30, 40)):
            docs.add(ids=[it or "nothing" for it in IDS[rows]], embeddings=ROWS[rows], documents=TEXTS[rows])
        return tmp_path / "chroma"

    def test_a_collection(self, folder):
        before = fingerprint(folder)
        rows, ids, texts = read(folder, None, "document")
        assert same(rows) and ids == [it or "nothing" for it in IDS] and texts == TEXTS
        assert fingerprint(folder) == before

    def test_several(self, folder):
        self.client.create_collection("bare", embedding_function=None)
        refused(folder, "several columns can be the vectors: bare, docs; --column names one")
        refused(folder, "column 'x' does not exist; there are: bare, docs", "x")
        refused(folder, "text column 'x' does not exist or holds no texts; there are: document", "docs", "x")
        assert same(read(folder, "docs")[0]) and read(folder, "bare")[0].shape[0] == 0
        self.client.get_collection("bare").add(ids=["1"], embeddings=ROWS[:1])
        refused(folder, "row 0 has no text: NULL", "bare", "document")

    def test_what_cannot_be_read(self, folder):
        with sqlite3.connect(folder / "chroma.sqlite3", isolation_level=None) as connection:
            connection.execute("begin exclusive")
            refused(folder, "cannot be read as a Chroma folder: database is locked")
        whole = (folder / "chroma.sqlite3").read_bytes()
        for damaged in (whole[:5000], whole[:100] + b"x" * 50000, b""):
            (folder / "chroma.sqlite3").write_bytes(damaged)
            refused(folder, "cannot be read as a Chroma folder|without a collection")


def write_lines(path, *documents):
    path.write_text("".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents), encoding="utf-8")


def answer(*rows, **more):
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return {"object": "list", "data": data, "model": "m", "usage": {}, **more}


def encoded(row):
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


class TestJsonLines:
    def test_numbers_and_base64(self, tmp_path):
        path = tmp_path / "v.jsonl"
        for form in (np.ndarray.tolist, encoded):
            write_lines(path, *({"id": IDS[i], "text": TEXTS[i], "embedding": form(ROWS[i]), "n": [1, 2]} for i in range(COUNT)))
            rows, ids, texts = read(path, None, "text")
            assert same(rows) and ids == IDS and texts == TEXTS
        write_lines(path, *({"vec": encoded(row), "other": row.tolist()} for row in ROWS))
        assert same(read(path, "vec")[0]) and same(read(path)[0]) and read(path)[1] is None

    def test_answers_of_a_batch(self, tmp_path):
        one = [{"custom_id": it, "response": {"status_code": 200, "body": answer(row.tolist())}} for it, row in zip(IDS, ROWS)]
        two = {"custom_id": "x", "response": {"body": answer(encoded(ROWS[1]), encoded(ROWS[0]))}}
        two["response"]["body"]["data"].reverse()
        write_lines(tmp_path / "v.jsonl", *one, two)
        rows, ids, _ = read(tmp_path / "v.jsonl")
        assert same(rows[:COUNT]) and same(rows[COUNT:], ROWS[[1, 0]]) and ids == [*IDS, "x-0", "x-1"]
        write_lines(tmp_path / "v.jsonl", one[0], {"custom_id": "y", "response": None, "error": {"message": "no"}})
        refused(tmp_path / "v.jsonl", "line 2: request 'y' of the batch failed, so it has no vectors")

    def test_an_answer(self, tmp_path):
        for indent in (None, 2):
            (tmp_path / "v.json").write_text(json.dumps(answer(*ROWS.tolist()), indent=indent))
            rows, ids, _ = read(tmp_path / "v.json")
            assert same(rows) and ids is None
        (tmp_path / "v.json").write_text(json.dumps(answer()))
        assert load_vectors(str(tmp_path / "v.json")).shape[0] == 0

    def test_what_is_refused(self, tmp_path):
        path = tmp_path / "v.jsonl"
        good = {"embedding": [1.0, 2.0]}
        for bad, message in (
            ({"embedding": [1.0]}, "row 1 has 1 numbers, the rows before it have 2"),
            ({"embedding": None}, "row 1 has no vector: NULL"),
            ({"embedding": [1.0, None]}, "line 2: 'embedding' is no vector; expected a list of numbers, or base64"),
            ({"embedding": ["1", "2"]}, "line 2: 'embedding' is no vector"),
            ({"embedding": [[1.0], [2.0, 3.0]]}, "line 2: 'embedding' is no vector"),
            ({"embedding": "неверно"}, "line 2: 'embedding' is no vector"),
            ({"embedding": "AAAA"}, "line 2: 'embedding' is no vector"),
            ({"embedding": ""}, "line 2: 'embedding' is no vector"),
            ({"embedding": [1.0, float("nan")]}, "row 1 contains NaN"),
            ({"embedding": [1.0, 1e300]}, "row 1 contains NaN or infinity"),
            ({"vector": [1.0, 2.0]}, "line 2: lacks the key 'embedding'"),
            ([1.0, 2.0], "line 2: expected a JSON object, got list"),
        ):
            write_lines(path, good, bad)
            refused(path, message)
        write_lines(path, {"a": [1.0], "b": [2.0], "c": "x"})
        refused(path, "several columns can be the vectors: a, b; --column names one")
        refused(path, "column 'c' holds no vectors|line 1: 'c' is no vector", "c")
        refused(path, "column 'x' does not exist; there are: a, b", "x")
        refused(path, "row 0 has no text: NULL", "a", "x")
        path.write_text('{"embedding": [1.0]}\n{"embedding": [1.0\n')
        refused(path, "line 2: not JSON: ")
        path.write_text("{and then something else\n")
        refused(path, "line 1: not JSON: ")
        path.write_bytes(b'{"embedding": [1.0], "text": "\xff"}\n')
        refused(path, "cannot be read as JSON lines")

    def test_blank_lines_and_ids_that_are_null(self, tmp_path):
        (tmp_path / "v.jsonl").write_text('\n \n{"id": null, "embedding": [1.0]}\n\n{"id": 7, "embedding": [2.0]}\n{"embedding": 3}\n')
        refused(tmp_path / "v.jsonl", "line 6: 'embedding' is no vector")
        (tmp_path / "v.jsonl").write_text('\n{"id": null, "embedding": [1.0]}\n\n{"id": 7, "embedding": [2.0]}\n')
        rows, ids, _ = read(tmp_path / "v.jsonl")
        assert rows.tolist() == [[1], [2]] and ids == ["", "7"]

    def test_a_damaged_first_line_is_not_read_to_the_end_of_the_file(self, tmp_path):
        with open(tmp_path / "v.jsonl", "w") as stream:
            stream.write('{"embedding": [1.0\n')
            stream.writelines('{"embedding": [1.0]}\n' for _ in range(10**5))
        tracemalloc.start()
        try:
            refused(tmp_path / "v.jsonl", "line 1: not JSON: ")
            assert tracemalloc.get_traced_memory()[1] < 10**6  # of 2 million bytes
        finally:
            tracemalloc.stop()

    def test_half_a_letter_is_no_obstacle(self, tmp_path):
        (tmp_path / "v.jsonl").write_text('{"id": "\\ud800", "embedding": [1.0]}\n')
        assert read(tmp_path / "v.jsonl")[1] == ["?"]


def copied(*fields):
    """A line as COPY writes it."""
    escapes = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
    return "\t".join("\\N" if it is None else "".join(escapes.get(letter, letter) for letter in it) for it in fields) + "\n"


def as_vector(row):
    return "[" + ",".join(map(str, row)) + "]"


class TestPgvector:
    def test_a_table(self, tmp_path):
        path = tmp_path / "v.copy"
        lines = [copied(it, text, as_vector(row)) for it, text, row in zip(IDS, TEXTS, ROWS)]
        path.write_text("".join(lines) + "\\.\nrubbish\n", encoding="utf-8")
        rows, ids, texts = read(path, None, "2")
        assert same(rows) and ids == IDS and texts == TEXTS
        path.write_text("".join(copied(as_vector(row), text) for text, row in zip(TEXTS, ROWS)), encoding="utf-8")
        rows, ids, texts = read(path, "1", "2")
        assert same(rows) and ids is None and texts == TEXTS

    def test_vectors_alone_and_long_texts(self, tmp_path):
        path = tmp_path / "v.copy"
        path.write_text("".join(as_vector(row) + "\r\n" for row in ROWS))
        rows, ids, _ = read(path)
        assert same(rows) and ids is None
        path.write_text(copied("1", "слово " * 1000, as_vector(ROWS[0])), encoding="utf-8")
        assert same(read(path)[0], ROWS[:1])

    def test_the_only_column_that_looks_like_a_vector(self, tmp_path):
        path = tmp_path / "v.copy"
        path.write_text('{"a": 1}\t[1,2]\tred\n{"a": 2}\t[3,4]\t[5,6]\n')  # no JSON lines
        rows, ids, _ = read(path)
        assert rows.tolist() == [[1, 2], [3, 4]] and ids == ['{"a": 1}', '{"a": 2}']
        path.write_text("[0,0]\t[1,2]\n")
        assert read(path)[0].tolist() == [[1, 2]]
        path.write_text('{"id":\t"x",\t"embedding":\t[1,2]}\n')  # JSON with tabs
        assert read(path)[0].tolist() == [[1, 2]]

    def test_other_escapes(self, tmp_path):
        (tmp_path / "v.copy").write_bytes(b"\\x41\\102\\q\\\\n\t[1,2]\n")
        assert read(tmp_path / "v.copy")[1] == ["ABq\\n"]

    def test_bits(self, tmp_path):
        path = tmp_path / "v.copy"
        path.write_text("1\t[1,2,3,4,5,6,7,8]\n" * 7 + "1\t01010101\n" * 7)  # two batches
        refused(path, "row 7 holds uint8, the rows before it float32")
        (tmp_path / "v.copy").write_text("1\t0101010101\n2\t1111111111\n")
        with open_vectors(str(tmp_path / "v.copy")) as reader:
            assert reader.array.dtype == np.uint8 and reader.array.tolist() == [[0, 1] * 5, [1] * 10]

    def test_what_is_refused(self, tmp_path):
        path = tmp_path / "v.copy"
        for bad, message in (
            ("2\t\\N", "row 1 has no vector: NULL"),
            ("2\t[1]", "row 1 has 1 numbers, the rows before it have 2"),
            ("2\t[1,]", r"row 1 has no vector such as \[0.1,0.2\] in this column: \[1,\]; --column names another"),
            ("2\t{1:1}/2", "row 1 has no vector such as"),
            ("2\t01", "row 1 holds uint8, the rows before it float32; save all as one type"),
            ("2\tx\t[1,2]", "row 1 has 3 columns, the rows before it have 2"),
        ):
            path.write_text(f"1\t[1,2]\n{bad}\n")
            refused(path, message)
        path.write_text("1\t\\N\n")
        refused(path, "row 0 has no vector: NULL")
        path.write_text("1\t[1,2]\n")
        for asked in ("0", "3", "x"):
            refused(path, f"--column {asked}: there is no such column; they are counted from 1 to 2", asked)
        path.write_bytes(b"\xff\t[1,2]\n")
        refused(path, "not UTF-8; in psql: SET client_encoding TO 'UTF8' before COPY")


@pytest.mark.parametrize(
    ("module", "package", "begin"), [("pyarrow", "pyarrow", b"PAR1"), ("faiss", "faiss-cpu", b"IxF2\x10\0\0\0")], ids=["pyarrow", "faiss"]
)
def test_a_library_that_is_missing(tmp_path, monkeypatch, module, package, begin):
    (tmp_path / "v.bin").write_bytes(begin)
    monkeypatch.setitem(sys.modules, module, None)
    refused(tmp_path / "v.bin", rf"is an? .*, which needs {package}; pip install 'v2t\[stores\]'")


@pytest.mark.parametrize(("module", "inside"), [("chromadb", "chroma.sqlite3"), ("datasets", "dataset_info.json")])
def test_a_library_for_folders_that_is_missing(tmp_path, monkeypatch, module, inside):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / inside).touch()
    monkeypatch.setitem(sys.modules, module, None)
    refused(tmp_path / "store", rf"is a .*folder.*, which needs {module}; pip install 'v2t\[stores\]'")


def test_a_npy_has_no_columns(tmp_path):
    np.save(tmp_path / "v.npy", ROWS)
    refused(tmp_path / "v.npy", "is a .npy, which has no columns; leave out --column", "v")
    refused(tmp_path / "v.npy", "is a .npy, which has no columns; leave out --text-column", None, "text")


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    np.savez(tmp_path / "v.npz", ROWS)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("v2t_cli.io.stores.copy.write_header", full)
    with pytest.raises(V2TError, match="v.npz: cannot be copied to .*: No space left on device; TMPDIR names another"):
        read(tmp_path / "v.npz")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_disk_that_fills_up_with_ids(tmp_path, monkeypatch):
    """What is written is buffered: the error must not wait until the ids are read, or their files are closed."""
    write_lines(tmp_path / "v.jsonl", {"id": "a", "embedding": [1.0]})
    files = iter([tempfile.TemporaryFile(), open("/dev/full", "wb"), open("/dev/full", "wb")])  # noqa: SIM115
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: next(files))
    with pytest.raises(V2TError, match="v.jsonl: cannot be copied to .*: No space left on device; TMPDIR names another"):
        read(tmp_path / "v.jsonl")


def test_progress_is_told(tmp_path):
    told = []

    @contextmanager
    def track(description, total):
        told.append((description, total))
        yield told.append

    np.savez(tmp_path / "v.npz", ROWS)
    with open_vectors(str(tmp_path / "v.npz"), track=track):
        assert told == [("reading vectors", COUNT), 7, 7, 7, 7, 7, 5]


def test_strings_come_back(tmp_path):
    with ExitStack() as stack:
        strings, others = Strings(stack), Strings(stack)
        for some in (IDS[:9], [], IDS[9:]):
            strings.extend(some)
        others.extend(["строка 0стр", "ока 1"])
        assert strings.count == COUNT and strings.read(0, COUNT) == IDS and strings[3] == IDS[3] and strings.read(5, 0) == []
        assert strings.digest() != others.digest()
