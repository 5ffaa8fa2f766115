"""Everything that goes to stderr: messages, warnings, errors, progress bars. stdout is for data."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import NamedTuple

from rich.console import Console

from v2t_cli.core.one_line import to_line

# All modules below the command line report through this logger; they print nothing.
log = logging.getLogger("v2t")
Advance = Callable[[int], None]
Track = Callable[[str, int | None], AbstractContextManager[Advance]]


@contextmanager
def silent(description: str, total: int | None) -> Iterator[Advance]:
    """A Track that shows nothing: the default of every long-running function."""
    yield lambda count: None


class _Stderr(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads stderr any more; keep working without it."""
        self.quiet = True


_shown: list[Console] = []


def stderr() -> Console:
    """The console that draws a live view or bar at the moment, so that messages appear above it; otherwise a new one.

    A new one each time, because tests and pipes replace sys.stderr after import.
    """
    return _shown[-1] if _shown else _Stderr(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def drawing() -> Iterator[Console]:
    """A console for a live view or a progress bar; messages meanwhile appear above it."""
    console = stderr()
    _shown.append(console)
    try:
        yield console
    finally:
        _shown.pop()


class _Point(NamedTuple):
    begin: float  # seconds, of its first row
    end: float  # of its last row
    done: int  # rows so far


class Pace:
    """How many rows are done, how fast they come, and how long the rest will take.

    Rows come a batch at a time, so those of one moment are one point of the curve. The speed is that of about the last minute, and of
    one whole batch at least. Only rows of this run count: whoever resumes one gives the rows that are left as the total.
    """

    MOMENT, WINDOW = 1.0, 60.0  # seconds

    def __init__(self, total: int | None):
        self.total, self.done = total, 0
        now = time.monotonic()
        self._points = deque([_Point(now, now, 0)])

    def advance(self, count: int) -> None:
        self.done += count
        now, points = time.monotonic(), self._points
        if len(points) > 1 and now - points[-1].begin < self.MOMENT:
            points[-1] = _Point(points[-1].begin, now, self.done)
        else:
            points.append(_Point(now, now, self.done))
        while len(points) > 2 and points[1].end < now - self.WINDOW:
            points.popleft()

    @property
    def speed(self) -> float | None:
        """Rows per second; None before the first."""
        first, last = self._points[0], self._points[-1]
        return (last.done - first.done) / (last.end - first.end) if last.end > first.end else None

    @property
    def seconds_left(self) -> float | None:
        if not self.speed or self.total is None:
            return None
        return max(0.0, (self.total - self.done) / self.speed - (time.monotonic() - self._points[-1].end))

    def __str__(self) -> str:
        if not self.speed:
            return ""
        speed = f"{self.speed:,.{0 if self.speed >= 10 else 1}f}/s"
        return speed if self.seconds_left is None else f"{speed}, {timedelta(seconds=round(self.seconds_left))} left"


LINE_SECONDS = 30.0  # between plain lines


@contextmanager
def bar(description: str, total: int | None) -> Iterator[Advance]:
    """A Track that draws a bar on a terminal or in a notebook; elsewhere it logs a line every 30 seconds."""
    if stderr().is_terminal or stderr().is_jupyter:
        with _drawn(description, total) as advance:
            yield advance
    else:
        yield _lines(description, total)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Advance]:
    """The command line's Track: `bar`, but for --quiet and for all processes except the main one."""
    with (bar if log.isEnabledFor(logging.INFO) and is_main_process() else silent)(description, total) as advance:
        yield advance


def _lines(description: str, total: int | None) -> Advance:
    pace, told = Pace(total), time.monotonic()

    def advance(count: int) -> None:
        nonlocal told
        pace.advance(count)
        if pace.done != total and time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            log.info(f"{description}: {pace.done:,}" + (f" of {total:,}" if total else "") + f", {pace}")

    return advance


@contextmanager
def _drawn(description: str, total: int | None) -> Iterator[Advance]:
    from rich import progress
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    pace = Pace(total)

    class Bar(progress.BarColumn):
        """Moves to and fro until the first rows are there: a batch may take a minute."""

        def render(self, task: progress.Task) -> ProgressBar:
            drawn = super().render(task)
            drawn.pulse = drawn.pulse or not task.completed
            return drawn

    class Estimate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            return Text(str(pace))

    columns = progress.TextColumn("{task.description}"), Bar(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn(), Estimate()
    with drawing() as console, progress.Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(description, total=total)

        def advance(count: int) -> None:
            pace.advance(count)
            shown.advance(task, count)

        yield advance


def shows_progress() -> bool:
    """Whether the command line draws progress: on a terminal, by the main process, without --quiet."""
    return stderr().is_terminal and is_main_process() and log.isEnabledFor(logging.INFO)


class StderrHandler(logging.Handler):
    """Prints v2t's own messages, with a mark before warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        mark = "warning: " if record.levelno >= logging.WARNING else ""
        stderr().print(mark + to_line(record.getMessage()))  # file names may hold control characters


def is_main_process() -> bool:
    """Whether this process reports: of several that accelerate or torchrun started, only the first does."""
    return os.environ.get("RANK", "0") == "0"


def show_log() -> None:
    """Send v2t's messages to stderr. Only the command line calls this: a library must not set up logging."""
    if not any(isinstance(handler, StderrHandler) for handler in log.handlers):
        log.addHandler(StderrHandler())
    log.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    log.propagate = False


def be_quiet(asked: bool) -> None:
    """Callback of --quiet: only warnings and errors, no progress."""
    if asked:
        log.setLevel(max(log.level, logging.WARNING))


def be_verbose(asked: bool) -> None:
    """Callback of --verbose: all messages, also those of the libraries."""
    if asked and is_main_process():
        log.setLevel(logging.DEBUG)


def error(message: str) -> None:
    stderr().print(f"error: {to_line(message)}")


def quiet_libraries() -> None:
    """Silence the libraries' progress bars and messages. Loads torch, so commands call it late."""
    if log.isEnabledFor(logging.DEBUG):  # --verbose
        return
    import transformers
    from huggingface_hub.utils.tqdm import disable_progress_bars

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
