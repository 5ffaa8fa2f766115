"""The table of `v2t eval`, on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from v2t_cli.evaluation import Evaluation


def print_evaluation(result: Evaluation) -> None:
    console = Console(highlight=False, markup=False)
    scores = Table(title=f"{result.n:,} texts, quality {result.quality} ({result.strategy})", title_justify="left")
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
        pairs = Table(title="samples", title_justify="left")
        pairs.add_column("source")
        pairs.add_column("generated")
        pairs.add_column("cosine", justify="right")
        for sample in result.samples:
            pairs.add_row(sample.source, sample.text, "" if sample.cosine is None else f"{sample.cosine:.3f}")
        console.print(pairs)
