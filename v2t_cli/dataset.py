"""Training data: texts, their vectors (embedded once, then cached), and their tokens."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from v2t_cli.config import DataConfig
from v2t_cli.console import Track, log, silent
from v2t_cli.encoder import Encoder, embed
from v2t_cli.errors import RequestError
from v2t_cli.texts import Selection, fingerprint, read_lines, select, split_held_out
from v2t_cli.vectors import PartialVectors, load_vectors, open_vectors


@dataclass(frozen=True)
class Split:
    """Texts, the row of each in the array of vectors, and, once tokenized, its token ids with the end-of-text id."""

    texts: list[str]
    rows: np.ndarray  # int64
    ids: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def keep(self, which: np.ndarray) -> Split:
        """The positions `which`, in that order."""
        return Split([self.texts[i] for i in which], self.rows[which], [self.ids[i] for i in which] if self.ids else [])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, the end included: int64."""
        return np.fromiter(map(len, self.ids), dtype=np.int64, count=len(self.ids))


@dataclass
class Corpus:
    """What survived the filters, split for training."""

    selection: Selection
    train: Split
    held_out: Split
    sha256: str


def read_corpus(config: DataConfig, seed: int) -> Corpus:
    """Read, filter and split the texts. Raises RequestError where there are none, or too few."""
    if config.texts is None:
        raise RequestError("data.texts is not set: name the file of training texts, for example --set data.texts=texts.txt")
    if config.vectors is not None:
        _check_count(config)
    selection = select(read_lines(config.texts), config.min_chars, config.max_chars)
    log.info(f"{config.texts}: {selection}")
    if not selection.texts:
        raise RequestError(f"{config.texts}: no text has data.min_chars {config.min_chars} to data.max_chars {config.max_chars} characters")
    train, held_out = split_held_out(len(selection.texts), config.held_out, seed)
    everything = Split(selection.texts, np.arange(len(selection.texts)))
    return Corpus(selection, everything.keep(train), everything.keep(held_out), fingerprint(selection.texts))


def _check_count(config: DataConfig) -> None:
    lines = sum(1 for _ in read_lines(config.texts))
    with open_vectors(config.vectors) as reader:
        if reader.rows != lines:
            raise RequestError(f"{config.vectors}: {reader.rows} vectors for {lines} lines of {config.texts}; row i must belong to line i")


def corpus_vectors(config: DataConfig, corpus: Corpus, encoder: Encoder | None, track: Track = silent) -> np.ndarray:
    """float32 (kept texts, dim): from data.vectors, else embedded, or taken from the cache of an earlier run."""
    if config.vectors is not None:
        return load_vectors(config.vectors)[corpus.selection.rows]
    from filelock import FileLock

    folder = Path(config.cache or default_cache())
    # What the encoder makes of the probe names it better than its path; rounded, since its last digits vary with threads.
    identity = encoder.identity.model_copy(update={"name": "", "probe": np.round(encoder.identity.probe, 2).tolist()})
    key = hashlib.sha256(f"{corpus.sha256} {identity.model_dump_json()}".encode()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    # The lock lets several runs, and the processes of one, embed the same texts once.
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            log.info(f"vectors taken from {path}")
        else:
            texts = corpus.selection.texts
            partial = PartialVectors(path, len(texts), encoder.identity.dim)
            done = partial.done()
            with track("embedding", len(texts)) as advance:
                advance(done)
                partial.append(_counted(embed(encoder, texts[done:]), advance))
            log.info(f"{len(texts):,} texts embedded; vectors kept in {path}")
    # Mapped, not read: pages that a batch needs come from the disk's cache, and several processes share them.
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _counted(chunks, advance):
    for chunk in chunks:
        yield chunk
        advance(len(chunk))


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "v2t"


def statistics(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the given rows, each float32 (dim,), summed in float64 chunk by chunk."""
    total = np.zeros(vectors.shape[1])
    square = np.zeros(vectors.shape[1])
    for start in range(0, len(rows), 4096):
        chunk = vectors[rows[start : start + 4096]].astype(np.float64)
        total += chunk.sum(axis=0)
        square += (chunk**2).sum(axis=0)
    mean = total / len(rows)
    deviation = np.sqrt(np.maximum(square / len(rows) - mean**2, 0))
    return mean.astype(np.float32), deviation.astype(np.float32)
