"""Everything that goes to stderr: messages, warnings, errors, progress bars. stdout is for data."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

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


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Advance]:
    """A Track that draws a bar on a terminal and nothing elsewhere, so that logs stay readable."""
    if not shows_progress():
        yield lambda count: None
        return
    from rich import progress as bar
    from rich.text import Text

    class Rate(bar.ProgressColumn):
        def render(self, task: bar.Task) -> Text:
            return Text(f"{task.speed:,.0f}/s" if task.speed and task.total else "")

    amounts = bar.TextColumn("{task.description}"), bar.BarColumn(), bar.MofNCompleteColumn(), Rate()
    times = bar.TimeElapsedColumn(), bar.TimeRemainingColumn()
    with drawing() as console, bar.Progress(*amounts, *times, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


def shows_progress() -> bool:
    """Whether progress is drawn: on a terminal, by the main process, without --quiet."""
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
