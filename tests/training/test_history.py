"""Watching a training: log.jsonl, its picture, the trackers, and what is shown on a terminal and in a log file."""

import io
import json
import re

import pytest
from conftest import stopping, tiny_config
from rich.console import Console

from v2t_cli.core.errors import RequestError
from v2t_cli.evaluation import report
from v2t_cli.models.metadata import Scores
from v2t_cli.training.callbacks import EvalReport, StepReport
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
    train(config, hooks=stopping(3))
    with open(output / "log.jsonl", "a", encoding="utf-8") as stream:  # as a killed run leaves it
        stream.write('{"event": "step", "run": 1, "step": 4, "loss": 9.0}\n{"event": "step", "ru')
    train(config, resume_run=True)
    assert [it["step"] for it in events(output) if it["event"] == "step"] == [2, 4, 6]
    assert all(it.get("loss") != 9.0 for it in events(output))
    (output / "loss.png").write_bytes(b"of the run before")
    train(config, hooks=stopping(0), overwrite=True)
    assert not (output / "loss.png").exists()
    train(config, overwrite=True)
    assert [it["step"] for it in events(output) if it["event"] == "step"] == [2, 4, 6]


def test_no_picture_of_nothing(tmp_path):
    history = History(tmp_path)
    assert history.picture(1) is None and list(history.events()) == []
    history.add("save", run=1, step=0)
    assert history.picture(1) is None


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


SCORES = Scores(texts=9, loss=1.5, perplexity=4.5)
PAIRS = [("Где лодка?", "Где [red]лодка[/red]?"), ("Чай\x1b[31m", "Чай")]


def shown(monkeypatch, terminal, caplog):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=100, markup=False, emoji=False)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    monkeypatch.setattr("v2t_cli.training.callbacks.shows_progress", lambda: terminal)
    view = report.TrainingView()
    with view.shown():
        view.step(StepReport(200, 0.25, 1.0, 1e-4, 2.345, 1234.5))
        view.evaluation(EvalReport(200, 1.0, SCORES, PAIRS))
        view.save(200)
    return screen.file.getvalue(), caplog.messages


def test_on_a_terminal_the_pairs_stay(monkeypatch, caplog):
    screen, lines = shown(monkeypatch, True, caplog)
    assert "0:03:00 left, step 200: loss 2.345, 1,234 tokens/s" in screen and "25%" in screen and "Где [red]лодка[/red]?" in screen
    assert "\x1b[31m" not in screen, "no escape of a text's own"
    assert lines == ["step 200, 1.0 minutes: held-out loss 1.5000 nats a token", "step 200: saved"]


def test_what_is_logged_stands_above_the_live_view(monkeypatch):
    from v2t_cli.core import console

    console.show_log()
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    view = report.TrainingView()
    with view.shown():
        view.step(StepReport(20, 0.25, 1.0, 1e-4, 2.345, 1234.5))
        view.save(20)
    with console.progress_bar("embedding", 10) as advance:
        advance(5)
        console.log.info("a note")
    for line in ("step 20: saved", "a note"):  # the drawing is erased before it, and nothing stands beside it
        assert re.search(rf"\x1b\[2K{line}\n", screen.file.getvalue()), screen.file.getvalue()


def test_a_picture_that_cannot_be_drawn(tmp_path, monkeypatch, caplog):
    history = History(tmp_path)
    history.add("step", run=1, step=2, loss=1.0)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **options: 1 / 0)
    assert history.picture(1) is None and "the losses cannot be drawn: division by zero" in caplog.text


def test_a_log_of_somebody_else_is_no_left_over(tmp_path, texts_file, labse):
    output = tmp_path / "out"
    output.mkdir()
    for content in ('{"message": "mine"}\n', "12:00 begun\n"):
        (output / "log.jsonl").write_text(content)
        with pytest.raises(RequestError, match="holds something other than a v2t checkpoint"):
            train(tiny_config(texts_file, labse, output))
        assert (output / "log.jsonl").read_text() == content
    (output / "log.jsonl").unlink()
    (output / "v2t").mkdir()
    (output / "v2t" / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something other"):
        train(tiny_config(texts_file, labse, output))


def test_in_a_log_file_there_are_plain_lines(monkeypatch, caplog):
    screen, lines = shown(monkeypatch, False, caplog)
    assert screen == ""
    assert lines == [
        "step 200 (25.0%): loss 2.345, 1,234 tokens/s",
        "step 200, 1.0 minutes: held-out loss 1.5000 nats a token",
        "  Где лодка? ==> Где [red]лодка[/red]?",
        "  Чай [31m ==> Чай",
        "step 200: saved",
    ]


def test_quiet_and_verbose(v2t, checkpoint, texts_file):
    command = ("eval", "--checkpoint", checkpoint, "--texts", texts_file, "--quality", "fast", "--device", "cpu")
    assert "no nearest-neighbour baseline" in v2t(*command).stderr
    assert v2t(*command, "--quiet").stderr == ""
    told = v2t(*command, "-v").stderr
    assert 'settings: {"seed":0' in told and "no nearest-neighbour baseline" in told
    result = v2t("eval", "--checkpoint", "absent", "-q")
    assert result.exit_code == 2 and result.stderr.startswith("error: absent")


def test_progress_is_for_terminals(monkeypatch):
    from v2t_cli.core import console

    console.show_log()
    for terminal, expected in ((True, True), (False, False)):
        monkeypatch.setattr("v2t_cli.core.console.stderr", lambda terminal=terminal: Console(file=io.StringIO(), force_terminal=terminal))
        assert console.shows_progress() is expected
    monkeypatch.setattr("v2t_cli.core.console.stderr", lambda: Console(file=io.StringIO(), force_terminal=True))
    console.be_quiet(True)
    assert not console.shows_progress()
    console.show_log()
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("v2t_cli.core.console.stderr", lambda: screen)
    with console.progress_bar("embedding", 10) as advance:
        advance(10)
    assert "embedding" in screen.file.getvalue() and "10/10" in screen.file.getvalue()
