"""stderr: progress is for terminals, and notes stand above what is drawn there."""

import io
import re

import pytest
from rich.console import Console
from rich.progress_bar import ProgressBar

from v2t_cli.core import console


def test_progress_is_for_terminals(monkeypatch):
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


def test_what_is_logged_stands_above_the_progress(monkeypatch):
    console.show_log()
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr("v2t_cli.core.console._Stderr", lambda **options: screen)
    with console.progress_bar("embedding", 10) as advance:
        advance(5)
        console.log.info("a note")
    assert re.search(r"\x1b\[2Ka note\n", screen.file.getvalue()), screen.file.getvalue()


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def batch(advance, rows):
    for _ in range(rows):
        advance(1)


def test_a_batch_that_comes_at_once_is_not_the_speed_of_light(clock):
    pace = console.Pace(1280)
    assert str(pace) == ""
    for _ in range(3):
        clock[0] += 14
        batch(pace.advance, 128)
        clock[0] += 0.001
    assert pace.speed == pytest.approx(128 / 14, rel=0.01) and pace.seconds_left == pytest.approx(7 * 14, rel=0.01)
    clock[0] += 10
    assert pace.seconds_left == pytest.approx(7 * 14 - 10, rel=0.01), "it counts down between the batches"
    assert str(pace) == "9.1/s, 0:01:28 left"


@pytest.mark.parametrize("seconds", [0.003, 0.7, 5, 400])
def test_the_speed_is_right_for_any_rhythm(clock, seconds):
    pace = console.Pace(None)
    for _ in range(int(200 / seconds) if seconds < 100 else 3):
        clock[0] += seconds
        batch(pace.advance, 10)
    assert pace.speed == pytest.approx(10 / seconds, rel=0.01)
    assert pace.seconds_left is None and str(pace).endswith("/s")


def test_the_speed_is_that_of_the_last_minute(clock):
    pace = console.Pace(10_000)
    for rows in [1000] * 5 + [10] * 100:
        clock[0] += 1
        pace.advance(rows)
    assert pace.speed == pytest.approx(10, rel=0.01)


def test_where_stderr_is_no_terminal_a_line_comes_every_30_seconds(clock, caplog):
    with console.progress_bar("decoding", 1000) as advance:
        for _ in range(100):
            clock[0] += 1
            advance(10)
    left = {300: "1:10", 600: "0:40", 900: "0:10"}
    assert caplog.messages == [f"decoding: {rows} of 1,000, 10/s, 0:0{left[rows]} left" for rows in left]
    caplog.clear()
    with console.progress_bar("embedding", None) as advance:
        clock[0] += 29
        advance(10)
        assert not caplog.messages
        clock[0] += 2
        advance(2090)
    assert caplog.messages == ["embedding: 2,100, 68/s"]


def test_the_bar_moves_before_the_first_batch_is_there(monkeypatch):
    pulses = []

    class Recorder(ProgressBar):
        def __rich_console__(self, console, options):
            pulses.append(self.pulse)
            yield from super().__rich_console__(console, options)

    monkeypatch.setattr("rich.progress.ProgressBar", Recorder)
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr("v2t_cli.core.console.stderr", lambda: screen)
    with console.bar("decoding", 100) as advance:
        screen._live_stack[0].refresh()
        assert pulses and all(pulses)
        advance(50)
        screen._live_stack[0].refresh()
        assert not pulses[-1] and "50/100" in screen.file.getvalue()
