"""Training data: texts, their vectors (embedded once, then cached), and their tokens."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from v2t_cli.core.config import DataConfig
from v2t_cli.core.console import Advance, Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.io.texts import read_lines
from v2t_cli.io.vectors import PartialVectors, open_vectors
from v2t_cli.models.encoder import SAME_ENCODER, Encoder, EncoderIdentity, embed
from v2t_cli.models.language_model import TokenRows


@dataclass(frozen=True)
class Selection:
    """The lines that are kept for training, and how many fell to which filter."""

    rows: np.ndarray  # int64, ascending: kept lines of the file
    texts: list[str]  # the same lines' texts
    limits: tuple[int, int]  # characters that a text must and may have
    duplicates: int
    too_short: int
    too_long: int

    def __str__(self) -> str:
        shorter, longer = (
            f"{how} than data.{key} {limit}" for how, key, limit in zip(("shorter", "longer"), ("min_chars", "max_chars"), self.limits)
        )
        dropped = {"seen before": self.duplicates, shorter: self.too_short, longer: self.too_long}
        total = len(self.texts) + sum(dropped.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        return f"{len(self.texts):,} of {total:,} texts kept" + (f" (dropped: {reasons})" if reasons else "")


def select(lines: Iterable[str], min_chars: int, max_chars: int) -> Selection:
    """Keep the first of equal texts whose length in characters lies in min_chars … max_chars, both included."""
    rows, texts, seen = array("q"), [], set()
    duplicates = too_short = too_long = 0
    for row, text in enumerate(lines):
        if len(text) < min_chars or not text.strip():
            too_short += 1
        elif len(text) > max_chars:
            too_long += 1
        elif text in seen:
            duplicates += 1
        else:
            seen.add(text)
            rows.append(row)
            texts.append(text)
    return Selection(np.array(rows, dtype=np.int64), texts, (min_chars, max_chars), duplicates, too_short, too_long)


def split_held_out(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0 … count-1 into (training, held out), both ascending int64, the same for the same seed.

    Raises RequestError where a side that should hold something would be empty.
    """
    held = max(1, round(count * share)) if share else 0
    if count - held < 1:
        raise RequestError(f"data.texts: {count} usable texts cannot be split into training and {share:.0%} held out")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def fingerprint(texts: Iterable[str]) -> str:
    """SHA-256 (hex) of the texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Texts, the row of each in the array of vectors, and, once tokenized, its token ids with the end-of-text id."""

    texts: list[str]
    rows: np.ndarray  # int64
    ids: TokenRows | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def keep(self, which: np.ndarray) -> Split:
        """The positions `which`, in that order."""
        return Split([self.texts[i] for i in which], self.rows[which], None if self.ids is None else self.ids.keep(which))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, the end included: int64."""
        assert self.ids is not None  # asked of tokenized splits alone
        return self.ids.lengths


@dataclass
class Corpus:
    """What survived the filters, split for training."""

    texts: list[str]
    train: Split
    held_out: Split
    sha256: str


def read_corpus(config: DataConfig, seed: int) -> Corpus:
    """Read, filter and split the texts: a larger data.held_out holds out the same texts and more.

    Raises RequestError where there are none, or too few.
    """
    if "-" in (config.texts, config.vectors):
        raise RequestError("data.texts and data.vectors are read more than once: name files, not stdin")
    if config.vectors is not None:
        _check_count(config.texts, config.vectors)
    selection = select(read_lines(config.texts), config.min_chars, config.max_chars)
    log.info(f"{config.texts}: {selection}")
    if not selection.texts:
        raise RequestError(f"{config.texts}: no text has data.min_chars {config.min_chars} to data.max_chars {config.max_chars} characters")
    train, held_out = split_held_out(len(selection.texts), config.held_out, seed)
    # Vectors from elsewhere stand for all lines of the file, our own for the kept ones.
    everything = Split(selection.texts, selection.rows if config.vectors else np.arange(len(selection.texts)))
    return Corpus(selection.texts, everything.keep(train), everything.keep(held_out), fingerprint(selection.texts))


def kept_for_correction(corpus: Corpus, held_out: float, share: float, seed: int) -> Split:
    """Of the training texts those that a run with data.held_out = held_out + share would have held out besides."""
    count = len(corpus.texts)
    train, _ = split_held_out(count, held_out, seed)
    _, wider = split_held_out(count, held_out + share, seed)
    return corpus.train.keep(np.flatnonzero(np.isin(train, wider)))


def _check_count(texts: str, vectors: str) -> None:
    lines = sum(1 for _ in read_lines(texts))
    with open_vectors(vectors) as reader:
        if reader.rows != lines:
            raise RequestError(f"{vectors}: {reader.rows} vectors for {lines} lines of {texts}; row i must belong to line i")


def corpus_vectors(config: DataConfig, corpus: Corpus, encoder: Encoder | None, track: Track = silent) -> np.ndarray:
    """The vectors that the rows of the splits point at, (rows, dim), mapped from disk.

    From data.vectors, else embedded, or taken from the cache of an earlier run.
    """
    path = config.vectors or _cached(config, corpus, encoder, track)
    # Mapped, not read: pages that a batch needs come from the disk's cache, and several processes share them.
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    return vectors if vectors.ndim == 2 else vectors[None]


def _cached(config: DataConfig, corpus: Corpus, encoder: Encoder | None, track: Track) -> Path:
    """The file that holds the embedded texts, written now unless an earlier run did."""
    from filelock import FileLock

    assert encoder is not None  # there is one where there are no vectors from elsewhere
    identity = encoder.identity
    folder = Path(config.cache or default_cache())
    name = f"{corpus.sha256} {identity.name} {identity.prompt} {identity.normalize}"
    path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be the folder of cached vectors (data.cache): {error.strerror}") from None
    # The lock lets several runs, and the processes of one, embed the same texts once.
    with FileLock(path.with_suffix(".lock")):
        partial = PartialVectors(path, len(corpus.texts), identity.dim)
        # A name says little of what a folder holds today: the probe vector decides.
        made_by = path.with_suffix(".json")
        if not _made_by(made_by, identity):
            partial.discard()
            made_by.write_text(identity.model_dump_json(), encoding="utf-8")
        if path.exists():
            log.info(f"vectors taken from {path}")
            return path
        done = partial.done()
        log.info(f"embedding {len(corpus.texts) - done:,} texts")
        with track("embedding", len(corpus.texts)) as advance:
            advance(done)
            partial.append(_counted(embed(encoder, corpus.texts[done:]), advance))
        log.info(f"{len(corpus.texts):,} texts embedded; vectors kept in {path}")
    return path


def _made_by(path: Path, identity: EncoderIdentity) -> bool:
    try:
        return identity.cosine(EncoderIdentity.model_validate_json(path.read_text(encoding="utf-8"))) >= SAME_ENCODER
    except (OSError, ValueError):
        return False


def _counted(chunks: Iterator[np.ndarray], advance: Advance) -> Iterator[np.ndarray]:
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
