import errno
import io
import os
import tempfile
import threading

import numpy as np
import pytest
from tiny import DIM, load_vectors

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.io.npy import write_header
from v2t_cli.io.vectors import VectorReader, grid, map_vectors, open_vectors, write_vectors


def saved(path, array, **arguments):
    np.save(path, array, **arguments)
    return str(path)


def saved_bytes(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def promising(rows: int, data: bytes) -> bytes:
    """A file whose header promises so many rows of DIM numbers."""
    stream = io.BytesIO()
    write_header(stream, rows, DIM)
    return stream.getvalue() + data


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def piped(monkeypatch):
    """Sends bytes to stdin."""
    return lambda data: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_float_in_any_order_becomes_float32(tmp_path, vectors, dtype, order):
    stored = np.asarray(vectors.astype(dtype), order=order)
    path = saved(tmp_path / "v.npy", stored)
    out = load_vectors(path)
    assert out.dtype == np.float32 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, stored.astype(np.float32))
    with open_vectors(path) as reader:
        blocks = [block.vectors for block in reader.blocks(grid(5, 2))]
    assert all(block.dtype == np.float32 and block.flags.c_contiguous for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), out)


def test_numbers_that_are_not_float32_are_mentioned(tmp_path, vectors, caplog):
    load_vectors(saved(tmp_path / "v.npy", vectors))
    assert not caplog.text
    load_vectors(saved(tmp_path / "v.npy", vectors.astype(np.float64)))
    assert "v.npy: float64 numbers are read as float32" in caplog.text


def test_one_vector_is_one_row(tmp_path, vectors):
    out = load_vectors(saved(tmp_path / "v.npy", vectors[0]))
    np.testing.assert_array_equal(out, vectors[:1])


def test_signs_are_bytes(tmp_path, vectors):
    with open_vectors(saved(tmp_path / "v.npy", vectors > 0)) as reader:
        assert reader.array.dtype == np.uint8
        np.testing.assert_array_equal(reader.read(), (vectors > 0).astype(np.float32))


def test_what_is_written_is_an_ordinary_npy(tmp_path, vectors):
    path = tmp_path / "new" / "v.npy"
    with write_vectors(str(path), vectors.shape[1]) as write:
        for start in range(0, len(vectors), 2):
            write(vectors[start : start + 2])
    np.testing.assert_array_equal(np.load(path), vectors)
    assert load_vectors(str(path)).dtype == np.float32


def test_no_rows(tmp_path):
    with write_vectors(str(tmp_path / "v.npy"), 7):
        pass
    assert np.load(tmp_path / "v.npy").shape == (0, 7)
    assert load_vectors(str(tmp_path / "v.npy")).shape == (0, 7)


def test_a_failed_write_leaves_the_old_file(tmp_path, vectors):
    path = saved(tmp_path / "v.npy", vectors)
    with pytest.raises(ZeroDivisionError), write_vectors(path, 3) as write:
        write(np.zeros((1, 3)))
        raise ZeroDivisionError
    np.testing.assert_array_equal(np.load(path), vectors)
    assert os.listdir(tmp_path) == ["v.npy"]


def test_only_the_rows_asked_for_are_read(tmp_path):
    """A file of 64 GB, nearly all of it a hole, opens like any other."""
    rows, path = 10**9, tmp_path / "v.npy"
    path.write_bytes(promising(rows, b""))
    os.truncate(path, path.stat().st_size + rows * DIM * 4)
    with open(path, "r+b") as stream:
        stream.seek(-DIM * 4, os.SEEK_END)
        stream.write(np.arange(DIM, dtype="<f4").tobytes())
    with open_vectors(str(path)) as reader:
        assert (reader.rows, reader.dim) == (rows, DIM)
        (block,) = reader.blocks([range(rows - 2, rows)])
    assert block.first == rows - 2
    np.testing.assert_array_equal(block.vectors, [np.zeros(DIM), np.arange(DIM)])


def test_stdin_goes_through_a_temporary_file(vectors, spool, piped):
    piped(saved_bytes(vectors))
    with open_vectors("-") as reader:
        assert reader.name == "stdin" and not os.listdir(spool)  # the copy has no name that a kill could leave behind
        chunks = [block.vectors for block in reader.blocks(grid(5, 2))]
        assert [len(chunk) for chunk in chunks] == [2, 2, 1]
        np.testing.assert_array_equal(np.concatenate(chunks), vectors)
        np.testing.assert_array_equal(reader.read(), vectors)  # a second time
    assert not os.listdir(spool)


def test_a_named_pipe_goes_through_a_temporary_file(tmp_path, vectors, spool):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(saved_bytes(vectors),), daemon=True)
    writer.start()
    with open_vectors(str(pipe)) as reader:
        assert reader.name == str(pipe) and not os.listdir(spool)
        np.testing.assert_array_equal(reader.read(), vectors)
    writer.join()
    assert not os.listdir(spool)


REFUSED = {
    "text": (lambda v: b"hello", "not a .npy"),
    "nothing": (lambda v: b"", " is empty, not a .npy"),
    "half a header": (lambda v: saved_bytes(v)[:40], "not a .npy"),
    "a damaged header": (lambda v: saved_bytes(v).replace(b"(5, 16)", b"(5, 16 "), "not a .npy"),
    "negative rows": (lambda v: saved_bytes(v).replace(b"(5, 16)", b"(-5,16)"), "expected floating-point numbers"),
    "Python objects": (lambda v: saved_bytes(np.array([{"a": 1}], dtype=object)), "never loaded"),
    "int16": (lambda v: saved_bytes(v.astype(np.int16)), r"holds int16 of shape .*; .astype\(numpy.int8\), uint8 or float32 converts it$"),
    "strings": (lambda v: saved_bytes(v.astype("U4")), r"holds <U4 of shape \(5, 16\)"),
    "complex": (lambda v: saved_bytes(v.astype(complex)), r"holds complex128 of shape \(5, 16\)"),
    "3-D": (lambda v: saved_bytes(np.zeros((2, 3, 4))), r"shape \(2, 3, 4\); expected .* of shape \(rows, dim\)"),
    "0-D": (lambda v: saved_bytes(np.float32(1)), r"holds float32 of shape \(\)"),
    "no numbers": (lambda v: saved_bytes(np.zeros(0)), r"holds float64 of shape \(0,\)"),
    "no columns": (lambda v: saved_bytes(v[:, :0]), r"holds float32 of shape \(5, 0\)"),
    "NaN": (lambda v: saved_bytes(np.where(np.arange(5)[:, None] == 3, np.nan, v)), "row 3 contains NaN"),
    "too large": (lambda v: saved_bytes(np.full((2, 2), 1e300)), "rows 0, 1 contain NaN or infinity"),
    "infinities": (lambda v: saved_bytes(np.full((9, 2), np.inf)), "rows 0, 1, 2, 3, 4 and 4 more of these 9 rows contain NaN or infinity"),
    "truncated": (lambda v: saved_bytes(v)[:-70], "is truncated: the header promises 5 rows, the file ends after 3"),
    "one row too few": (lambda v: promising(6, v.tobytes()), "is truncated: the header promises 6 rows, the file ends after 5"),
    "2**47 rows promised": (lambda v: promising(2**47, v.tobytes()), f"the header promises {2**47} rows, the file ends after 5"),
    "2**62 rows promised": (lambda v: promising(2**62, v.tobytes()), f"promises {2**62} rows, the file ends after 5"),
    "10**30 rows promised": (lambda v: promising(10**30, v.tobytes()), f"promises {10**30} rows, the file ends after 5"),
    "a byte too many": (lambda v: saved_bytes(v) + b"\n", "has data after its 5 rows"),
    "two arrays": (lambda v: 2 * saved_bytes(v), "has data after its 5 rows: damaged, or several arrays, which np.concatenate joins"),
    "an archive": (lambda v: b"PK\x03\x04", "is a zip archive"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_what_is_refused(tmp_path, vectors, piped, spool, case, source):
    make, message = REFUSED[case]
    content, path = make(vectors), tmp_path / "v.npy"
    path.write_bytes(content)
    piped(content)
    with pytest.raises(RequestError, match=message) as caught:
        load_vectors("-" if source == "stdin" else str(path))
    assert str(caught.value).startswith("stdin" if source == "stdin" else str(path)) and "\n" not in str(caught.value)
    assert str(spool) not in str(caught.value) and not os.listdir(spool)


@pytest.mark.parametrize("rows", [6, 2**47])
def test_missing_rows_are_reported_before_any_is_read(tmp_path, vectors, rows):
    path = tmp_path / "v.npy"
    path.write_bytes(promising(rows, vectors.tobytes()))
    with pytest.raises(RequestError, match="truncated"), open_vectors(str(path)):
        pytest.fail("a truncated file was opened")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RequestError, match="absent.npy: no such vector file; v2t embed creates one"):
        load_vectors("absent.npy")
    with pytest.raises(RequestError, match="is a folder without vectors; expected one of Chroma, of datasets, or of Parquet files"):
        load_vectors(str(tmp_path))


def test_values_are_checked_where_they_are_read(tmp_path, vectors):
    vectors[3, 7] = np.inf
    with open_vectors(saved(tmp_path / "v.npy", vectors)) as reader:
        (block,) = reader.blocks([range(3)])
        np.testing.assert_array_equal(block.vectors, vectors[:3])
        for read in (lambda: list(reader.blocks([range(2, 5)])), reader.digest, reader.read):
            with pytest.raises(RequestError, match="row 3 contains NaN or infinity"):
                read()


def test_the_digest_is_that_of_the_values(tmp_path, vectors):
    def digest(array):
        with open_vectors(saved(tmp_path / "v.npy", array)) as reader:
            return reader.digest()

    changed = vectors.copy()
    changed[4, 15] += 1e-3
    assert digest(vectors) == digest(np.asfortranarray(vectors)) == digest(vectors.astype(">f4")) == digest(vectors.astype(np.float64))
    assert len({digest(array) for array in (vectors, changed, vectors[::-1], vectors[:4])}) == 4


def test_wide_vectors_are_read_in_smaller_blocks(tmp_path, monkeypatch, vectors):
    monkeypatch.setattr("v2t_cli.io.vectors.CHUNK_NUMBERS", 40)
    with open_vectors(saved(tmp_path / "v.npy", vectors)) as reader:
        assert reader.chunks() == [range(2), range(2, 4), range(4, 5)] and (reader.fitting(1), reader.fitting(100)) == (1, 2)
        np.testing.assert_array_equal(reader.read(), vectors)
    with open_vectors(saved(tmp_path / "v.npy", np.zeros((2, 50)))) as reader:
        assert reader.fitting(100) == 1


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_headers_of_all_versions(tmp_path, vectors, version):
    path = tmp_path / "v.npy"
    with open(path, "wb") as stream:
        np.lib.format.write_array(stream, vectors, version=version)
    np.testing.assert_array_equal(load_vectors(str(path)), vectors)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(RequestError, match="is truncated: the header promises 5 rows"):
        load_vectors(str(path))


def test_a_header_for_structured_arrays_is_refused(tmp_path, vectors):
    with open(tmp_path / "v.npy", "wb") as stream:
        np.lib.format.write_array(stream, vectors, version=(3, 0))
    with pytest.raises(RequestError, match="not a .npy file of vectors: format version .3, 0. is for structured arrays"):
        load_vectors(str(tmp_path / "v.npy"))


def test_a_file_that_becomes_shorter_is_an_error_and_no_crash(tmp_path, vectors):
    path = saved(tmp_path / "v.npy", np.resize(vectors, (5000, DIM)))
    with open_vectors(path) as reader:
        blocks = reader.blocks(grid(5000, 1000))
        next(blocks)
        os.truncate(path, 5000)
        with pytest.raises(RequestError, match="v.npy: is truncated: the header promises 5000 rows, it became shorter while it was read"):
            next(blocks)


def test_a_stream_is_refused_before_it_is_copied(monkeypatch, spool):
    class Endless(io.RawIOBase):
        taken = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            self.taken += len(buffer)
            assert self.taken < 2**20, "copied"
            buffer[:] = b"y" * len(buffer)
            return len(buffer)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    with pytest.raises(RequestError, match="stdin: is text, not a .npy"), open_vectors("-"):
        pass


def test_a_copy_that_does_not_fit_says_where(vectors, piped, monkeypatch):
    def full(*streams):
        raise OSError(errno.ENOSPC, "No space left on device")

    piped(saved_bytes(vectors))
    monkeypatch.setattr("v2t_cli.io.vectors.shutil.copyfileobj", full)
    with (
        pytest.raises(V2TError, match="stdin: cannot be copied to .*: No space left on device; TMPDIR"),
        open_vectors("-"),
    ):
        pass


def test_mapped_vectors_are_as_they_are_stored(tmp_path, vectors):
    stored = vectors.astype(">f8")
    mapped = map_vectors(saved(tmp_path / "v.npy", stored))
    assert mapped.dtype == stored.dtype and isinstance(mapped, np.memmap) and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, stored)
    assert map_vectors(saved(tmp_path / "v.npy", vectors[0])).shape == (1, DIM)
    with pytest.raises(RequestError, match="v.npy: holds int64 of shape"):
        map_vectors(saved(tmp_path / "v.npy", np.arange(DIM)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_a_reader_tells_the_type_that_is_stored(tmp_path, dtype):
    with open(saved(tmp_path / "v.npy", np.ones((3, 4), dtype)), "rb") as stream:
        reader = VectorReader(stream, "v.npy")
        assert reader.array.dtype == dtype and reader.read().dtype == np.float32
