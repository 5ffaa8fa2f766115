"""What the command line shows of a training: on a terminal a live view, in a log file plain lines."""

import io
import re

from rich.console import Console

from v2t_cli.core import console
from v2t_cli.models.metadata import HeldOutScores
from v2t_cli.training.callbacks import EvalReport, StepReport, TrainingView

SCORES = HeldOutScores(texts=9, loss=1.5, perplexity=4.5)
PAIRS = [("Где лодка?", "Где [red]лодка[/red]?"), ("Чай\x1b[31m", "Чай")]


def report(step, fraction, minutes):
    return StepReport(step, fraction, minutes, 1e-4, 2.345, 1234.5)


def shown(monkeypatch, terminal, caplog):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=100, markup=False, emoji=False)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    monkeypatch.setattr("v2t_cli.training.callbacks.shows_progress", lambda: terminal)
    monkeypatch.setattr("v2t_cli.training.callbacks.LINE_SECONDS", 0)
    view = TrainingView()
    with view.shown():
        view.step(report(200, 0.25, 1.0))
        if terminal:
            screen._live_stack[0].refresh()
        view.evaluation(EvalReport(200, 1.0, SCORES, PAIRS))
        view.save(200)
    return screen.file.getvalue(), caplog.messages


def test_on_a_terminal_the_pairs_stay(monkeypatch, caplog):
    screen, lines = shown(monkeypatch, True, caplog)
    assert "0:03:00 left, step 200: loss 2.345, 1,234 tokens/s" in screen and "25%" in screen and "Где [red]лодка[/red]?" in screen
    assert "\x1b[31m" not in screen, "no escape of a text's own"
    assert lines == ["step 200, 1.0 minutes: held-out loss 1.5000 nats per token", "step 200: saved"]


def test_what_is_logged_stands_above_the_live_view(monkeypatch):
    console.show_log()
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    view = TrainingView()
    with view.shown():
        view.step(StepReport(20, 0.25, 1.0, 1e-4, 2.345, 1234.5))
        view.save(20)
    # The drawing is erased before it, and nothing stands beside it.
    assert re.search(r"\x1b\[2Kstep 20: saved\n", screen.file.getvalue()), screen.file.getvalue()


def test_in_a_log_file_there_are_plain_lines(monkeypatch, caplog):
    screen, lines = shown(monkeypatch, False, caplog)
    assert screen == ""
    assert lines == [
        "step 200 (25.0%): loss 2.345, 1,234 tokens/s, 0:03:00 left",
        "step 200, 1.0 minutes: held-out loss 1.5000 nats per token",
        "  Где лодка? ==> Где [red]лодка[/red]?",
        "  Чай [31m ==> Чай",
        "step 200: saved",
    ]


def test_plain_lines_come_every_30_seconds(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    view = TrainingView()
    with view.shown():
        for step in range(1, 10):
            now[0] = 10.0 * step
            view.step(report(step, step / 10, step / 6))
    left = {3: "1:10", 6: "0:40", 9: "0:10"}
    assert caplog.messages == [f"step {step} ({step}0.0%): loss 2.345, 1,234 tokens/s, 0:0{left[step]} left" for step in left]


def test_the_time_left_is_that_of_the_resumed_run(monkeypatch, caplog):
    """The first run took 60 minutes for half of it, on a slower machine."""
    monkeypatch.setattr("v2t_cli.training.callbacks.LINE_SECONDS", 0)
    view = TrainingView()
    for step, fraction, minutes in ((100, 0.5, 60.0), (120, 0.6, 61.0), (140, 0.7, 62.0)):
        view.step(report(step, fraction, minutes))
    assert [line.split(", ")[-1] for line in caplog.messages] == ["1:00:00 left", "0:04:00 left", "0:03:00 left"]


def test_a_finished_view_leaves_no_stale_percentage(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, markup=False, emoji=False)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    monkeypatch.setattr("v2t_cli.training.callbacks.shows_progress", lambda: True)
    view = TrainingView()
    with view.shown():
        view.step(report(2860, 0.98, 2.8))
        view.evaluation(EvalReport(2880, 2.8, SCORES, PAIRS))
        screen._live_stack[0].refresh()
        assert "98%" in screen.file.getvalue()
    stays = screen.file.getvalue().rpartition("\x1b[2K")[2]  # since the last erasure
    assert "98%" not in stays and "Где лодка?" in stays
