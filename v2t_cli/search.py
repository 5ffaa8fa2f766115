"""How to look for the text of a vector: the presets of decode.quality and the keys that win over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from v2t_cli.choices import Quality, Strategy
from v2t_cli.config import DecodeConfig
from v2t_cli.errors import RequestError

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
