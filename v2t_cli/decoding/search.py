"""How to look for the text of a vector: the presets of decode.quality and the keys that win over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.core.types import Quality, Strategy
from v2t_cli.models.encoder import Encoder, row_cosine

PRESETS = {
    "fast": {"strategy": "greedy", "beams": 1, "rerank": False, "rounds": 0, "width": 1, "edits": 80},
    "balanced": {"strategy": "beam", "beams": 8, "rerank": True, "rounds": 2, "width": 1, "edits": 50},
    "best": {"strategy": "beam", "beams": 32, "rerank": True, "rounds": 8, "width": 3, "edits": 160},
}


@dataclass(frozen=True)
class Search:
    """decode.* with every setting resolved."""

    quality: Quality
    strategy: Strategy
    beams: int  # hypotheses a vector: the beam's width, or the number of draws
    rerank: bool
    logprob_weight: float
    rounds: int  # of correction
    width: int  # texts a vector that are corrected in a round
    rewrites: int  # of each by the decoder, and
    edits: int  # of each, at most
    encoder_calls: int
    until_cosine: float
    candidates: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    batch_size: int | Literal["auto"]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    compile: bool

    @property
    def rows(self) -> int:
        """Vectors of a batch, once it was fitted to a checkpoint and its device (decoding.fit)."""
        assert self.batch_size != "auto"
        return self.batch_size


def resolve_search(config: DecodeConfig) -> Search:
    """Fill the preset in where no key is set beside it. Raises RequestError for settings that contradict each other."""
    given = config.model_dump()
    preset = PRESETS[config.quality]
    settings: dict[str, Any] = {key: preset[key] if value is None and key in preset else value for key, value in given.items()}
    if settings["strategy"] == "greedy":
        wanted = max(config.candidates, config.beams or 1)
        if wanted > 1 and config.strategy == "greedy":
            raise RequestError(f"decode.strategy greedy gives one text a vector, not {wanted}; use beam or sample")
        if wanted > 1:  # the preset is greedy, but several texts are asked for
            settings["strategy"] = "beam"
        settings["beams"] = wanted
    if settings["beams"] < config.candidates:
        if config.beams is not None:
            raise RequestError(f"decode.beams is {config.beams}, fewer than the {config.candidates} candidates asked for")
        settings["beams"] = config.candidates
    if not settings["rerank"]:
        if config.rounds:
            raise RequestError(f"decode.rounds is {config.rounds}, but without decode.rerank there is nothing to correct by")
        settings["rounds"] = 0
    return Search(**settings)


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
