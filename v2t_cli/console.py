"""Everything that goes to stderr: notes, warnings, errors, progress bars. stdout belongs to the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console

from v2t_cli.lines import to_line

# The modules below the command line report through this logger and print nothing themselves.
log = logging.getLogger("v2t")

Advance = Callable[[int], None]
Track = Callable[[str, int | None], AbstractContextManager[Advance]]


@contextmanager
def silent(description: str, total: int | None) -> Iterator[Advance]:
    """A Track that shows nothing: the default of every function that takes long."""
    yield lambda count: None


class _Stderr(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads our notes any more: no reason to end the work."""
        self.quiet = True


def stderr() -> Console:
    # Made anew each time: tests and pipes replace sys.stderr after import.
    return _Stderr(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Advance]:
    """A Track that draws a bar on a terminal and nothing elsewhere, so that logs stay readable."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (console.is_terminal and is_main_process())) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


class StderrHandler(logging.Handler):
    """Prints v2t's own records, warnings marked as such."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        stderr().print(mark + to_line(record.getMessage()))  # names out of files may hold what a terminal would obey


def is_main_process() -> bool:
    """Whether this process speaks: of several that a launcher (accelerate, torchrun) started, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def show_log() -> None:
    """Send v2t's records to stderr. Called by the command line alone: a library must not set up logging."""
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler())
    log.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    log.propagate = False


def error(message: str) -> None:
    stderr().print(f"error: {message}")
