"""Scores of generated texts against their references, with bootstrap intervals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from v2t_cli.core.one_line import to_row

RESAMPLES = 1000
PART = re.compile(r"\w+|[^\w\s]")  # a word or a mark


def comparable(text: str) -> str:
    """A text as texts are compared: like decoded ones, on one line and without blanks at its ends."""
    return to_row(text).strip()


def same_words(text: str, true: str) -> bool:
    """Whether two texts have the same words and marks, whatever their case and blanks."""
    return PART.findall(text.casefold()) == PART.findall(true.casefold())


Interval = tuple[float, float]  # 95 %


@dataclass
class TextScores:
    """Shares, F1 and cosine in 0 to 1, BLEU and chrF in 0 to 100; `intervals` by the same names."""

    n: int
    exact_match: float
    same_words: float  # and marks, whatever their case and blanks
    bleu: float
    chrf: float
    token_f1: float
    cosine: float | None
    intervals: dict[str, Interval]
    bleu_signature: str
    chrf_signature: str


@dataclass
class Recall:
    """How many of the n words or entities of a kind came back from the vectors; fraction and 95 % interval from 0 to 1, None for n = 0.

    The interval is Wilson's: it takes each for itself, although those of one text come back together more often.
    """

    kind: str
    n: int
    recovered: int
    fraction: float | None
    interval: Interval | None

    @classmethod
    def of(cls, kind: str, n: int, recovered: int) -> Recall:
        return cls(kind, n, recovered, recovered / n if n else None, wilson_interval(recovered, n) if n else None)


def score_texts(generated: list[str], references: list[str], cosines: np.ndarray | None, resamples: int = RESAMPLES) -> TextScores:
    """Compare texts with their references, both as `comparable` makes them.

    cosines: float (rows,), of their vectors, where known; resamples: 0 for no intervals. BLEU of texts that are all shorter than four
    words counts the n-grams that they have (sacrebleu's effective order): otherwise it is 0, however right they are.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    generated, references = ([comparable(text) for text in texts] for texts in (generated, references))
    rows = {
        "exact_match": np.array([ours == theirs for ours, theirs in zip(generated, references)], dtype=float),
        "same_words": np.array([same_words(*pair) for pair in zip(generated, references)], dtype=float),
        "token_f1": np.array([token_f1(ours, theirs) for ours, theirs in zip(generated, references)]),
    }
    if cosines is not None:
        rows["cosine"] = cosines
    values: dict[str, Any] = {name: float(of_rows.mean()) for name, of_rows in rows.items()}
    intervals = {name: ratio_interval(of_rows, np.ones(len(of_rows)), resamples) for name, of_rows in rows.items() if resamples}
    signatures: dict[str, Any] = {}
    short = all(len(text.split()) < 4 for text in (*generated, *references))
    for name, metric in (("bleu", BLEU(effective_order=short)), ("chrf", CHRF())):
        values[name] = min(100.0, metric.corpus_score(generated, [references]).score)  # it may round to a little more
        signatures[f"{name}_signature"] = str(metric.get_signature())
        if resamples:
            # Both are functions of counts summed over the corpus. sacrebleu's own bootstrap, which starts from the same
            # counts, fails where a resample scores 0.
            counts = np.array(metric._extract_corpus_statistics(generated, [references]), dtype=float)
            intervals[name] = _bootstrap(counts, partial(_score_of_counts, metric), resamples)
    return TextScores(n=len(references), cosine=values.pop("cosine", None), intervals=intervals, **values, **signatures)


def _score_of_counts(metric: Any, sums: np.ndarray) -> float:
    return float(metric._compute_score_from_stats(sums.tolist()).score)


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, resamples: int = RESAMPLES) -> Interval:
    """95 % interval of sum(numerator) / sum(denominator) over rows."""
    return _bootstrap(np.stack([numerator, denominator], axis=1), lambda sums: sums[0] / sums[1], resamples)


def wilson_interval(hits: int, n: int) -> Interval:
    """95 % interval of a share (Wilson 1927): unlike a bootstrap interval, it is not empty if none or all of n are hits."""
    z2 = 1.959964**2
    middle, width = (hits + z2 / 2) / (n + z2), np.sqrt(z2 * (hits * (n - hits) / n + z2 / 4)) / (n + z2)
    return float(max(0.0, middle - width)), float(min(1.0, middle + width))


def _bootstrap(rows: np.ndarray, of_sums: Callable[[np.ndarray], float], resamples: int) -> Interval:
    """95 % percentile bootstrap interval (Efron 1979) of a function of the sums over rows (n, k)."""
    rng = np.random.default_rng(0)
    share = np.full(len(rows), 1 / len(rows))
    values = [of_sums(rng.multinomial(len(rows), share) @ rows) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def token_f1(generated: str, reference: str) -> float:
    """F1 of the two bags of tokens. White space separates tokens, so a word with a comma is a different one."""
    ours, theirs = generated.split(), reference.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
