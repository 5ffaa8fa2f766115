"""How to search for the text of a vector: the presets of decode.quality, and the keys that override them."""

from __future__ import annotations

from typing import Any

import torch

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.console import Track, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.types import Strategy
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.inverter import Inverter

PRESETS = {
    "fast": {"strategy": "beam", "beams": 2, "rerank": True, "feedback": 0, "rounds": 0, "width": 1, "edits": 25, "inflect": False},
    "balanced": {"strategy": "beam", "beams": 8, "rerank": True, "feedback": 3, "rounds": 3, "width": 1, "edits": 25, "inflect": False},
    "best": {"strategy": "beam", "beams": 32, "rerank": True, "feedback": 4, "rounds": 16, "width": 4, "edits": 50, "inflect": True},
}
# Sequences searched at once when decode.batch_size is auto; more would not be faster.
AUTO_SEQUENCES = {"cpu": 1024, "cuda": 4096, "mps": 1024}
USUAL_TOKENS = 64  # that a text may have, unless decode.max_new_tokens says otherwise or the training texts were longer


class Search(DecodeConfig):
    """The settings under `decode`, with every preset filled in."""

    strategy: Strategy
    beams: int  # hypotheses per vector: beam width, or number of samples
    rerank: bool
    feedback: int  # passes of correction in which the decoder writes again
    rounds: int  # of edits; a long text gets fewer
    width: int  # texts per vector that a round edits
    edits: int  # of a text with words of the lexicon, the first time that it is edited
    inflect: bool  # whether forms that the lexicon lacks are proposed, too: of its words, and of those of a nearly right text

    @property
    def edits_texts(self) -> bool:
        """Whether there are rounds of edits; only these tell how sure the words are."""
        return bool(self.rounds and self.edits)

    @property
    def corrects(self) -> bool:
        """Whether there is correction of any kind: by feedback, or by edits."""
        return bool(self.feedback) or self.edits_texts


class FittedSearch(Search):
    """A search as one checkpoint can do it on its device; `fit` makes it."""

    batch_size: int  # vectors
    max_new_tokens: int


def resolve_search(config: DecodeConfig) -> Search:
    """Fill in the preset where a key is not set. Raises RequestError for settings that contradict each other."""
    given = config.model_dump()
    preset = PRESETS[config.quality]
    settings: dict[str, Any] = {key: preset[key] if value is None and key in preset else value for key, value in given.items()}
    if settings["strategy"] == "greedy":
        if (wanted := max(config.candidates, config.beams or 1)) > 1:
            raise RequestError(f"decode.strategy greedy gives one text per vector, not {wanted}; use beam or sample")
        settings["beams"] = 1
    if settings["beams"] < config.candidates:
        if config.beams is not None:
            raise RequestError(f"decode.beams is {config.beams}, fewer than the {config.candidates} candidates asked for")
        settings["beams"] = config.candidates
    if not settings["rerank"]:
        for key in ("feedback", "rounds"):
            if given[key]:
                raise RequestError(f"decode.{key} is {given[key]}, but correction needs decode.rerank")
            settings[key] = 0
    return Search(**settings)


def fit(checkpoint: Checkpoint, search: Search, cache: str | None = None, track: Track = silent) -> FittedSearch:
    """Fit a search to a checkpoint: texts as long as its training's and no longer than its positions, batches that fit, no
    re-ranking without an encoder.

    If the search edits texts, the words of the checkpoint's lexicon are embedded, unless `cache`, a folder, holds their vectors.
    """
    longest = search.max_new_tokens or max(USUAL_TOKENS, checkpoint.info.lengths.max_tokens)
    limit = checkpoint.inverter.n_positions
    if limit is not None:  # past its positions a decoder fails with a bare IndexError
        longest = min(longest, limit)
    settings = search.model_dump() | {"max_new_tokens": longest}
    if search.batch_size == "auto":
        sequences = _auto_sequences(checkpoint.inverter, longest)
        settings["batch_size"] = max(1, sequences // search.beams)
    if checkpoint.encoder is None:
        settings |= {"rerank": False, "feedback": 0, "rounds": 0}
    elif search.corrects:
        checkpoint.open_words(search.lexicon if search.edits_texts else 0, search.inflect, cache, track)
    return FittedSearch(**settings)


def _auto_sequences(inverter: Inverter, max_new_tokens: int) -> int:
    """How many sequences fit into memory: each needs its keys and values, and a few copies of its next logits."""
    config, device = inverter.lm.config.get_text_config(), inverter.device
    free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**30
    cache = 2 * config.num_hidden_layers * config.hidden_size * (max_new_tokens + inverter.adapter.tokens)
    needed = inverter.lm.dtype.itemsize * cache + 4 * 4 * config.vocab_size
    return max(1, min(AUTO_SEQUENCES.get(device.type, AUTO_SEQUENCES["cpu"]), free // needed))
