"""Candidate texts of a vector, and which of them is best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from v2t_cli.core.similarity import row_cosine, unit_rows
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.words import Words

UNKNOWN_COST = 0.3  # cosine that a word which is not known costs a result


@dataclass
class Candidate:
    """A text for a vector. logprob: in nats, summed over tokens.

    vector: (dim,) float32, of the text itself; cosine: of this vector and the given one. Both are None unless re-embedded.
    """

    text: str
    logprob: float
    cosine: float | None = None
    vector: np.ndarray | None = None

    @property
    def nearness(self) -> float:
        """The cosine of a re-embedded candidate."""
        assert self.cosine is not None
        return self.cosine

    @property
    def unit_vector(self) -> np.ndarray:
        """The vector of a re-embedded candidate, of length 1."""
        assert self.vector is not None
        return unit_rows(self.vector[None])[0]


class SureWord(NamedTuple):
    """A word of a text, and the probability that it stands in the true text, whatever its case."""

    word: str
    probability: float


@dataclass
class Row:
    """The result for one vector: distinct candidates, best first.

    encoder_calls: how many texts were re-embedded for it. words: those of the best text, in order; None if the search did not
    edit it, and so cannot tell how sure they are. id: that a store has for it.
    """

    index: int
    candidates: list[Candidate]
    encoder_calls: int = 0
    words: list[SureWord] | None = None
    id: str | None = None

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


class Ranking:
    """Which of re-embedded candidates are best.

    A text that reaches until_cosine needs no second opinion. Below that, non-words that happen to lie near the vector fool
    the cosine, so log-probability counts too, and each word that is not known costs.
    """

    def __init__(self, logprob_weight: float, until_cosine: float, known: Lexicon | Words | None = None, unknown_cost: float | None = None):
        """known: tells which words there are; unknown_cost: the cosine that each other word costs, UNKNOWN_COST by default."""
        self._weight, self._until, self._known = logprob_weight, until_cosine, known
        self._unknown_cost = UNKNOWN_COST if unknown_cost is None else unknown_cost

    def sort(self, candidates: list[Candidate]) -> None:
        """Best first."""
        candidates.sort(key=lambda it: (it.nearness < self._until, self.by_both(it)))

    def by_cosine(self, candidate: Candidate) -> float:
        """A key that sorts the nearest first, whatever their log-probability."""
        return self._cost(candidate) - candidate.nearness

    def by_both(self, candidate: Candidate) -> float:
        """A key that sorts by cosine and log-probability."""
        return self.by_cosine(candidate) - self._weight * candidate.logprob

    def _cost(self, candidate: Candidate) -> float:
        if candidate.nearness >= self._until or self._known is None:
            return 0.0
        return self._unknown_cost * len(self._known.unknown(candidate.text))


def rerank(rows: list[Row], vectors: np.ndarray, encoder: Encoder, ranking: Ranking) -> None:
    """Re-embed the candidates of rows[i], compare them with vectors[i], and sort them. Equal texts are embedded once."""
    texts = [candidate.text for row in rows for candidate in row.candidates]
    owners = np.repeat(np.arange(len(rows)), [len(row.candidates) for row in rows])
    embedded = embed_unique(encoder.encode, texts)
    found = zip(row_cosine(embedded, vectors[owners]).tolist(), embedded)
    for row in rows:
        for candidate in row.candidates:
            candidate.cosine, candidate.vector = next(found)
        row.encoder_calls += len(row.candidates)
        ranking.sort(row.candidates)


def embed_unique(encode: Callable[[list[str]], np.ndarray], texts: list[str]) -> np.ndarray:
    """float32 (len(texts), dim): equal texts are embedded once."""
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return encode(list(place))[[place[text] for text in texts]]
