"""Random input: nothing but our own errors comes out. V2T_FUZZ sets how many inputs each test draws, 100,000 before a release."""

import io
import os

import numpy as np
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from v2t_cli.core.config import Config, load_config
from v2t_cli.core.errors import V2TError
from v2t_cli.io.vectors import open_vectors

fuzz = settings(max_examples=int(os.environ.get("V2T_FUZZ", "300")), deadline=None, suppress_health_check=list(HealthCheck), database=None)
KEYS = [*Config.model_fields, *(key for value in Config().model_dump().values() if isinstance(value, dict) for key in value)]
PIECES = [
    *("!!int", "!!float", "!!binary", "!!timestamp", "!!python/object/apply:os.system", "!!map", "!!set", "!<tag:yaml.org,2002:str>"),
    *("&a", "*a", "<<", "---", "...", "?", ":", "-", ",", "[", "]", "{", "}", "|", ">", "%YAML 1.1", "#", "'", '"', "\\0", "\\ud800"),
    *("1e999", ".inf", ".nan", "2024-13-45", "1:60:60", "0b2", "~", "yes", "null"),
]
long_numbers = st.integers(4000, 6000).map(lambda digits: "0x" + "f" * digits)
scalars = long_numbers | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(PIECES)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | scalars, inner, max_size=4)
)
documents = (
    st.text()
    | st.binary().map(lambda data: data.decode("latin-1"))
    | st.lists(st.sampled_from([*PIECES, *KEYS, " ", "\n", "\n  ", ": "]), max_size=30).map("".join)
    | trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True))
)


@fuzz
@given(documents, st.lists(st.tuples(st.sampled_from(KEYS), scalars).map(lambda item: f"{item[0]}={item[1]}"), max_size=2))
def test_the_configuration(tmp_path_factory, text, sets):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(load_config(path, sets), Config)
    except V2TError as error:
        assert "\n" not in str(error)


def saved(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


arrays = st.builds(
    lambda dtype, rows, dim, order: np.zeros((rows, dim), dtype, order=order),
    st.sampled_from(["<f4", ">f8", "<f2", "<i8", "|b1", "<c8", "<U3", "<M8[s]"]),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from("CF"),
)
headers = st.builds(
    lambda descr, fortran, shape: f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode("utf-8", "replace"),
    st.sampled_from(["'<f4'", "'<f16'", "'O'", "'<V9'", "[('a', '<f4')]", "'f'", "('<f4', (2,))", "0"]) | st.text(max_size=9),
    st.sampled_from(["True", "False", "None", "1", "[]"]),
    st.sampled_from(["(2, 3)", "(-1, 3)", "(10**9, 3)", f"({10**18}, {10**18})", "(2,)", "()", "(True, 2)", "(2.0, 3)", "None"])
    | st.text(max_size=9),
).map(lambda text: b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(24))


@st.composite
def broken(draw):
    """A .npy with some bytes changed, cut off or put in."""
    data = bytearray(draw(arrays.map(saved) | headers))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@fuzz
@given(st.binary(max_size=200) | broken())
def test_vectors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.npy"
    path.write_bytes(data)
    try:
        with open_vectors(str(path)) as reader:
            for first, vectors in reader.blocks(reader.chunks()):
                assert vectors.dtype == np.float32 and vectors.shape[1:] == (reader.dim,) and np.isfinite(vectors).all()
                assert 0 <= first < reader.rows
    except V2TError as error:
        assert "\n" not in str(error) and "fuzz.npy" in str(error)
