"""train.correction: the second run of a training."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import DIM, SENTENCES, assert_same_weights, stopping, tiny_config

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.metadata import read_info
from v2t_cli.training import correction
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.train import train
from v2t_cli.training.trainer import Trainer

CORRECTION = ("train.correction={texts: 0.2, hypotheses: 3, epochs: 2}", "train.epochs=1")


def taught(checkpoint):
    """Settings that teach a checkpoint to correct, without a first run."""
    return "train.epochs=0", "decoder.scratch=null", f"decoder.model={checkpoint}"


def test_correction_is_trained_after_the_inverter(tmp_path, texts_file, labse, caplog):
    result = train(tiny_config(texts_file, labse, tmp_path / "out", *CORRECTION))
    info = read_info(tmp_path / "out")
    assert result.finished and info.training.finished and info.correction.finished
    assert (info.training.steps, info.data.held_out) == (5, 30), "70 texts in batches of 16; the card says what the inverter was trained on"
    assert len(load_checkpoint(tmp_path / "out", torch.device("cpu")).held_out()) == 10, "those kept for the correction are not held out"
    assert info.correction.steps == 2 * sum(
        math.ceil(count / 16) for count in (info.correction.hypotheses, min(90, info.correction.hypotheses))
    )
    assert 20 <= info.correction.hypotheses <= 60
    wrong = info.held_out.correction
    assert 1 <= wrong.texts <= 10 and wrong.loss > 0 and wrong.corrected_loss > 0
    assert info.decoder.model is None, "from scratch, however many runs it took"
    kept = (tmp_path / "out" / ".resume" / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) >= info.correction.hypotheses and "may have been trained on" not in caplog.text
    assert f"of the {wrong.texts} it got wrong" not in caplog.text, "the command line says so, nobody else"
    assert "difference.map.weight" in load_file(tmp_path / "out" / "adapter.safetensors")
    assert load_checkpoint(tmp_path / "out", torch.device("cpu")).inverter.difference is not None


@pytest.mark.parametrize("step", [3, 5, 6, 9])
def test_stopped_and_resumed_is_uninterrupted(tmp_path, texts_file, labse, step, caplog):
    """Stopped in the first run, at its end, and in the second."""
    train(tiny_config(texts_file, labse, tmp_path / "whole", *CORRECTION))
    parts = tiny_config(texts_file, labse, tmp_path / "parts", *CORRECTION)
    stops = [stopping(step)] if step <= 5 else [Callbacks(), stopping(step - 5)]
    asked = iter(stops)
    hooks = Callbacks(stoppable=lambda: next(asked, Callbacks()).stoppable())
    assert not train(parts, callbacks=hooks).finished
    load_checkpoint(tmp_path / "parts", torch.device("cpu"))
    assert train(parts, resume=True).finished
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", rtol=0, atol=1e-5)
    assert "already finished" not in caplog.text and "may have been trained on" not in caplog.text


def test_a_stop_while_the_first_run_is_saved_ends_it(tmp_path, texts_file, labse, monkeypatch):
    asked = SimpleNamespace(stop=False)
    save = Trainer.save

    def interrupted(run, *arguments, **named):
        save(run, *arguments, **named)
        asked.stop = True

    @contextmanager
    def stoppable():
        yield lambda: asked.stop

    config = tiny_config(texts_file, labse, tmp_path / "out", *CORRECTION)
    monkeypatch.setattr(Trainer, "save", interrupted)
    assert not train(config, callbacks=Callbacks(stoppable=stoppable)).finished
    info = read_info(tmp_path / "out")
    assert info.training.finished and info.correction is None


def test_a_stop_before_the_first_step_of_the_correction_leaves_the_inverter(tmp_path, texts_file, labse):
    asked = iter([Callbacks(), stopping(0)])
    config = tiny_config(texts_file, labse, tmp_path / "out", *CORRECTION)
    assert not train(config, callbacks=Callbacks(stoppable=lambda: next(asked).stoppable())).finished
    assert read_info(tmp_path / "out").correction is None
    assert train(config, resume=True).finished and read_info(tmp_path / "out").correction.finished


def test_a_changed_request_is_not_resumed(tmp_path, texts_file, labse):
    config = tiny_config(texts_file, labse, tmp_path / "out", *CORRECTION)
    asked = iter([Callbacks(), stopping(2)])
    assert not train(config, callbacks=Callbacks(stoppable=lambda: next(asked).stoppable())).finished
    other = tiny_config(texts_file, labse, tmp_path / "out", "train.correction={texts: 0.1, hypotheses: 3, epochs: 2}", "train.epochs=1")
    with pytest.raises(RequestError, match=r"interrupted run had other settings: correction.texts \(was 0.2, now 0.1\)"):
        train(other, resume=True)
    with pytest.raises(RequestError, match=r"interrupted run had other settings: decoder.n_layer \(was 2, now 1\)"):
        train(tiny_config(texts_file, labse, tmp_path / "out", *CORRECTION, "decoder.scratch.n_layer=1"), resume=True)
    (tmp_path / "out" / ".resume" / "hypotheses.npy").unlink()
    with pytest.raises(RequestError, match="damaged, so the run cannot resume"):
        train(config, resume=True)


def test_a_run_that_died_before_its_first_save_is_begun_anew(tmp_path, texts_file, labse, checkpoint, monkeypatch):
    def dying(*arguments, **named):
        raise V2TError("out of memory")

    config = tiny_config(texts_file, labse, tmp_path / "out", *taught(checkpoint), "train.correction={texts: 0.1}")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", dying)
        with pytest.raises(V2TError, match="out of memory"):
            train(config)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".resume"]
    assert train(config).finished


def test_a_checkpoint_is_taught_to_correct(correcting, checkpoint):
    info, base = read_info(correcting), read_info(checkpoint)
    assert info.training == base.training and info.data == base.data and info.correction.finished
    assert read_info(checkpoint).correction is None, "the one it started from is left as it was"
    card = (correcting / "README.md").read_text(encoding="utf-8")
    assert f"learned to correct its own output, from {info.correction.hypotheses:,} wrong texts" in card
    assert "Those were made from: written for the tests." in card
    assert f"{base.data.texts - base.data.held_out:,} trained on" in card


def test_it_says_when_the_inverter_may_know_the_texts(tmp_path, texts_file, labse, checkpoint, caplog):
    sets = (*taught(checkpoint), "train.correction={texts: 0.1}")
    train(tiny_config(texts_file, labse, tmp_path / "out", *sets))
    assert "may have been trained on the texts set aside for correction" in caplog.text
    caplog.clear()
    # What the first run held out is enough for both: nothing to warn of, but with another seed it would be other texts.
    shares = (*taught(checkpoint), "train.correction={texts: 0.05}", "data.held_out=0.05")
    train(tiny_config(texts_file, labse, tmp_path / "fair", *shares))
    assert "may have been trained on" not in caplog.text
    train(tiny_config(texts_file, labse, tmp_path / "seed", *shares, "seed=1"))
    assert "may have been trained on the texts set aside for correction" in caplog.text


def test_held_out_texts_that_are_all_right_have_no_correction_loss(tmp_path, texts_file, labse, checkpoint, monkeypatch):
    read = correction.read_hypotheses

    def none_held_out(path, *arguments):
        found = read(path, *arguments)
        return found if path.name == "hypotheses" else type(found)(found.split.keep(np.arange(0)), found.vectors, [], np.empty((0, DIM)))

    monkeypatch.setattr(correction, "read_hypotheses", none_held_out)
    train(tiny_config(texts_file, labse, tmp_path / "out", *taught(checkpoint), "train.correction={texts: 0.1}"))
    assert read_info(tmp_path / "out").held_out.correction is None


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("train.epochs=0",), "there is nothing to train"),
        (("train.epochs=0", "train.correction={}"), "to train only the correction, name a v2t checkpoint as decoder.model"),
        (("train.correction={texts: 0.95}",), "leave no texts to train on: together they take 105%"),
    ],
)
def test_what_correction_needs(tmp_path, texts_file, labse, sets, message):
    with pytest.raises(RequestError, match=message):
        train(tiny_config(texts_file, labse, tmp_path / "out", *sets))
    assert not (tmp_path / "out").exists()


def test_correction_needs_an_encoder(tmp_path):
    (tmp_path / "t.txt").write_text("".join(line + "\n" for line in SENTENCES), encoding="utf-8")
    np.save(tmp_path / "v.npy", np.ones((len(SENTENCES), DIM), dtype=np.float32))
    sets = (f"data.vectors={tmp_path / 'v.npy'}", *CORRECTION)
    with pytest.raises(RequestError, match="name the encoder of data.vectors with encoder.model"):
        train(tiny_config(tmp_path / "t.txt", "null", tmp_path / "out", *sets))
    assert not (tmp_path / "out").exists(), "told before anything is trained"


def test_correction_needs_room(tmp_path, texts_file, labse):
    narrow = ("adapter={kind: linear, tokens: 16}", *CORRECTION)
    with pytest.raises(RequestError, match="after 48 prefix positions the decoder has no room for a hypothesis"):
        train(tiny_config(texts_file, labse, tmp_path / "out", *narrow))
    assert not (tmp_path / "out").exists()
