"""Everything that goes to stderr: notes, warnings, errors, progress bars. stdout belongs to the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console

from v2t_cli.core.one_line import to_line

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


_shown: list[Console] = []


def stderr() -> Console:
    """The console that is drawing right now, for it must know what is printed above its drawing; else a new one.

    A new one each time: tests and pipes replace sys.stderr after import.
    """
    return _shown[-1] if _shown else _Stderr(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def drawing() -> Iterator[Console]:
    """A console for a live view or a progress bar; what is printed meanwhile goes above it."""
    console = stderr()
    _shown.append(console)
    try:
        yield console
    finally:
        _shown.pop()


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Advance]:
    """A Track that draws a bar on a terminal and nothing elsewhere, so that logs stay readable."""
    if not shows_progress():
        yield lambda count: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed and task.total else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(), TimeRemainingColumn())
    with drawing() as console, Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


def shows_progress() -> bool:
    """Whether there is somebody to watch: on a terminal, of the main process, and not where quiet was asked for."""
    return stderr().is_terminal and is_main_process() and log.isEnabledFor(logging.INFO)


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


def be_quiet(asked: bool) -> None:
    """Of a command's options: warnings and errors alone, no progress."""
    if asked:
        log.setLevel(max(log.level, logging.WARNING))


def be_verbose(asked: bool) -> None:
    """Of a command's options: everything that is known, and what the libraries have to say."""
    if asked and is_main_process():
        log.setLevel(logging.DEBUG)


def is_verbose() -> bool:
    return log.isEnabledFor(logging.DEBUG)


def error(message: str) -> None:
    stderr().print(f"error: {message}")


def quiet_libraries() -> None:
    """No progress bars and chatter of the libraries between our own lines. Loads torch, so commands call it late."""
    if is_verbose():
        return
    import transformers
    from huggingface_hub.utils.tqdm import disable_progress_bars

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
