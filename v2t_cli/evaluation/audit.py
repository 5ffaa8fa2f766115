"""What vectors give away: the findings of an audit, measured on texts whose vectors were decoded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.similarity import row_cosine, unit_rows
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import FittedSearch
from v2t_cli.evaluation.evaluate import Evaluation, Sample
from v2t_cli.evaluation.metrics import Interval, Recall, token_f1, wilson_interval
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import Checkpoint

NEAR_F1 = 0.75  # of the words, at least: nearly the same text
SAME_MEANING = 0.9  # cosine of the vectors, at least: the same meaning
THRESHOLDS = (0.999, 0.99, 0.95, 0.9, 0.8)
NOISE = (0.0, 0.1, 0.3, 0.6, 1.0)  # length of the noise, relative to the vector
NOISE_TEXTS, NOISE_BLOCK = 100, 20
SEARCHED, NEIGHBOURS = 2000, 10
RARE = 2  # occurrences of a rare word in all texts, at most
PAIRS = 5
WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass
class Outcome:
    """How many texts came back "exactly", "nearly", "in meaning" or "not"; fraction and 95 % interval from 0 to 1."""

    how: str
    count: int
    fraction: float
    interval: Interval


@dataclass
class Trust:
    """How many rows have at least this cosine, and how many of them are exact."""

    cosine: float
    rows: int
    exact: int


@dataclass
class NoiseResult:
    """What comes back when noise of this length, relative to the vector, is added, and what that costs a search."""

    noise: float
    texts: int
    exact_match: float
    interval: Interval  # of exact_match
    cosine: float | None  # of the decoded text with the clean vector
    neighbours: float | None  # fraction of the nearest clean vectors that a search still finds; None: too few texts


@dataclass
class Findings:
    """What the report shows besides the evaluation itself."""

    outcomes: list[Outcome]
    recalls: list[Recall]  # of entities and words
    trust: list[Trust]  # empty without an encoder
    worst: list[Sample]
    median: list[Sample]
    best: list[Sample]
    noise: list[NoiseResult] | None = None  # None: not measured, or not yet


def audit(evaluation: Evaluation, known: Iterable[str] = ()) -> Findings:
    """Analyse an evaluation, but for the runs with noise. known: training texts, whose words are not rare."""
    pairs = evaluation.pairs
    ranked = sorted(pairs, key=_closeness)
    middle = max(0, len(ranked) // 2 - PAIRS // 2)
    return Findings(
        outcomes=outcomes(pairs),
        recalls=[*evaluation.entities, *word_recalls(pairs, known)],
        trust=[] if pairs[0].cosine is None else trust(pairs),
        worst=ranked[:PAIRS],
        median=ranked[middle : middle + PAIRS],
        best=ranked[::-1][:PAIRS],
    )


def _closeness(pair: Sample) -> tuple[float, float]:
    """The key that ranks pairs: the cosine if there is one, else the words in common."""
    return (token_f1(pair.text, pair.source) if pair.cosine is None else pair.cosine, float(pair.exact))


def outcomes(pairs: list[Sample]) -> list[Outcome]:
    """How the texts came back. Each counts once, in the first group that fits. Without cosines "in meaning" is empty."""
    hits, n = Counter(map(_kind, pairs)), len(pairs)
    return [Outcome(how, hits[how], hits[how] / n, wilson_interval(hits[how], n)) for how in ("exactly", "nearly", "in meaning", "not")]


def _kind(pair: Sample) -> str:
    if pair.exact:
        return "exactly"
    read, source = _words(pair.text), _words(pair.source)
    if source and token_f1(" ".join(read), " ".join(source)) >= NEAR_F1:
        return "nearly"
    return "in meaning" if pair.cosine is not None and pair.cosine >= SAME_MEANING else "not"


def word_recalls(pairs: list[Sample], known: Iterable[str] = ()) -> list[Recall]:
    """Recall of all words and of rare ones. Every occurrence counts; upper and lower case are the same."""
    often: Counter[str] = Counter()
    for text in (*(pair.source for pair in pairs), *known):
        often.update(_words(text))
    total: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for pair in pairs:
        words, there = Counter(_words(pair.source)), Counter(_words(pair.text))
        rare = Counter({word: count for word, count in words.items() if often[word] <= RARE})
        for kind, wanted in (("all words", words), ("rare words", rare)):
            total[kind] += wanted.total()
            found[kind] += (wanted & there).total()
    return [Recall.of(kind, total[kind], found[kind]) for kind in ("all words", "rare words")]


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def trust(pairs: list[Sample]) -> list[Trust]:
    """How reliable the cosine is."""
    out = []
    for threshold in THRESHOLDS:
        rows = [pair for pair in pairs if pair.cosine is not None and pair.cosine >= threshold]
        out.append(Trust(threshold, len(rows), sum(pair.exact for pair in rows)))
    return out


def decode_with_noise(
    checkpoint: Checkpoint, pairs: list[Sample], vectors: np.ndarray, search: FittedSearch, seed: int = 0, track: Track = silent
) -> list[NoiseResult]:
    """Decode some of the texts again, with Gaussian noise added to their vectors: float32 (len(pairs), dim)."""
    rng, encoder = np.random.default_rng(seed), checkpoint.encoder
    chosen = np.sort(rng.permutation(len(pairs))[:NOISE_TEXTS])
    clean, sources = vectors[chosen], [pairs[i].source for i in chosen]
    direction, some = _noise(clean, rng), vectors[:SEARCHED]
    out = []
    log.info(f"decoding {len(chosen)} of the texts {len(NOISE) - 1} more times, with noise added to their vectors")
    with track("decoding with noise", (len(NOISE) - 1) * len(chosen)) as advance:
        for noise in NOISE:
            noisy = (clean + noise * direction).astype(np.float32)
            texts = [pairs[i].text for i in chosen] if not noise else []
            blocks = [Block(start, noisy[start : start + NOISE_BLOCK]) for start in range(0, len(noisy), NOISE_BLOCK)]  # for the progress
            for row in decode(checkpoint, blocks if noise else [], search, seed, warn=False, advance=advance):
                texts.append(row.best.text)
            exact = sum(Sample(source, text, None).exact for source, text in zip(sources, texts))
            cosine = None if encoder is None else float(row_cosine(encoder.encode(texts), clean).mean())
            kept = neighbours_kept(some, some + noise * _noise(some, np.random.default_rng(seed)))
            out.append(NoiseResult(noise, len(chosen), exact / len(chosen), wilson_interval(exact, len(chosen)), cosine, kept))
            if noise:
                log.info(f"noise {noise:.0%}: {exact} of {len(chosen)} texts came back exactly")
    return out


def _noise(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise, each row as long as the vector."""
    noise = rng.normal(size=vectors.shape)
    return noise * (np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True))


def neighbours_kept(vectors: np.ndarray, stored: np.ndarray) -> float | None:
    """The fraction of each vector's nearest neighbours, by cosine, that a search for it still finds where the vectors are stored so.

    vectors, stored: (rows, dim), row i of both for the same text. None: there are too few.
    """
    count = min(NEIGHBOURS, len(vectors) // 2)
    if not count:
        return None

    def nearest(store: np.ndarray) -> np.ndarray:
        cosine = unit_rows(vectors) @ unit_rows(store).T
        np.fill_diagonal(cosine, -np.inf)
        return np.argpartition(cosine, -count, axis=1)[:, -count:]

    return float(np.mean([len(np.intersect1d(before, after)) / count for before, after in zip(nearest(vectors), nearest(stored))]))
