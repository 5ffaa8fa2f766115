"""The tables that `v2t eval` prints."""

from __future__ import annotations

import io
import shutil

from rich.console import Console
from rich.table import Column, Table

from v2t_cli.core.one_line import to_line
from v2t_cli.evaluation.evaluate import Evaluation

SCORES = (  # heading, attribute of TextScores, format
    ("exact match", "exact_match", "{:.1%}"),
    ("exact, case and blanks aside", "same_words", "{:.1%}"),
    ("BLEU", "bleu", "{:.1f}"),
    ("chrF", "chrf", "{:.1f}"),
    ("token F1", "token_f1", "{:.3f}"),
    ("cosine", "cosine", "{:.3f}"),
)


def evaluation_tables(result: Evaluation) -> str:
    """The scores, the scores by length and by cosine, and the sample pairs, as wide as the terminal."""
    out = io.StringIO()  # not stdout: there rich turns a closed pipe into an exit code of its own
    console = Console(file=out, highlight=False, markup=False, emoji=False, width=shutil.get_terminal_size().columns)
    scores = result.scores
    console.print(
        f"{scores.n:,} texts, quality {result.quality} ({result.strategy}): {result.milliseconds:,.0f} ms per vector", soft_wrap=True
    )
    console.print(_scores(result))
    console.print(f"BLEU {scores.bleu_signature}\nchrF {scores.chrf_signature}", soft_wrap=True)
    for unit, rows in (("words", result.by_words), ("tokens", result.by_length)):
        lengths = _table(unit, "texts", "exact match", "BLEU", "chrF", "cosine")
        for row in rows:
            cosine = _formatted(row.cosine, "{:.3f}")
            lengths.add_row(row.length, str(row.n), f"{row.exact_match:.1%}", f"{row.bleu:.1f}", f"{row.chrf:.1f}", cosine)
        console.print(lengths)
    if result.confidence:
        bands = _table("cosine", "texts", "exact")
        for band in result.confidence:
            bands.add_row(band.cosine, str(band.n), _formatted(band.exact_match, "{:.1%}"))
        console.print(bands)
    if result.word_confidence:
        words = _table("probability of a word", "words", "in the true text")
        for part in result.word_confidence:
            words.add_row(part.probability, str(part.n), _formatted(part.right, "{:.1%}"))
        console.print(words)
    if result.samples:
        pairs = Table("source", "generated", Column("cosine", justify="right"))
        for sample in result.samples:
            pairs.add_row(to_line(sample.source), to_line(sample.text), _formatted(sample.cosine, "{:.3f}"))
        console.print(pairs)
    return out.getvalue().rstrip("\n")


def _scores(result: Evaluation) -> Table:
    """Each score with its 95 % interval, beside that of the nearest training text where that is known."""
    table = _table("score", "value", "95 %", *([] if result.nearest is None else ["nearest training text"]))
    table.add_row("loss, nats per token", f"{result.loss:.3f}", "{:.3f} - {:.3f}".format(*result.loss_interval))
    table.add_row("perplexity", f"{result.perplexity:.2f}")
    for name, key, form in SCORES:
        interval = " - ".join(form.format(bound) for bound in result.scores.intervals.get(key, ()))
        nearest = [] if result.nearest is None else [_formatted(getattr(result.nearest, key), form)]
        table.add_row(name, _formatted(getattr(result.scores, key), form), interval, *nearest)
        if key == "exact_match":
            for it in result.entities:
                if it.interval:
                    table.add_row(f"  {it.kind}, of {it.n:,}", _formatted(it.fraction, form), " - ".join(map(form.format, it.interval)))
    if result.cut_texts:
        table.add_row("texts cut by the encoder", f"{result.cut_texts:,}")
    if result.unknown_words is not None:
        table.add_row("unknown words in wrong texts", f"{result.unknown_words:.1%}")
    return table


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _table(first: str, *numbers: str) -> Table:
    """An empty table whose columns after the first are right-aligned."""
    return Table(first, *(Column(heading, justify="right") for heading in numbers))
