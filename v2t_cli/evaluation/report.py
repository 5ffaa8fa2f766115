"""What people read: the course of a training run, on stderr, and the tables of `v2t eval`, on stdout."""

from __future__ import annotations

import io
import shutil

from rich.console import Console
from rich.table import Column, Table

from v2t_cli.core.one_line import to_line
from v2t_cli.evaluation.evaluate import Evaluation


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
