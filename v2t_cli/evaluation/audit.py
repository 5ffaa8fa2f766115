"""What a vector store gives away: the findings of an audit, measured on texts whose vectors were decoded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from v2t_cli.core.console import Track, log, silent
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import Search
from v2t_cli.evaluation.evaluate import Evaluation, Sample
from v2t_cli.evaluation.metrics import Interval, token_f1, wilson_interval
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import Encoder, row_cosine, unit_rows

NEAR_F1 = 0.75  # of the words: nearly the same text


SAME_MEANING = 0.9  # cosine of the vectors


THRESHOLDS = (0.999, 0.99, 0.95, 0.9, 0.8)


NOISE = (0.0, 0.1, 0.3, 0.6, 1.0)  # length of what is added, in lengths of the vector


NOISE_TEXTS = 100


SEARCHED, NEIGHBOURS = 2000, 10


RARE = 2  # a word that stands so often in all texts, or less


PAIRS = 5


WORD = re.compile(r"\w+(?:[-'’]\w+)*")


@dataclass
class Share:
    """How many texts came back so: "exactly", "nearly", "in meaning" or "not"; the share from 0 to 1."""

    how: str
    count: int
    share: float
    interval: Interval


@dataclass
class Recall:
    """Of the words of a kind that stand in the texts, those that stand in what was read from their vectors."""

    kind: str
    words: int
    recovered: int


@dataclass
class Trust:
    """Of the rows whose cosine is at least so high, those that are exact."""

    cosine: float
    rows: int
    exact: int


@dataclass
class Disturbed:
    """What comes back when noise of so many lengths of the vector is added to it, and what that leaves of searches."""

    noise: float
    texts: int
    exact_match: float
    cosine: float | None  # of what came back, with the clean vector
    neighbours: float | None  # of the nearest ones among the clean vectors, the share that a search still finds; None: too few texts


@dataclass
class Findings:
    """All that the report shows, beside the evaluation itself."""

    shares: list[Share]
    recalls: list[Recall]
    trust: list[Trust]  # empty where there is no encoder
    noise: list[Disturbed]
    worst: list[Sample]
    median: list[Sample]
    best: list[Sample]


def audit(
    checkpoint: Checkpoint,
    evaluation: Evaluation,
    vectors: np.ndarray,
    search: Search,
    encoder: Encoder | None,
    known: Iterable[str] = (),
    seed: int = 0,
    track: Track = silent,
) -> Findings:
    """Look into an evaluation. vectors: float32 (texts, dim), of its pairs; known: training texts, whose words are not rare."""
    pairs = evaluation.pairs
    ranked = sorted(pairs, key=_closeness)
    middle = max(0, len(ranked) // 2 - PAIRS // 2)
    return Findings(
        shares=shares(pairs),
        recalls=recalls(pairs, known),
        trust=[] if encoder is None else trust(pairs),
        noise=disturbed(checkpoint, pairs, vectors, search, encoder, seed, track),
        worst=ranked[:PAIRS],
        median=ranked[middle : middle + PAIRS],
        best=ranked[::-1][:PAIRS],
    )


def _closeness(pair: Sample) -> tuple[float, float]:
    """By what a pair is ranked: the cosine where there is one, else the words in common."""
    return (token_f1(pair.text, pair.source) if pair.cosine is None else pair.cosine, float(pair.text == pair.source))


def shares(pairs: list[Sample]) -> list[Share]:
    """How the texts came back; each counts once, where it fits first. Without cosines nothing is said of their meaning."""
    kinds = [_kind(pair) for pair in pairs]
    out = []
    for how in ("exactly", "nearly", "in meaning", "not"):
        hits = kinds.count(how)
        out.append(Share(how, hits, hits / len(kinds), wilson_interval(hits, len(kinds))))
    return out


def _kind(pair: Sample) -> str:
    if pair.text == pair.source:
        return "exactly"
    read, source = _words(pair.text), _words(pair.source)
    if source and token_f1(" ".join(read), " ".join(source)) >= NEAR_F1:
        return "nearly"
    return "in meaning" if pair.cosine is not None and pair.cosine >= SAME_MEANING else "not"


def recalls(pairs: list[Sample], known: Iterable[str] = ()) -> list[Recall]:
    """Recall of all words, of numbers, names and rare words; each occurrence counts, in any case of its letters."""
    often: Counter[str] = Counter()
    for text in (*(pair.source for pair in pairs), *known):
        often.update(_words(text))
    total: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for pair in pairs:
        there = Counter(_words(pair.text))
        for kind, words in _kinds(pair.source, often).items():
            wanted = Counter(words)
            total[kind] += sum(wanted.values())
            found[kind] += sum((wanted & there).values())
    return [Recall(kind, total[kind], found[kind]) for kind in ("all words", "numbers", "names", "rare words")]


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _kinds(text: str, often: Counter[str]) -> dict[str, list[str]]:
    words = WORD.findall(text)
    begins = {match.start(1) for match in re.finditer(r"(?:^|[.!?…]\s+)\W*(\w)", text)}  # of sentences, which are capital for that
    names = [match.group() for match in WORD.finditer(text) if match.group()[0].isupper() and match.start() not in begins]
    return {
        "all words": [word.lower() for word in words],
        "numbers": [word.lower() for word in words if any(letter.isdigit() for letter in word)],
        "names": [word.lower() for word in names],
        "rare words": [word.lower() for word in words if often[word.lower()] <= RARE],
    }


def trust(pairs: list[Sample]) -> list[Trust]:
    """Whether the cosine can be believed."""
    out = []
    for threshold in THRESHOLDS:
        rows = [pair for pair in pairs if pair.cosine is not None and pair.cosine >= threshold]
        out.append(Trust(threshold, len(rows), sum(pair.text == pair.source for pair in rows)))
    return out


def disturbed(
    checkpoint: Checkpoint, pairs: list[Sample], vectors: np.ndarray, search: Search, encoder: Encoder | None, seed: int, track: Track
) -> list[Disturbed]:
    """What comes back of some of the texts when Gaussian noise is added to their vectors."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(pairs))[:NOISE_TEXTS])
    clean, sources = vectors[chosen], [pairs[i].source for i in chosen]
    direction = _noise(clean, rng)
    out = []
    log.info(f"decoding {len(chosen)} of the texts {len(NOISE) - 1} times more, with noise on their vectors")
    with track("decoding with noise", (len(NOISE) - 1) * len(chosen)) as advance:
        for noise in NOISE:
            noisy = (clean + noise * direction).astype(np.float32)
            texts = [pairs[i].text for i in chosen] if not noise else []
            for row in decode(checkpoint, [Block(0, noisy)] if noise else [], search, encoder, seed, notes=False):
                texts.append(row.best.text)
                advance(1)
            exact = float(np.mean([text == source for text, source in zip(texts, sources)]))
            cosine = None if encoder is None else float(row_cosine(encoder.encode(texts), clean).mean())
            out.append(Disturbed(noise, len(chosen), exact, cosine, neighbours_kept(vectors[:SEARCHED], noise, seed)))
    return out


def _noise(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian, as long as the vectors."""
    noise = rng.normal(size=vectors.shape)
    return noise * (np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True))


def neighbours_kept(vectors: np.ndarray, noise: float, seed: int) -> float | None:
    """Of the vectors nearest to each (by cosine, itself aside), the share that is nearest still where all but the query are noisy."""
    count = min(NEIGHBOURS, len(vectors) // 2)
    if not count:
        return None

    def nearest(store: np.ndarray) -> np.ndarray:
        cosine = unit_rows(vectors) @ unit_rows(store).T
        np.fill_diagonal(cosine, -np.inf)
        return np.argpartition(cosine, -count, axis=1)[:, -count:]

    noisy = vectors + noise * _noise(vectors, np.random.default_rng(seed))
    return float(np.mean([len(np.intersect1d(before, after)) / count for before, after in zip(nearest(vectors), nearest(noisy))]))
