"""What people read: the course of a training run, on stderr, and the tables of `v2t eval`, on stdout."""

from __future__ import annotations

import io
import shutil
from contextlib import ExitStack

from rich.console import Console
from rich.table import Table

from v2t_cli.console import log, progress_bar
from v2t_cli.evaluation import Evaluation
from v2t_cli.loop import EvalReport, StepReport


def evaluation_tables(result: Evaluation) -> str:
    """The scores and the sample pairs, as wide as the terminal."""
    # Rendered to a string, since rich turns a closed pipe into an exit code of its own.
    console = Console(file=io.StringIO(), highlight=False, markup=False, width=shutil.get_terminal_size().columns)
    console.print(f"{result.n:,} texts, quality {result.quality} ({result.strategy})", soft_wrap=True)
    scores = Table()
    scores.add_column("score")
    scores.add_column("value", justify="right")
    for name, value in (
        ("loss, nats per token", f"{result.loss:.3f}"),
        ("perplexity", f"{result.perplexity:.2f}"),
        ("exact match", f"{result.exact_match:.1%}"),
        ("BLEU", f"{result.bleu:.1f}"),
        ("chrF", f"{result.chrf:.1f}"),
        ("token F1", f"{result.token_f1:.3f}"),
        ("cosine", "not computed" if result.cosine is None else f"{result.cosine:.3f}"),
    ):
        scores.add_row(name, value)
    console.print(scores)
    console.print(f"BLEU {result.bleu_signature}\nchrF {result.chrf_signature}", soft_wrap=True)
    if result.samples:
        pairs = Table()
        pairs.add_column("source")
        pairs.add_column("generated")
        pairs.add_column("cosine", justify="right")
        for sample in result.samples:
            pairs.add_row(sample.source, sample.text, "" if sample.cosine is None else f"{sample.cosine:.3f}")
        console.print(pairs)
    return console.file.getvalue()


class StepPrinter:
    """A bar on a terminal, and a line every EVERY_STEPS steps for the record."""

    EVERY_STEPS = 200

    def __init__(self, stack: ExitStack):
        self._stack = stack
        self._advance = None
        self._shown = 0

    def __call__(self, report: StepReport) -> None:
        if self._advance is None:
            self._advance = self._stack.enter_context(progress_bar("training (‰)", 1000))
        self._advance(round(report.fraction * 1000) - self._shown)
        self._shown = round(report.fraction * 1000)
        if report.step % self.EVERY_STEPS == 0:
            speed = f"{report.tokens_per_second:,.0f} tokens/s"
            log.info(f"step {report.step:,} ({report.fraction:.1%}): loss {report.loss:.3f}, {speed}")


def print_held_out(report: EvalReport) -> None:
    log.info(f"step {report.step:,}, {report.minutes:.1f} minutes: held-out loss {report.loss:.4f} nats a token")
    for source, generated in report.samples:
        log.info(f"  {source} ==> {generated}")
