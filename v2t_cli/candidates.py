"""Candidate texts of a vector, and which is the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v2t_cli.encoder import Encoder, row_cosine


@dataclass
class Candidate:
    """A text for a vector. logprob: nats, summed over tokens.

    vector: (dim,) float32, of the text itself; cosine: of the two vectors; both None where nothing was re-embedded.
    """

    text: str
    logprob: float
    cosine: float | None = None
    vector: np.ndarray | None = None

    @property
    def nearness(self) -> float:
        """The cosine of one that was re-embedded."""
        assert self.cosine is not None
        return self.cosine


@dataclass
class Row:
    """What a vector was decoded to: distinct candidates, best first. encoder_calls: texts that were re-embedded for it."""

    index: int
    candidates: list[Candidate]
    encoder_calls: int = 0

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def rank(candidates: list[Candidate], logprob_weight: float, until_cosine: float) -> None:
    """Sort re-embedded candidates, best first: those that reach until_cosine, then by cosine + logprob_weight * logprob.

    The cosine alone is fooled by non-words that happen to lie near the vector; a text that reaches it needs no
    second opinion.
    """
    candidates.sort(key=lambda it: (it.nearness >= until_cosine, it.nearness + logprob_weight * it.logprob), reverse=True)


def rerank(rows: list[list[Candidate]], vectors: np.ndarray, encoder: Encoder, logprob_weight: float, until_cosine: float) -> None:
    """Give each candidate of vectors[i] in rows[i] its cosine, and sort them. A text that several rows share is embedded once."""
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
