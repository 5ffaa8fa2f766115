"""Forms in which stores keep vectors: as they are, padded with zeros, as 8-bit integers, as sign bits, or cut to their first numbers.

Bits and cut vectors lost something for good. How the rest of a vector follows from what was kept is learned from most of the
checkpoint's held-out texts, and candidates are compared in the same form: so the right text still reaches a cosine of 1. Vectors of these
texts are restored too well to measure anything with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError
from v2t_cli.core.similarity import unit_rows
from v2t_cli.core.types import Form
from v2t_cli.models.alignment import FEWEST, Alignment, fit_alignment
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import Encoder, embed_all
from v2t_cli.models.gradients import TokenGradients
from v2t_cli.models.metadata import CheckpointInfo

LEARNED = ("bits", "cut")  # the forms whose reading needs the encoder
SAMPLED = 10_000  # rows that tell the form and the statistics of a store
FEW = 100  # rows that are too few for statistics
MEASURED = 200  # held-out texts that are enough to measure with; all others are learned from
INTEGERS = 511  # distinct values that 8-bit integers may have, in all stores: -255 to 255
SPREAD = 200  # of the 255 steps of an 8-bit integer, that a dimension uses where each has a range of its own

Restore = Callable[[np.ndarray], np.ndarray]  # stored (rows, width) -> float32 (rows, dim)


class FormedEncoder(Encoder):
    """An encoder whose vectors went through a store that keeps less than it was given.

    It has no drafts of its own: what lower precision changes of a vector may turn signs.
    """

    def __init__(self, encoder: Encoder, keep: Restore, alignment: Alignment):
        self.identity = encoder.identity
        self._encoder, self._keep, self._alignment = encoder, keep, alignment

    @property
    def gradients(self) -> TokenGradients | None:  # type: ignore[override]  # some are made when they are first needed
        return self._encoder.gradients

    def encode(self, texts: list[str]) -> np.ndarray:
        return self._alignment(self._keep(self._encoder.encode(texts)))

    def count_truncated(self, texts: list[str]) -> int:
        return self._encoder.count_truncated(texts)


def form_of(array: np.ndarray, info: CheckpointInfo, name: str, named: Form = "auto") -> str:
    """The form of stored vectors (rows, width), by their type, width and values.

    named: by the user. Raises RequestError for vectors of another width, which no form explains. name: of the store, for messages.
    """
    width, wanted, some = array.shape[1], info.width, sample(array)
    if not len(some) and width in (0, wanted):
        return "float"
    if named != "auto":
        same = width == wanted
        fits = {"float": same, "int8": same, "padded": width > wanted, "cut": width < wanted, "bits": same or _is_packed(array, wanted)}
        if not fits[named]:
            raise RequestError(f"{name}: form {named} does not explain vectors of {width} numbers where the checkpoint reads {wanted}")
        return named
    if width == wanted:
        return _by_values(some)
    if _is_packed(array, wanted):
        return "bits"
    if width > wanted and some[:, :wanted].any() and not some[:, wanted:].any():
        return "padded"
    more = f"; if they are the first {width} numbers of its vectors: --form cut" if width < wanted else ""
    raise wrong_width(info, width, name, more)


def wrong_width(info: CheckpointInfo, width: int, name: str, more: str = "") -> RequestError:
    """The error for vectors of another width than the checkpoint's. name: of the vectors; more: what else may help."""
    way = f"embed the texts with this encoder (v2t embed --checkpoint), or train a checkpoint for these vectors{more}"
    return RequestError(f"{name}: vectors of {width} dimensions, but the checkpoint reads {info.width} (of {info.encoder_name}); {way}")


def _by_values(some: np.ndarray) -> str:
    """The form of vectors of the right width. Integers may come as floating-point numbers."""
    if len(np.unique(some[:FEW])) > INTEGERS:  # sorting the numbers of all rows takes long
        return "float"
    values = np.unique(some).astype(np.float64)
    low, high = values[0], values[-1]
    if len(values) == 2 and high > 0 and low in (0, -high):
        return "bits"
    if len(values) == 3 and high > 0 and values[1] == 0 and low == -high:  # numpy.sign, of vectors in which some numbers are 0
        return "bits"
    return "int8" if 2 <= max(-low, high) <= 255 and (values == np.round(values)).all() else "float"


def _is_packed(array: np.ndarray, width: int) -> bool:
    """Whether these may be sign bits, 8 in a byte. Bytes may come as other numbers."""
    if array.shape[1] != -(-width // 8) or array.shape[1] == width:
        return False
    some = sample(array)
    return len(some) > 0 and bool((some == np.round(some)).all()) and some.min() >= -128 and some.max() <= 255


def sample(array: np.ndarray) -> np.ndarray:
    """At most SAMPLED rows, spread over all."""
    return np.asarray(array[:: max(1, -(-len(array) // SAMPLED))])


def divided(texts: list[str]) -> tuple[list[str], list[str]]:
    """Held-out texts that reading bits and cut vectors is learned from, and others to measure with: none if there are too few."""
    every = max(4, len(texts) // MEASURED)
    learned = [text for number, text in enumerate(texts) if number % every]
    return (learned, texts[::every]) if len(learned) >= FEWEST else (texts, [])


def read_form(checkpoint: Checkpoint, array: np.ndarray, form: str) -> tuple[Checkpoint, Restore]:
    """How to restore the vectors of a store of this form, and the checkpoint with an encoder that compares texts in this form.

    array: all rows as they are stored. Raises RequestError if the encoder is missing that bits or cut vectors need.
    """
    width = checkpoint.info.width
    if form == "padded":
        log.info(f"the vectors have {array.shape[1]} numbers, but all after the first {width} are 0; these are left out")
    if form in ("float", "padded"):
        return checkpoint, lambda rows: checkpoint.aligned(_unpadded(rows, width).astype(np.float32, copy=False))
    if checkpoint.alignment:
        raise RequestError(f"the checkpoint is aligned to floating-point vectors; it cannot read form {form}")
    if form == "int8":
        return checkpoint, _integers(checkpoint, array)
    if checkpoint.encoder is None:
        way = "; --form float reads them as they are" if array.shape[1] == width else ""
        raise RequestError(f"form {form} needs the checkpoint's encoder, to learn what such vectors have lost{way}")
    kept = array.shape[1]
    if form == "bits":
        read, keep = _bits(array, width), _signs
    else:
        read, keep = unit_rows, lambda rows: unit_rows(rows[:, :kept])
    known = (form, width if form == "bits" else kept)  # whether bits are packed changes nothing
    if known not in checkpoint.fits:
        whole = embed_all(checkpoint.encoder, divided(checkpoint.held_out())[0])
        checkpoint.fits[known] = fit_alignment(keep(whole), whole)
    fitted = checkpoint.fits[known]
    what = "sign bits" if form == "bits" else f"the first {kept} of {width} numbers"
    log.info(f"the vectors are {what}; the rest is estimated: cosine {fitted.cosine:.2f} with whole vectors, measured on held-out texts")
    formed = replace(checkpoint, encoder=FormedEncoder(checkpoint.encoder, keep, fitted.alignment))
    formed.lexicon = checkpoint.lexicon  # reading it again would take longer than decoding a few rows
    return formed, lambda rows: fitted.alignment(read(rows))


def _unpadded(rows: np.ndarray, width: int) -> np.ndarray:
    """The form was told by some of the rows. Raises RequestError if others are not padded."""
    if rows[:, width:].any():
        raise RequestError(
            f"most of the vectors are padded with zeros after the first {width} numbers, but not all; check how they were made"
        )
    return rows[:, :width]


def _signs(rows: np.ndarray) -> np.ndarray:
    """-1 and 1. As where signs are stored, 0 counts as negative."""
    return np.where(rows > 0, np.float32(1), np.float32(-1))


def _bits(array: np.ndarray, width: int) -> Restore:
    """Sign bits as -1 and 1: those of one byte each, or packed as NumPy and sentence-transformers do, the first in the highest bit."""
    if array.shape[1] == width:
        return _signs
    # int8 of sentence-transformers ("binary") is its uint8 ("ubinary") less 128.
    shift = 128 if array.dtype == np.int8 or (len(array) and sample(array).min() < 0) else 0
    return lambda rows: _signs(np.unpackbits((rows.astype(np.int16) + shift).astype(np.uint8), axis=1)[:, :width])


def raw_numbers(rows: np.ndarray, form: str, width: int) -> np.ndarray | None:
    """Stored vectors as far as they tell signs and proportions: float32 (rows, at most width); None where each dimension has its scale."""
    if form == "bits":
        return _bits(rows, width)(rows)
    if form == "int8":
        return None if _have_ranges(rows) else rows.astype(np.float32) - _zero(rows)
    return rows[:, :width].astype(np.float32)


def _have_ranges(some: np.ndarray) -> bool:
    """Whether each dimension of 8-bit integers (rows, width) seems to have a range of its own."""
    return len(some) > 0 and bool(np.median(np.ptp(some.astype(np.float32), axis=0)) >= SPREAD)


def _zero(some: np.ndarray) -> float:
    """What a zero became. An unsigned one is 128, if there is a range on both sides of it. Integers may come as other numbers."""
    return 128.0 if len(some) and some.min() >= 0 and some.mean() > 64 else 0.0


def _integers(checkpoint: Checkpoint, array: np.ndarray) -> Restore:
    """8-bit integers with one scale for all, which the length of the vectors tells, or with a range for each dimension.

    Ranges are not stored: mean and deviation of each dimension are matched to those of the training vectors.
    """
    adapter, some = checkpoint.inverter.adapter, sample(array)
    mean, deviation = adapter.mean.double().cpu().numpy(), adapter.deviation.double().cpu().numpy()
    if not _have_ranges(some) or len(some) < FEW:
        zero = _zero(some)
        log.info("the vectors are 8-bit integers; they are brought to the length of the training's")
        if len(some) < FEW:
            log.warning(f"{len(some)} rows are too few to find out whether each dimension has a range of its own")
        length = adapter.training_length or 1.0
        return lambda rows: (length * unit_rows(rows.astype(np.float32) - zero)).astype(np.float32)
    log.info("the vectors are 8-bit integers, with a range for each dimension; mean and deviation of each are matched to the training's")
    centre, scale = some.mean(axis=0, dtype=np.float64), np.maximum(some.std(axis=0, dtype=np.float64), 1e-9)
    return lambda rows: ((rows - centre) / scale * deviation + mean).astype(np.float32)
