"""The audit report: one HTML page that loads nothing else. Its prose and style are in html_report.html.jinja."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from v2t_cli.evaluation import redaction
from v2t_cli.evaluation.audit import NEAR_F1, NEIGHBOURS, RARE, SAME_MEANING, Findings
from v2t_cli.evaluation.evaluate import Evaluation
from v2t_cli.evaluation.page import SURE, UNSURE, checkpoint_facts, render, search_fact, versions_fact
from v2t_cli.models.metadata import CheckpointInfo

FEW = 10  # fewer rows do not show whether the cosine can be trusted
INK = "#010203"  # placeholder in the plots for the colour of the page's text
BLUE, ORANGE, GREEN = "#3b82c4", "#d9822b", "#2f9e77"  # readable on white and on black, distinct to most colour-blind readers


def html_report(evaluation: Evaluation, findings: Findings, facts: Mapping[str, str], noise: bool = False, redacted: bool = False) -> str:
    """The page as HTML.

    facts: the table "How this was measured", see report_facts; noise: whether the runs with noise follow, if they are not among the
    findings; redacted: whether the texts in the findings are masked.
    """
    fraction = {it.how: it.fraction for it in findings.outcomes}
    return render(
        "html_report.html.jinja",
        evaluation=evaluation,
        findings=findings,
        facts=facts,
        noise_follows=noise,
        redacted=redacted,
        exactly=fraction["exactly"],
        readable=fraction["exactly"] + fraction["nearly"],
        plots=_plots(evaluation, findings),
        limits={
            "few": FEW,
            "near_f1": NEAR_F1,
            "neighbours": NEIGHBOURS,
            "rare": RARE,
            "rarely": redaction.RARE,
            "same_meaning": SAME_MEANING,
            "sure": SURE,
            "unsure": UNSURE,
        },
    )


def report_facts(
    evaluation: Evaluation, vectors: np.ndarray, folder: Path, info: CheckpointInfo, max_new_tokens: int, redacted: bool = False
) -> dict[str, str]:
    """What the evaluation depends on, by name.

    vectors: (texts, dim), as they were decoded; folder and info: of the checkpoint; max_new_tokens: the longest text it may write;
    redacted: without paths, and without hashes, against which guesses of the texts can be checked.
    """
    texts = hashlib.sha256("".join(f"{pair.source}\n" for pair in evaluation.pairs).encode()).hexdigest()
    array = hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()
    scores = evaluation.scores
    cut = f", of which the encoder read {evaluation.cut_texts:,} only in part, because they are too long" if evaluation.cut_texts else ""
    return {
        **checkpoint_facts(folder, info, redacted),
        "search": search_fact(evaluation.quality, evaluation.strategy, max_new_tokens),
        "effort": f"{evaluation.milliseconds:,.0f} ms and {evaluation.encoder_calls:,.0f} re-embedded texts per vector",
        "texts": f"{scores.n:,}{cut}" + ("" if redacted else f", SHA-256 {texts[:16]}…"),
        **({} if redacted else {"vectors": f"SHA-256 {array[:16]}…"}),
        "BLEU, chrF, F1": f"{scores.bleu:.1f}, {scores.chrf:.1f}, {scores.token_f1:.3f}",
        "versions": versions_fact(),
    }


def _plots(evaluation: Evaluation, findings: Findings) -> dict[str, str]:
    """The three plots, as SVG."""
    lengths, trust, noise = evaluation.by_words, findings.trust, findings.noise or []
    return {
        "lengths": _plot(
            [f"{row.length}\n({row.n:,})" for row in lengths],
            {"came back exactly": [row.exact_match for row in lengths], "cosine of the vectors": [row.cosine for row in lengths]},
            "length in words (number of texts)",
        ),
        "trust": _plot(
            [f"≥ {row.cosine}\n({row.rows:,})" for row in trust],
            {"share of exact texts": [row.exact / row.rows if row.rows else None for row in trust]},
            "cosine (number of texts)",
        ),
        "noise": _plot(
            [f"{row.noise:.0%}" for row in noise],
            {
                "came back exactly": [row.exact_match for row in noise],
                "cosine with the clean vector": [row.cosine for row in noise],
                "neighbours kept": [row.neighbours for row in noise],
            },
            "length of the noise, relative to the vector",
        ),
    }


def _plot(ticks: Sequence[str], lines: Mapping[str, Sequence[float | None]], xlabel: str) -> str:
    """Values from 0 to 1 over named places, as SVG in the page's own colour and font. None: no point there."""
    from matplotlib import style
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "v2t", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    settings |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with style.context(["default", settings]):  # the user's own style may ask for what is not installed
        figure = Figure(figsize=(4.3, 2.9), layout="constrained")  # small, so that letters stay readable on a phone
        axes = figure.subplots()
        for (name, values), colour, marker in zip(lines.items(), (BLUE, ORANGE, GREEN), "os^"):
            known = [(place, value) for place, value in enumerate(values) if value is not None]
            if known:
                axes.plot(*zip(*known), color=colour, marker=marker, label=name, linewidth=2)
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set(xlim=(-0.25, len(ticks) - 0.75), ylim=(-0.03, 1.03), xlabel=xlabel)
        axes.grid(axis="y", color=INK, alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            figure.legend(frameon=False, loc="outside upper left", ncols=2)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
