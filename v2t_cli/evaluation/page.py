"""The audit report: one HTML page that needs nothing beside it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np

from v2t_cli.core.one_line import to_line
from v2t_cli.decoding.decode import fit
from v2t_cli.decoding.search import Search
from v2t_cli.evaluation.audit import NEAR_F1, NEIGHBOURS, RARE, SAME_MEANING, Findings, Recall
from v2t_cli.evaluation.evaluate import Evaluation, Sample
from v2t_cli.models.checkpoint import Checkpoint

FEW = 10  # words of which no share is given


INK = "#010203"  # stands in the plots for the colour of the page's text


BLUE, ORANGE, GREEN = "#3b82c4", "#d9822b", "#2f9e77"  # seen on white and on black, and told apart by most colour-blind


def audit_page(checkpoint: Checkpoint, evaluation: Evaluation, findings: Findings, vectors: np.ndarray, search: Search) -> str:
    """The page, as HTML. vectors: (texts, dim), as they were decoded."""
    scores, by_how = evaluation.scores, {share.how: share for share in findings.shares}
    exactly, readable = by_how["exactly"].share, by_how["exactly"].share + by_how["nearly"].share
    sections = [
        f"<p class=verdict><strong>{_percent(readable)}</strong> of {scores.n:,} texts can be read from their vectors "
        f"alone, word for word or nearly; <strong>{_percent(exactly)}</strong> came back without a difference.</p>",
        f"<p>{_meaning(evaluation, findings)}</p>",
        "<h2>How the texts came back</h2>",
        *_shares(findings),
        "<h2>What comes back</h2>",
        *_recalls(findings),
        "<h2>Longer texts</h2>",
        _lengths(evaluation),
        *_trust(findings),
        "<h2>Does noise protect?</h2>",
        _noise(findings),
        "<h2>Texts beside what was read from their vectors</h2>",
        _pairs("The best", findings.best),
        _pairs("The middle", findings.median),
        _pairs("The worst", findings.worst),
        "<h2>How this was measured</h2>",
        _settings(checkpoint, evaluation, vectors, search),
    ]
    body = "\n".join(sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>What these vectors give away</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>What these vectors give away</h1>
{body}
</main>
</body>
</html>
"""


STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --paper: #ffffff; --soft: #5c6570; --line: #d9dee4; --wash: #f4f6f8;
  --exactly: #b3372f; --nearly: #d9822b; --meaning: #e3bf57; --not: #7f9aa8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #14171b; --soft: #9aa4af; --line: #333a42; --wash: #1d2228 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 50rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
.verdict { font-size: 1.25rem; line-height: 1.45 }
.note, figcaption { color: var(--soft); font-size: .9rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line) }
td { overflow-wrap: anywhere }
th { color: var(--soft); font-weight: 600; font-size: .9rem }
.numbers td + td, .numbers th + th { text-align: right }
.pairs td:last-child { text-align: right; white-space: nowrap }
.bar { display: flex; height: 2.2rem; border-radius: .3rem; overflow: hidden; margin: 0 0 1rem }
.bar div { color: #14171b; font-size: .85rem; padding: .4rem .5rem; white-space: nowrap; overflow: hidden; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
figure { margin: 0 0 1rem; break-inside: avoid }
figure svg { width: 100%; height: auto; display: block }
table, .bar { break-inside: avoid }
h2, h3 { break-after: avoid }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --wash: #fff }
  main { max-width: none; padding: 0 } body { font-size: 11pt } }
"""


def _percent(share: float) -> str:
    """Never 0 % of what is there, nor 100 % of what is not all."""
    if share in (0, 1) or 0.1 <= share < 0.9:
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"


def _meaning(evaluation: Evaluation, findings: Findings) -> str:
    """What it means for whoever keeps the vectors."""
    by_how = {share.how: share.share for share in findings.shares}
    readable = by_how["exactly"] + by_how["nearly"]
    how_much = "Most" if readable > 0.5 else "Some" if readable >= 0.05 else "Few"
    advice = f"{how_much} of these texts can be read with this inverter. Another, trained longer or on texts like these, may read more: "
    advice += "it is a lower bound. "
    if readable >= 0.05:
        advice += "Treat the vectors as you treat the texts. "
    surest = findings.trust[0] if findings.trust else None
    if surest and surest.rows:
        sure = surest.exact / surest.rows >= 0.95
        advice += "And the reader knows which: " if sure else "But the reader cannot be sure which: "
        advice += f"of the {surest.rows:,} texts whose vector came out the same (cosine at least {surest.cosine}), "
        advice += f"{_percent(surest.exact / surest.rows)} are exact. "
    if evaluation.nearest is None:
        advice += "Whether the inverter was trained on these very texts was not checked; <code>--train-texts</code> does that."
    else:
        copied = evaluation.nearest.exact_match
        advice += f"Copying the training text with the nearest vector would have given {_percent(copied)} of them exactly."
    return advice


def _shares(findings: Findings) -> list[str]:
    rows = [[it.how, f"{it.count:,}", _percent(it.share), "{:.1%} to {:.1%}".format(*it.interval)] for it in findings.shares]
    return [
        _bar(findings),
        _table(["came back", "texts", "share", "95 % interval"], rows),
        f"<p class=note><b>Exactly</b>: every character. <b>Nearly</b>: the same words but for few (F1 of the words at least {NEAR_F1}, "
        "case and punctuation aside). <b>In meaning</b>: other words, but a vector that lies as near as those of paraphrases do (cosine at "
        f"least {SAME_MEANING}); never said where no encoder was at hand. Each text counts once, where it fits first.</p>",
    ]


def _recalls(findings: Findings) -> list[str]:
    rows = [[it.kind, f"{it.words:,}", f"{it.recovered:,}", _recall(it)] for it in findings.recalls]
    return [
        _table(["kind of word", "in the texts", "read from the vectors", "recall"], rows),
        "<p class=note><b>Numbers</b> hold a digit; <b>names</b> are words with a capital letter that do not begin a sentence; "
        f"<b>rare words</b> stand {RARE} times or less in all texts. Every occurrence counts.</p>",
    ]


def _recall(recall: Recall) -> str:
    if recall.words < FEW:
        return "too few to say" if recall.words else "none there"
    return _percent(recall.recovered / recall.words)


def _bar(findings: Findings) -> str:
    colours = {"exactly": "exactly", "nearly": "nearly", "in meaning": "meaning", "not": "not"}
    parts = "".join(
        f'<div style="flex: {share.share:.4f}; background: var(--{colours[share.how]})">{share.how} {_percent(share.share)}</div>'
        for share in findings.shares
        if share.count
    )
    label = ", ".join(f"{share.how} {_percent(share.share)}" for share in findings.shares)
    return f'<div class=bar role=img aria-label="{escape(label)}">{parts}</div>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _plot(
    ticks: Sequence[str], lines: Mapping[str, Sequence[float | None]], horizontal: str, label: str, counts: Sequence[int] | None = None
) -> str:
    """Lines over named places, from 0 to 1, as SVG in the page's own colours and letters."""
    from matplotlib import style
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "v2t", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}
    settings |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    with style.context(["default", settings]):  # not the user's, which may ask for what is not there
        figure = Figure(figsize=(7.5, 3.2), layout="constrained")
        axes = figure.subplots()
        for (name, values), colour, marker in zip(lines.items(), (BLUE, ORANGE, GREEN), "os^"):
            known = [(place, value) for place, value in enumerate(values) if value is not None]
            if known:
                axes.plot(*zip(*known), color=colour, marker=marker, label=name, linewidth=2)
        axes.set_xticks(range(len(ticks)), [f"{tick}\n{count:,} texts" for tick, count in zip(ticks, counts)] if counts else ticks)
        axes.set(ylim=(-0.03, 1.03), xlabel=horizontal)
        axes.margins(x=0.06)
        axes.grid(axis="y", color=INK, alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            figure.legend(frameon=False, loc="outside upper left", ncols=3)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _lengths(evaluation: Evaluation) -> str:
    rows = evaluation.by_length
    lines: dict[str, list[float | None]] = {"came back exactly": [row.exact_match for row in rows]}
    lines["cosine of the vectors"] = [row.cosine for row in rows]
    label = "; ".join(f"{row.tokens} tokens: {row.exact_match:.0%} exact of {row.n} texts" for row in rows)
    plot = _plot([row.tokens for row in rows], lines, "length of the text, in tokens", label, [row.n for row in rows])
    fewer = "The longer a text, the less of it comes back. " if rows[0].exact_match > rows[-1].exact_match else ""
    return _figure(plot, fewer + label + ".")


def _trust(findings: Findings) -> list[str]:
    if not findings.trust:
        return []
    rows = [[f">= {t.cosine}", f"{t.rows:,}", f"{t.exact:,}", _percent(t.exact / t.rows) if t.rows else ""] for t in findings.trust]
    label = "; ".join(f"cosine at least {t.cosine}: {t.exact} of {t.rows} exact" for t in findings.trust)
    lines: dict[str, list[float | None]] = {"of these rows, exact": [t.exact / t.rows if t.rows else None for t in findings.trust]}
    plot = _plot([f"≥ {t.cosine}" for t in findings.trust], lines, "cosine of a row", label, [t.rows for t in findings.trust])
    return [
        "<h2>Does the reader know what is right?</h2>",
        _figure(
            plot, "Who decodes a vector can embed the text again and compare: the cosine of the two vectors is a confidence for every row."
        ),
        _table(["cosine", "rows", "exact", "share"], rows),
    ]


def _noise(findings: Findings) -> str:
    rows = findings.noise
    lines: dict[str, list[float | None]] = {"came back exactly": [row.exact_match for row in rows]}
    lines["cosine with the clean vector"] = [row.cosine for row in rows]
    lines["neighbours kept"] = [row.neighbours for row in rows]
    label = "; ".join(
        f"noise {row.noise:.0%}: {row.exact_match:.0%} exact"
        + ("" if row.neighbours is None else f", {row.neighbours:.0%} of the neighbours kept")
        for row in rows
    )
    plot = _plot([f"{row.noise:.0%}" for row in rows], lines, "length of the noise, in lengths of the vector", label)
    caption = (
        f"Gaussian noise was added to the vectors of {rows[0].texts} texts; noise of 60 % is 0.6 times as long as the vector. "
        "An inverter that is trained on noisy vectors would read more of them than this one. Noise costs searches their precision as well: "
        f"neighbours kept are those of the {NEIGHBOURS} nearest of a text that are still so near when the stored vectors are noisy. "
    )
    return _figure(plot, caption + label + ".")


def _pairs(title: str, pairs: list[Sample]) -> str:
    rows = [[to_line(pair.source), to_line(pair.text), "" if pair.cosine is None else f"{pair.cosine:.3f}"] for pair in pairs]
    return f"<h3>{title}</h3>" + _table(["text", "read from its vector", "cosine"], rows, "pairs")


def _settings(checkpoint: Checkpoint, evaluation: Evaluation, vectors: np.ndarray, search: Search) -> str:
    info, digest = checkpoint.info, hashlib.sha256()
    for pair in evaluation.pairs:
        digest.update(pair.source.encode() + b"\n")
    encoder = info.encoder.name if info.encoder else "unknown"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("v2t", "torch", "transformers")]
    scores = evaluation.scores
    rows = [
        ["date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")],
        ["checkpoint", str(checkpoint.folder)],
        ["encoder of the vectors", f"{encoder}, {info.dim} numbers"],
        ["search", f"quality {evaluation.quality}: {evaluation.strategy}; at most {fit(checkpoint, search).max_new_tokens} tokens"],
        ["effort", f"{evaluation.milliseconds:,.0f} ms and {evaluation.encoder_calls:,.0f} re-embedded texts a vector"],
        ["texts", f"{scores.n:,}, SHA-256 {digest.hexdigest()[:16]}…"],
        ["vectors", f"SHA-256 {hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()[:16]}…"],
        ["BLEU, chrF, F1", f"{scores.bleu:.1f}, {scores.chrf:.1f}, {scores.token_f1:.3f}"],
        ["versions", ", ".join([*versions, f"Python {platform.python_version()}"])],
    ]
    return _table(["", ""], rows, "settings")
