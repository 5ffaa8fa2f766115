"""Exact match against milliseconds per vector: the curves of the README, one for each pair of a checkpoint and a file of texts.

python -m tests.benchmarks.fidelity curve.png examples/en-mini everyday.txt examples/ru-mini sentences.txt
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from v2t_cli.core.config import Config, DecodeConfig
from v2t_cli.core.console import log, show_log
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.evaluate import evaluate
from v2t_cli.io.texts import read_lines
from v2t_cli.models.checkpoint import open_checkpoint
from v2t_cli.models.encoder import embed_all

# The presets, and what lies between and beyond them.
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("fast", {"quality": "fast"}),
    ("8 beams, re-ranked", {"feedback": 0, "rounds": 0}),
    ("written again", {"rounds": 0}),
    ("1 round", {"rounds": 1}),
    ("balanced", {"quality": "balanced"}),
    ("best, 4 rounds", {"quality": "best", "rounds": 4}),
    ("best", {"quality": "best"}),
]


def points(folder: str, texts: list[str]) -> Iterator[dict[str, Any]]:
    """For each setting its name, milliseconds per vector, exact match and its 95 % interval, BLEU."""
    checkpoint = open_checkpoint(folder, Config(), "cpu", use="required")
    assert checkpoint.encoder is not None  # it was required
    vectors = embed_all(checkpoint.encoder, texts)
    for name, settings in SETTINGS:
        search = fit(checkpoint, resolve_search(DecodeConfig(**settings)))
        evaluate(checkpoint, texts[:8], vectors[:8], search, samples=0)  # what is loaded or compiled at first use
        result = evaluate(checkpoint, texts, vectors, search, samples=0)
        scores = result.scores
        yield {
            "name": name,
            "milliseconds": result.milliseconds,
            "exact_match": scores.exact_match,
            "interval": scores.intervals["exact_match"],
            "bleu": scores.bleu,
            "unknown_words": result.unknown_words,
        }


def draw(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The points of each curve, with their intervals, as PNG. The settings are named at the first one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (label, found) in enumerate(curves.items()):
        times, shares = [it["milliseconds"] for it in found], [100 * it["exact_match"] for it in found]
        below = [100 * (it["exact_match"] - it["interval"][0]) for it in found]
        above = [100 * (it["interval"][1] - it["exact_match"]) for it in found]
        axes.errorbar(times, shares, yerr=[below, above], marker="o", capsize=3, linewidth=2, label=label)
        for it, x, y in zip(found, times, shares):
            if not number:
                axes.annotate(it["name"], (x, y), xytext=(-6, 8), textcoords="offset points", fontsize=9, ha="right")
    axes.set(xscale="log", ylim=(0, 105), xlabel="milliseconds per vector", ylabel="texts that come back exactly, %")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    show_log()
    picture, *pairs = sys.argv[1:]
    curves: dict[str, list[dict[str, Any]]] = {}
    for folder, texts in zip(pairs[::2], pairs[1::2], strict=True):
        label = f"{Path(folder).name}, {Path(texts).stem}"
        for point in points(folder, list(read_lines(texts))):
            curves.setdefault(label, []).append(point)
            log.info(json.dumps({"curve": label} | point, ensure_ascii=False))
    draw(curves, Path(picture))
