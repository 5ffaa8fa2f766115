"""Candidate texts of a vector, and which of them is best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v2t_cli.core.similarity import row_cosine
from v2t_cli.models.encoder import Encoder


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


@dataclass
class Row:
    """The result for one vector: distinct candidates, best first. encoder_calls: how many texts were re-embedded for it."""

    index: int
    candidates: list[Candidate]
    encoder_calls: int = 0

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def rank(candidates: list[Candidate], logprob_weight: float, until_cosine: float) -> None:
    """Sort re-embedded candidates, best first: those that reach until_cosine, then by cosine + logprob_weight * logprob.

    Non-words that happen to lie near the vector fool the cosine alone. A text that reaches until_cosine needs no second
    opinion.
    """
    candidates.sort(key=lambda it: (it.nearness >= until_cosine, it.nearness + logprob_weight * it.logprob), reverse=True)


def rerank(rows: list[list[Candidate]], vectors: np.ndarray, encoder: Encoder, logprob_weight: float, until_cosine: float) -> None:
    """Re-embed the candidates in rows[i], compare them with vectors[i], and sort them. Equal texts are embedded once."""
    texts = [candidate.text for row in rows for candidate in row]
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    embedded = embed_unique(encoder, texts)
    found = zip(row_cosine(embedded, vectors[owners]).tolist(), embedded)
    for row in rows:
        for candidate in row:
            candidate.cosine, candidate.vector = next(found)
        rank(row, logprob_weight, until_cosine)


def embed_unique(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """float32 (len(texts), dim): equal texts are embedded once."""
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return encoder.encode(list(place))[[place[text] for text in texts]]
