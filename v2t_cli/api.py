"""The Python API: what the commands do, for programs. Errors that a caller can cause are RequestErrors.

>>> from v2t_cli import V2T
>>> inverter = V2T("examples/ru-mini", device="cpu")
>>> vectors = inverter.embed(["Где здесь выход?", "Чай или кофе?"])
>>> vectors.shape, str(vectors.dtype)
((2, 512), 'float32')
>>> [row.best.text for row in inverter.decode(vectors)]
['Где здесь выход?', 'Чай или кофе?']

A vector need not come from a text: this one lies between the two.

>>> middle = vectors.mean(axis=0)
>>> row, = inverter.decode(middle, quality="fast")
>>> row.best.cosine < 0.99, row.best.logprob < 0
(True, True)

Several texts for one vector, best first:

>>> row, = inverter.decode(vectors[:1], candidates=3)
>>> len(row.candidates) <= 3 and row.candidates[0].text
'Где здесь выход?'

More vectors than fit into memory, one row after the other:

>>> for row in inverter.decode_iter(vector for vector in vectors):
...     print(row.index, row.best.text)
0 Где здесь выход?
1 Чай или кофе?
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from v2t_cli.core.config import Config, DecodeConfig, check_config, load_config
from v2t_cli.core.console import Track, bar, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.types import DecodeSettings, EncoderSettings
from v2t_cli.decoding.candidates import Row
from v2t_cli.decoding.decode import decode as decode_blocks
from v2t_cli.decoding.search import FittedSearch, Search, fit, resolve_search
from v2t_cli.evaluation.baseline import nearest_texts
from v2t_cli.evaluation.evaluate import Evaluation
from v2t_cli.evaluation.evaluate import evaluate as evaluate_texts
from v2t_cli.io.vectors import Block, check_finite
from v2t_cli.models.checkpoint import Checkpoint, open_checkpoint
from v2t_cli.models.encoder import embed_all, open_encoder
from v2t_cli.models.forms import Restore, form_of, read_form, wrong_width
from v2t_cli.models.metadata import CheckpointInfo
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.train import train as train_inverter
from v2t_cli.training.trainer import TrainResult

Vectors = NDArray[np.float32]


class V2T:
    """An open checkpoint with its encoder.

    info: what the checkpoint says about itself (v2t.json).
    """

    def __init__(
        self,
        checkpoint: str | PathLike[str],
        device: str = "auto",
        encoder: str | None = None,
        precision: str = "auto",
        trust_remote_code: bool = False,
    ):
        """checkpoint: a folder, or a name on the hub; encoder: instead of the checkpoint's own; it must give the same vectors.

        If the checkpoint has no encoder, or it cannot be opened, nothing is re-ranked. Raises RequestError for what is not a
        checkpoint, is damaged, or needs untrusted code.
        """
        models = {"encoder": {"trust_remote_code": trust_remote_code}, "decoder": {"trust_remote_code": trust_remote_code}}
        config = check_config({"decode": {"precision": precision}, **models}, "settings")
        with _quiet_libraries():
            self._checkpoint = open_checkpoint(checkpoint, config, device, encoder)

    def __repr__(self) -> str:
        encoder = self.info.encoder_name if self._checkpoint.encoder else "no encoder"
        return f"V2T({str(self._checkpoint.folder)!r}, {self.info.width} dimensions, {encoder}, {self._checkpoint.inverter.device})"

    @property
    def info(self) -> CheckpointInfo:
        return self._checkpoint.info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors by the checkpoint's encoder: float32 (len(texts), dim). Raises RequestError if there is no encoder."""
        if self.info.alignment:
            raise RequestError("this checkpoint reads the vectors of an encoder that it does not have; give it vectors")
        if self._checkpoint.encoder is None:
            raise RequestError("this checkpoint was opened without its encoder; V2T(..., encoder=...) names one")
        return embed_all(self._checkpoint.encoder, _listed(texts))

    def decode(self, vectors: ArrayLike, *, seed: int = 0, progress: bool = False, **settings: Unpack[DecodeSettings]) -> list[Row]:
        """A Row for each vector: its candidates, best first, each with text, logprob (nats) and cosine.

        vectors: (rows, dim), or (dim,) for one, finite numbers; a column of vectors, as pandas has them, is as good, and so are other
        forms in which stores keep them (settings: form). progress: as for `decode_iter`. settings: as under `decode` in the
        configuration, such as quality, candidates, beams. Raises RequestError for other vectors, naming the row, and other settings.
        """
        return list(self._decoded_array(vectors, seed, bar if progress else silent, settings))

    def decode_iter(
        self, vectors: ArrayLike | Iterable[ArrayLike], *, seed: int = 0, progress: bool = False, **settings: Unpack[DecodeSettings]
    ) -> Iterator[Row]:
        """Like `decode`, but yields the rows as they come, a batch at a time.

        vectors: as for `decode`, or an iterator over vectors (dim,) or blocks (rows, dim) of floating-point numbers, of which no more
        is read than the next batch needs. progress: draw a bar on a terminal or in a notebook (which needs ipywidgets); elsewhere a
        line is logged every 30 seconds. Wrong settings are refused at once, a wrong vector when it is read.
        """
        track = bar if progress else silent
        if hasattr(vectors, "__array__") or isinstance(vectors, Sequence) or not isinstance(vectors, Iterable):
            return self._decoded_array(vectors, seed, track, settings)
        if (form := settings.get("form", "auto")) not in ("auto", "float"):
            raise RequestError(f"form: {form} is read from all vectors, but an iterator gives them one by one; pass an array")
        search = fit(self._checkpoint, resolve_search(_settings(settings, seed)), track=track)
        rows = self._stream(vectors, integers=form == "float")
        return self._decoded(self._checkpoint, rows, None, self._checkpoint.aligned, search, seed, track)

    def _decoded_array(self, vectors: Any, seed: int, track: Track, settings: DecodeSettings) -> Iterator[Row]:
        array = self._array(vectors)
        search, checkpoint, restore = self._prepared(array, resolve_search(_settings(settings, seed)), track)
        return self._decoded(checkpoint, iter(array), len(array), restore, search, seed, track)

    @staticmethod
    def _decoded(
        checkpoint: Checkpoint,
        rows: Iterator[np.ndarray],
        total: int | None,
        restore: Restore,
        search: FittedSearch,
        seed: int,
        track: Track,
    ) -> Iterator[Row]:
        """rows: (info.width,) each, which `restore` brings to (info.dim,). They are computed in the same batches as those of a file."""

        def blocks() -> Iterator[Block]:
            first = 0
            while batch := list(islice(rows, search.batch_size)):
                yield Block(first, restore(np.stack(batch)))
                first += len(batch)

        with track("decoding", total) as advance:
            yield from decode_blocks(checkpoint, blocks(), search, seed, advance=advance)

    def _stream(self, vectors: Iterable[ArrayLike], integers: bool) -> Iterator[np.ndarray]:
        """The single rows of vectors and blocks, float32 (info.width,), checked as they come. integers: whether they may be integers."""
        count = 0
        for item in vectors:
            rows = self._array(item, count)
            if rows.dtype != np.float32 and not integers:
                raise RequestError("vectors: 8-bit integers are read from all rows, but an iterator gives them one by one; pass an array")
            rows = rows.astype(np.float32, copy=False)
            if rows.shape[1] != self.info.width:
                raise wrong_width(self.info, rows.shape[1], f"vectors: row {count}" if count else "vectors")
            yield from rows
            count += len(rows)

    def evaluate(
        self,
        texts: Iterable[str],
        vectors: ArrayLike | None = None,
        *,
        train_texts: Iterable[str] | None = None,
        samples: int = 20,
        seed: int = 0,
        **settings: Unpack[DecodeSettings],
    ) -> Evaluation:
        """How much of the texts comes back from their vectors, (len(texts), dim), which are embedded unless given.

        train_texts: adds the baseline of copying the nearest of them. vectors, settings: as for `decode`.
        """
        texts, wanted = _listed(texts), resolve_search(_settings(settings, seed, samples))
        array = self.embed(texts) if vectors is None else self._array(vectors)
        if len(array) != len(texts):
            raise RequestError(f"{len(array)} vectors for {len(texts)} texts; row i must belong to text i")
        if vectors is None:
            wanted = wanted.model_copy(update={"form": "float"})
        search, checkpoint, restore = self._prepared(array, wanted)
        rows = restore(array)
        # First, because it may refuse the training texts, and decoding takes long.
        nearest = nearest_texts(checkpoint, _listed(train_texts), texts, rows) if train_texts is not None and texts else None
        return replace(evaluate_texts(checkpoint, texts, rows, search, samples, seed), nearest=nearest)

    def _prepared(self, array: np.ndarray, wanted: Search, track: Track = silent) -> tuple[FittedSearch, Checkpoint, Restore]:
        """The search, the checkpoint for the form of the vectors, (rows, info.width), and how to restore these."""
        form = form_of(array, self.info, "vectors", wanted.form)  # first, because embedding the lexicon takes long
        search = fit(self._checkpoint, wanted, track=track)
        return search, *read_form(self._checkpoint, array, form)

    def _array(self, vectors: Any, first: int = 0) -> np.ndarray:
        """Finite float32, or 8-bit integers, (rows, width). first: the number of the first row, for errors."""
        if isinstance(vectors, (str, PathLike)):
            raise RequestError("vectors: expected numbers, got a name; numpy.load reads a .npy file")
        try:
            array = np.asarray(vectors)
            if array.dtype == object and any(map(np.ndim, array)):
                array = self._column(array, first)
        except (TypeError, ValueError, RuntimeError):  # rows of different lengths; a tensor that NumPy cannot read
            array = self._column(vectors, first)
        try:
            rows = np.atleast_2d(array)
            if array.ndim and not len(array):
                rows = rows.reshape(0, self.info.width)
            if rows.dtype not in (np.int8, np.uint8):
                with np.errstate(over="ignore"):  # becomes infinite, and is reported as that
                    rows = rows.astype(np.float32, casting="same_kind" if rows.dtype.kind in "fc" else "unsafe")
        except (TypeError, ValueError) as error:
            raise RequestError(f"vectors: {error}") from None
        if rows.ndim != 2:
            raise RequestError(f"vectors: shape {rows.shape}, expected (rows, dim)")
        check_finite(rows, "vectors", first)
        return np.ascontiguousarray(rows)

    @staticmethod
    def _column(vectors: Any, first: int) -> np.ndarray:
        """Vectors that are objects of their own, such as lists or arrays: float64 (rows, width)."""
        if not isinstance(vectors, Iterable):
            raise RequestError(f"vectors: expected numbers of shape (rows, dim), got {type(vectors).__name__}")
        out: list[np.ndarray] = []
        for number, vector in enumerate(vectors, first):
            try:
                row = np.asarray(vector, dtype=np.float64)
            except (TypeError, ValueError, RuntimeError) as error:
                raise RequestError(f"vectors: row {number}: {one_line(error)}") from None
            if row.ndim != 1 or (out and row.shape != out[0].shape):
                raise RequestError(f"vectors: row {number} has shape {row.shape}; expected {out[0].shape if out else '(dim,)'}")
            out.append(row)
        return np.stack(out) if out else np.empty((0, 0))


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence transformers' progress bars, and accelerate's notes on shared weights, for the time of loading."""
    bars, accelerate = is_progress_bar_enabled(), logging.getLogger("accelerate")
    level = accelerate.level
    disable_progress_bar()
    accelerate.setLevel(logging.ERROR)
    try:
        yield
    finally:
        accelerate.setLevel(level)
        if bars:
            enable_progress_bar()


def _settings(settings: DecodeSettings, seed: int = 0, samples: int = 0) -> DecodeConfig:
    """The settings under `decode`. Raises RequestError as the configuration file does."""
    if "precision" in settings:
        raise RequestError("precision: is set when a checkpoint is opened: V2T(..., precision=...)")
    return check_config({"decode": settings, "seed": seed, "eval": {"samples": samples}}, "settings").decode


def _listed(texts: Iterable[str]) -> list[str]:
    """Raises RequestError for anything but a list of texts; a single string would pass as a list of letters."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        given = "a single string" if isinstance(texts, str) else type(texts).__name__
        raise RequestError(f"texts: expected a list of strings, got {given}")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise RequestError(f"texts[{i}]: expected a string, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(f"texts[{i}]: {error}") from None
    return texts


def embed(texts: Sequence[str], encoder: str = "usem3", device: str = "auto", **settings: Unpack[EncoderSettings]) -> Vectors:
    """Vectors of the texts: float32 (len(texts), dim). settings: as under `encoder` in the configuration, such as prompt.

    >>> embed(["Где лодка?"], encoder="usem3").shape
    (1, 512)
    """
    config, texts = check_config({"encoder": {"model": encoder, **settings}}, "settings").encoder, _listed(texts)
    with _quiet_libraries():
        opened = open_encoder(config, device)
    return embed_all(opened, texts)


def train(
    config: Config | Mapping[str, Any] | str | PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callbacks | None = None,
) -> TrainResult:
    """Train an inverter and leave a checkpoint folder.

    config: as in the YAML file, or that file's path; callbacks: to observe the training and stop it.

    >>> train({"data": {"texts": "absent.txt"}})
    Traceback (most recent call last):
    ...
    v2t_cli.core.errors.RequestError: absent.txt: no such text file
    """
    if not isinstance(config, Config):
        config = check_config(dict(config), "config") if isinstance(config, Mapping) else load_config(Path(config), None)
    with _quiet_libraries():
        return train_inverter(config, resume, overwrite, callbacks)
