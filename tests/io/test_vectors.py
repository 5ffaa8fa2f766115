import io
import os

import numpy as np
import pytest

from v2t_cli.core.errors import RequestError
from v2t_cli.io.vectors import PartialVectors, VectorReader, grid, load_vectors, open_vectors, write_vectors


def saved(path, array, **arguments):
    np.save(path, array, **arguments)
    return str(path)


def saved_bytes(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_float_becomes_float32(tmp_path, vectors, dtype, order):
    path = saved(tmp_path / "v.npy", np.asarray(vectors.astype(dtype), order=order))
    out = load_vectors(path)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, vectors.astype(dtype).astype(np.float32))


def test_one_vector_is_one_row(tmp_path, vectors):
    assert load_vectors(saved(tmp_path / "v.npy", vectors[0])).shape == (1, vectors.shape[1])


def test_what_is_written_is_an_ordinary_npy(tmp_path, vectors):
    path = tmp_path / "new" / "v.npy"
    with write_vectors(str(path), vectors.shape[1]) as writer:
        for start in range(0, len(vectors), 2):
            writer.write(vectors[start : start + 2])
    np.testing.assert_array_equal(np.load(path), vectors)
    assert load_vectors(str(path)).dtype == np.float32


def test_no_rows(tmp_path):
    with write_vectors(str(tmp_path / "v.npy"), 7):
        pass
    assert np.load(tmp_path / "v.npy").shape == (0, 7)
    assert load_vectors(str(tmp_path / "v.npy")).shape == (0, 7)


def test_a_failure_leaves_the_old_file(tmp_path, vectors):
    path = saved(tmp_path / "v.npy", vectors)
    with pytest.raises(ZeroDivisionError), write_vectors(path, 3) as writer:
        writer.write(np.zeros((1, 3)))
        raise ZeroDivisionError
    np.testing.assert_array_equal(np.load(path), vectors)
    assert os.listdir(tmp_path) == ["v.npy"]


def test_stream_is_read_chunk_by_chunk(vectors):
    stream = io.BytesIO()
    np.save(stream, vectors)
    stream.seek(0)
    reader = VectorReader(stream, "stdin")
    assert (reader.rows, reader.dim) == vectors.shape
    chunks = [block.vectors for block in reader.blocks(grid(5, 2))]
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), vectors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, v: p.write_bytes(b"hello"), "not a .npy"),
        (lambda p, v: p.write_bytes(b""), "not a .npy"),
        (lambda p, v: p.write_bytes(saved_bytes(v).replace(b"(5, 16)", b"(5, 16 ")), "not a .npy"),
        (lambda p, v: p.write_bytes(saved_bytes(v).replace(b"(5, 16)", b"(-5,16)")), "expected floating-point numbers of shape"),
        (lambda p, v: np.save(p, np.array([{"a": 1}], dtype=object), allow_pickle=True), "never loaded"),
        (lambda p, v: np.save(p, np.zeros((2, 3), dtype=np.int8)), "holds int8 of shape"),
        (lambda p, v: np.save(p, np.zeros((2, 3, 4), dtype=np.float32)), "expected floating-point numbers of shape"),
        (lambda p, v: np.save(p, np.where(np.arange(5)[:, None] == 3, np.nan, v)), "row 3 holds NaN"),
        (lambda p, v: np.save(p, np.full((2, 2), 1e300)), "rows 0, 1 hold NaN or infinity in float32"),
    ],
)
def test_what_is_refused(tmp_path, vectors, make, message):
    path = tmp_path / "v.npy"
    make(path, vectors)
    with pytest.raises(RequestError, match=message) as caught:
        load_vectors(str(path))
    assert "v.npy" in str(caught.value) and "\n" not in str(caught.value)


def test_truncated_file_is_told_before_any_row(tmp_path, vectors):
    path = tmp_path / "v.npy"
    np.save(path, vectors)
    path.write_bytes(path.read_bytes()[:-70])
    with pytest.raises(RequestError, match="ends after 3 of 5 rows"), open_vectors(str(path)):
        pytest.fail("a truncated file was opened")


def test_missing_file():
    with pytest.raises(RequestError, match="no such file"), open_vectors("absent.npy"):
        pass


def test_interrupted_embedding_goes_on_where_it_was(tmp_path, vectors):
    path = tmp_path / "v.npy"
    partial = PartialVectors(path, *vectors.shape)

    def two_and_a_half():
        yield vectors[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partial.append(two_and_a_half())
    with open(path.with_suffix(".part"), "ab") as stream:
        stream.write(b"half a row")
    assert not path.exists()
    assert partial.done() == 2
    partial.append(iter([vectors[2:]]))
    np.testing.assert_array_equal(np.load(path), vectors)
    assert os.listdir(tmp_path) == ["v.npy"]
