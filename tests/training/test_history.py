"""The history of a training: log.jsonl, its picture, and what the trackers get."""

import json

import pytest
from tiny import stopping, tiny_config

from v2t_cli.core.errors import RequestError
from v2t_cli.training.history import History
from v2t_cli.training.train import train


def events(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_course_of_a_run_is_written_down(tmp_path, texts_file, labse, monkeypatch):
    monkeypatch.setattr("v2t_cli.training.trainer.LOG_STEPS", 2)
    output = tmp_path / "out"
    sets = ["train.epochs=2", "train.eval_steps=6", "train.save_steps=5", "train.samples=1"]
    train(tiny_config(texts_file, labse, output, *sets))
    found = events(output)
    assert [(it["event"], it["step"]) for it in found if it["event"] != "step"] == [
        *(("save", 5), ("evaluation", 6), ("save", 10), ("evaluation", 12), ("save", 12))
    ]
    steps = [it for it in found if it["event"] == "step"]
    assert [it["step"] for it in steps] == [2, 4, 6, 8, 10, 12] and all(it["loss"] > 0 and it["tokens_per_second"] > 0 for it in steps)
    assert steps[-1]["learning_rate"] < steps[1]["learning_rate"] <= 5e-4
    assert len(found[-2]["samples"]) == 1 and found[-2]["perplexity"] > 1
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "(loss.png)" in (output / "README.md").read_text(encoding="utf-8")


def test_a_resumed_run_forgets_what_came_after_its_save(tmp_path, texts_file, labse, monkeypatch):
    monkeypatch.setattr("v2t_cli.training.trainer.LOG_STEPS", 2)
    output = tmp_path / "out"
    config = tiny_config(texts_file, labse, output, "train.epochs=1", "train.samples=0")
    train(config, callbacks=stopping(3))
    with open(output / "log.jsonl", "a", encoding="utf-8") as stream:  # as a killed run leaves it
        stream.write('{"event": "step", "step": 4, "loss": 9.0}\n{"event": "step", "st')
    train(config, resume=True)
    assert [it["step"] for it in events(output) if it["event"] == "step"] == [2, 4, 6]
    assert all(it.get("loss") != 9.0 for it in events(output))
    (output / "loss.png").write_bytes(b"of the run before")
    train(config, callbacks=stopping(0), overwrite=True)
    assert not (output / "loss.png").exists()
    train(config, overwrite=True)
    assert [it["step"] for it in events(output) if it["event"] == "step"] == [2, 4, 6]


def test_no_picture_of_nothing(tmp_path):
    history = History(tmp_path)
    assert history.picture() is None and list(history.events()) == []
    history.add("save", step=0)
    assert history.picture() is None


def test_tensorboard(tmp_path, texts_file, labse, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("v2t_cli.training.trainer.LOG_STEPS", 2)
    train(tiny_config(texts_file, labse, tmp_path / "out", "train.epochs=1", "train.trackers=[tensorboard]"))
    written = EventAccumulator(str(tmp_path / "out" / "v2t")).Reload()
    assert [it.step for it in written.Scalars("step/loss")] == [2, 4, 6] and len(written.Scalars("evaluation/loss")) == 1


def test_a_tracker_that_is_not_installed(tmp_path, texts_file, labse, monkeypatch):
    monkeypatch.setattr("v2t_cli.training.prepare.get_available_trackers", list)
    with pytest.raises(RequestError, match="wandb is not installed; pip install wandb"):
        train(tiny_config(texts_file, labse, tmp_path / "out", "train.trackers=[wandb]"))
    assert not (tmp_path / "out").exists()


def test_a_picture_that_cannot_be_drawn(tmp_path, monkeypatch, caplog):
    history = History(tmp_path)
    history.add("step", step=2, loss=1.0)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **options: 1 / 0)
    assert history.picture() is None and "cannot plot the losses: division by zero" in caplog.text
