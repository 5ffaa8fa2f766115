"""What a training reports while it runs, and how the command line shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from v2t_cli.core.console import Track, drawing, log, shows_progress, silent
from v2t_cli.core.one_line import to_line
from v2t_cli.models.metadata import HeldOutScores

LOG_STEPS = 20


@dataclass
class StepReport:
    """Every LOG_STEPS steps: where the run is."""

    step: int
    fraction: float  # of the whole run, 0 to 1
    minutes: float
    learning_rate: float  # of the decoder
    loss: float  # nats per token over the last LOG_STEPS steps, on this process's texts
    tokens_per_second: float


@dataclass
class EvalReport:
    """Every train.eval_steps and at the end: scores on the held-out texts."""

    step: int
    minutes: float
    scores: HeldOutScores
    samples: list[tuple[str, str]]  # source, generated


@dataclass
class Callbacks:
    """What a caller can observe and decide while a run trains.

    stoppable: context manager around training; yields a function that returns True to stop.
    """

    step: Callable[[StepReport], None] = lambda report: None
    evaluation: Callable[[EvalReport], None] = lambda report: None
    save: Callable[[int], None] = lambda step: None
    stoppable: Callable[[], AbstractContextManager[Callable[[], bool]]] = lambda: nullcontext(lambda: False)
    track: Track = silent


class TrainingView:
    """Shows a training on stderr: a live view on a terminal, plain lines elsewhere."""

    EVERY_STEPS = 200  # between plain lines

    def __init__(self) -> None:
        self._progress = Progress(TextColumn("training"), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._task = self._progress.add_task("", total=1.0)
        self._pairs: list[tuple[str, str]] = []
        self._live = False

    def __rich__(self) -> Group:
        table = Table("source", "generated", title="held-out texts", title_justify="left", box=None, pad_edge=False)
        for source, generated in self._pairs:
            table.add_row(to_line(source), to_line(generated))
        return Group(self._progress, *([table] if self._pairs else []))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the view while a run trains; it stays on the screen."""
        self._live = shows_progress()
        if not self._live:
            yield
            return
        with drawing() as console, Live(self, console=console, refresh_per_second=4):
            yield

    def step(self, report: StepReport) -> None:
        # rich's own column considers only the last 30 seconds, and a step of a large decoder takes longer.
        left = timedelta(seconds=round(60 * report.minutes * (1 / report.fraction - 1))) if report.fraction else "?"
        done = f"{left} left, step {report.step:,}: loss {report.loss:.3f}, {report.tokens_per_second:,.0f} tokens/s"
        self._progress.update(self._task, completed=report.fraction, description=done)
        if not self._live and report.step % self.EVERY_STEPS == 0:
            log.info(f"step {report.step:,} ({report.fraction:.1%}): loss {report.loss:.3f}, {report.tokens_per_second:,.0f} tokens/s")

    def evaluation(self, report: EvalReport) -> None:
        log.info(f"step {report.step:,}, {report.minutes:.1f} minutes: held-out loss {report.scores.loss:.4f} nats per token")
        self._pairs = report.samples
        if not self._live:
            for source, generated in report.samples:
                log.info(f"  {to_line(source)} ==> {generated}")

    def save(self, step: int) -> None:
        log.info(f"step {step:,}: saved")
