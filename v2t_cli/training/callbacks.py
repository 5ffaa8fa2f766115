"""What a training reports while it runs, and how the command line shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from v2t_cli.core.console import LINE_SECONDS, Track, drawing, log, shows_progress, silent
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

    def __init__(self) -> None:
        self._progress = Progress(TextColumn("training"), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._task = self._progress.add_task("", total=1.0)
        self._pairs: list[tuple[str, str]] = []
        self._live = self._ended = False
        self._told = time.monotonic()
        self._begin: StepReport | None = None  # the first report of this run, which may have resumed another

    def __rich__(self) -> Group:
        table = Table("source", "generated", title="held-out texts", title_justify="left", box=None, pad_edge=False)
        for source, generated in self._pairs:
            table.add_row(to_line(source), to_line(generated))
        return Group(*([] if self._ended else [self._progress]), *([table] if self._pairs else []))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the view while a run trains; its pairs of texts stay on the screen."""
        self._live = shows_progress()
        if not self._live:
            yield
            return
        with drawing() as console, Live(self, console=console, refresh_per_second=4):
            try:
                yield
            finally:
                self._ended = True

    def step(self, report: StepReport) -> None:
        speed, left = f"loss {report.loss:.3f}, {report.tokens_per_second:,.0f} tokens/s", self._left(report)
        self._progress.update(self._task, completed=report.fraction, description=f"{left} left, step {report.step:,}: {speed}")
        if not self._live and time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            log.info(f"step {report.step:,} ({report.fraction:.1%}): {speed}, {left} left")

    def _left(self, report: StepReport) -> timedelta | str:
        """How long the rest takes at this run's speed, which need not be that of the run it resumed.

        rich's own column considers only the last 30 seconds, and a step of a large decoder takes longer.
        """
        begin = self._begin or StepReport(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        self._begin = self._begin or report
        if report.fraction <= begin.fraction:
            return "?"
        return timedelta(seconds=round(60 * (report.minutes - begin.minutes) * (1 - report.fraction) / (report.fraction - begin.fraction)))

    def evaluation(self, report: EvalReport) -> None:
        log.info(f"step {report.step:,}, {report.minutes:.1f} minutes: held-out loss {report.scores.loss:.4f} nats per token")
        self._pairs = report.samples
        if not self._live:
            for source, generated in report.samples:
                log.info(f"  {to_line(source)} ==> {generated}")

    def save(self, step: int) -> None:
        log.info(f"step {step:,}: saved")
