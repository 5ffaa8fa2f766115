"""What people read: the course of a training run, on stderr, and the tables of `v2t eval`, on stdout."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column, Table

from v2t_cli.console import drawing, log, shows_progress
from v2t_cli.evaluation import Evaluation
from v2t_cli.hooks import EvalReport, StepReport
from v2t_cli.lines import to_line


def evaluation_tables(result: Evaluation) -> str:
    """Scores, by length and by confidence, and the sample pairs, as wide as the terminal."""
    # Rendered to a string, since rich turns a closed pipe into an exit code of its own.
    out = io.StringIO()
    console = Console(file=out, highlight=False, markup=False, emoji=False, width=shutil.get_terminal_size().columns)
    scores = result.scores
    console.print(
        f"{scores.n:,} texts, quality {result.quality} ({result.strategy}): {result.milliseconds:,.0f} ms a vector", soft_wrap=True
    )
    baseline = [] if result.nearest is None else ["nearest training text"]
    rows = [["loss, nats per token", f"{result.loss:.3f}", "{:.3f} - {:.3f}".format(*result.loss_interval), *([""] * len(baseline))]]
    rows.append(["perplexity", f"{result.perplexity:.2f}", "", *([""] * len(baseline))])
    for name, key, form in _SCORES:
        row = [name, _formatted(getattr(scores, key), form)]
        row.append(" - ".join(form.format(bound) for bound in scores.intervals.get(key, ())))
        rows.append(row + [_formatted(getattr(result.nearest, key), form) for _ in baseline])
    console.print(_table(["score", "value", "95 %", *baseline], rows))
    console.print(f"BLEU {scores.bleu_signature}\nchrF {scores.chrf_signature}", soft_wrap=True)
    lengths = [
        [row.tokens, str(row.n), f"{row.exact_match:.1%}", f"{row.bleu:.1f}", f"{row.chrf:.1f}", _formatted(row.cosine, "{:.3f}")]
        for row in result.by_length
    ]
    console.print(_table(["tokens", "texts", "exact match", "BLEU", "chrF", "cosine"], lengths))
    if result.confidence:
        bands = [[band.cosine, str(band.n), _formatted(band.exact_match, "{:.1%}")] for band in result.confidence]
        console.print(_table(["cosine", "texts", "exact"], bands))
    if result.samples:
        pairs = Table("source", "generated", Column("cosine", justify="right"))
        for sample in result.samples:
            pairs.add_row(to_line(sample.source), sample.text, _formatted(sample.cosine, "{:.3f}"))
        console.print(pairs)
    return out.getvalue().rstrip("\n")


_SCORES = (
    ("exact match", "exact_match", "{:.1%}"),
    ("BLEU", "bleu", "{:.1f}"),
    ("chrF", "chrf", "{:.1f}"),
    ("token F1", "token_f1", "{:.3f}"),
    ("cosine", "cosine", "{:.3f}"),
)


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(headings: list[str], rows: list[list[str]]) -> Table:
    """A table whose columns, but for the first, are numbers."""
    table = Table(headings[0], *(Column(heading, justify="right") for heading in headings[1:]))
    for row in rows:
        table.add_row(*row)
    return table


class TrainingView:
    """What a training shows: on a terminal a live view of where it is and what comes back, in a log file plain lines."""

    EVERY_STEPS = 200  # a line in a log file

    def __init__(self) -> None:
        self._progress = Progress(TextColumn("training"), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._task = self._progress.add_task("", total=1.0)
        self._pairs: list[tuple[str, str]] = []
        self._live = False

    def __rich__(self) -> Group:
        table = Table("source", "generated", title="held-out texts", title_justify="left", box=None, pad_edge=False)
        for source, generated in self._pairs:
            table.add_row(to_line(source), generated)
        return Group(self._progress, *([table] if self._pairs else []))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The view, for as long as a run trains; it stays on the screen."""
        self._live = shows_progress()
        if not self._live:
            yield
            return
        with drawing() as console, Live(self, console=console, refresh_per_second=4):
            yield

    def step(self, report: StepReport) -> None:
        # rich's own column forgets what lies more than 30 seconds back, and steps of a large decoder take longer.
        left = timedelta(seconds=round(60 * report.minutes * (1 / report.fraction - 1))) if report.fraction else "?"
        done = f"{left} left, step {report.step:,}: loss {report.loss:.3f}, {report.tokens_per_second:,.0f} tokens/s"
        self._progress.update(self._task, completed=report.fraction, description=done)
        if not self._live and report.step % self.EVERY_STEPS == 0:
            log.info(f"step {report.step:,} ({report.fraction:.1%}): loss {report.loss:.3f}, {report.tokens_per_second:,.0f} tokens/s")

    def evaluation(self, report: EvalReport) -> None:
        scores = report.scores
        wrong = scores.correction
        corrected = (
            f"; of the {wrong.texts:,} it got wrong {wrong.loss:.4f}, and {wrong.corrected_loss:.4f} given what it wrote" if wrong else ""
        )
        log.info(f"step {report.step:,}, {report.minutes:.1f} minutes: held-out loss {scores.loss:.4f} nats a token{corrected}")
        self._pairs = report.samples
        if not self._live:
            for source, generated in report.samples:
                log.info(f"  {to_line(source)} ==> {generated}")

    def save(self, step: int) -> None:
        log.info(f"step {step:,}: saved")
