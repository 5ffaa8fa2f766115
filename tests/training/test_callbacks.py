"""What the command line shows of a training: on a terminal a live view, in a log file plain lines."""

import io
import re

from rich.console import Console

from v2t_cli.core import console
from v2t_cli.models.metadata import HeldOutScores
from v2t_cli.training.callbacks import EvalReport, StepReport, TrainingView

SCORES = HeldOutScores(texts=9, loss=1.5, perplexity=4.5)
PAIRS = [("Где лодка?", "Где [red]лодка[/red]?"), ("Чай\x1b[31m", "Чай")]


def shown(monkeypatch, terminal, caplog):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=100, markup=False, emoji=False)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    monkeypatch.setattr("v2t_cli.training.callbacks.shows_progress", lambda: terminal)
    view = TrainingView()
    with view.shown():
        view.step(StepReport(200, 0.25, 1.0, 1e-4, 2.345, 1234.5))
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
        "step 200 (25.0%): loss 2.345, 1,234 tokens/s",
        "step 200, 1.0 minutes: held-out loss 1.5000 nats per token",
        "  Где лодка? ==> Где [red]лодка[/red]?",
        "  Чай [31m ==> Чай",
        "step 200: saved",
    ]
