"""stderr: progress is for terminals, and notes stand above what is drawn there."""

import io
import re

from rich.console import Console

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
