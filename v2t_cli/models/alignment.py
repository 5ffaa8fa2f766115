"""Alignment: a map from the vectors of an encoder that cannot be had into the space of one that a checkpoint reads.

It is fitted in closed form to texts whose vectors are known in both spaces. Three maps compete, by their errors on pairs that they
were not fitted to: ridge regression; kernel ridge regression (Saunders et al., 1998), which can bend space, but needs to keep the
foreign vectors of its pairs; and a rotation (orthogonal Procrustes, Schönemann, 1966), the best where the foreign encoder is the
checkpoint's own in disguise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.similarity import row_cosine, unit_rows

ALIGNMENT = "alignment.safetensors"
NOISES = tuple(10.0**power for power in np.arange(-4, 1.1, 0.5))  # regularisation, relative to the mean square of a foreign vector
SHARPNESS = (0.5, 1.0, 2.0)  # of the kernel exp(sharpness * (cosine - 1))
COMPARED = 1000  # pairs that choose among the maps
LANDMARKS = 4096  # pairs whose vectors a kernel keeps; more pairs than these still improve its weights
FEWEST = 10  # pairs
MEASURED = 200  # pairs that tell how sure a decoded text is
FOLDS = 5
PLENTY = 1000  # pairs of which MEASURED can all be left out at once: the others still make nearly the same map
ROWS = 1024  # mapped at once: a kernel takes a float32 for each landmark and row
GAIN = 0.005  # cosine by which a kernel must be better than a matrix


@dataclass
class Alignment:
    """centre: (foreign dim,); landmarks: (n, foreign dim), of length 1, of a kernel; weights: (foreign dim or n, dim); offset: (dim,).

    All are float32. sharpness: of the kernel; None: the map is linear. length: of the vectors that it makes. held_out: vectors of the
    texts in held_out.txt, mapped by fits that left them out, (texts, dim); None: an older version did not keep them.
    """

    centre: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    length: float
    landmarks: np.ndarray | None = None
    sharpness: float | None = None
    held_out: np.ndarray | None = None

    @property
    def dim(self) -> int:
        """Of the foreign vectors."""
        return len(self.centre)

    def __call__(self, foreign: np.ndarray) -> np.ndarray:
        """float32 (rows, foreign dim) -> float32 (rows, dim), all of the same length; zeros stay zeros."""
        parts = [self._mapped(foreign[start : start + ROWS]) for start in range(0, max(1, len(foreign)), ROWS)]
        return np.concatenate(parts)

    def _mapped(self, foreign: np.ndarray) -> np.ndarray:
        features = unit_rows(foreign) - self.centre
        if self.landmarks is not None and self.sharpness is not None:
            features = np.exp(self.sharpness * (unit_rows(features) @ self.landmarks.T - 1))
        mapped = (self.length * unit_rows(features @ self.weights + self.offset)).astype(np.float32)
        mapped[~foreign.any(axis=1)] = 0
        return mapped

    def save(self, path: Path) -> None:
        parts = {"centre": self.centre, "weights": self.weights, "offset": self.offset, "length": np.array(self.length)}
        if self.landmarks is not None and self.sharpness is not None:
            parts |= {"landmarks": self.landmarks, "sharpness": np.array(self.sharpness)}
        if self.held_out is not None:
            parts["held_out"] = self.held_out
        save_file({name: np.ascontiguousarray(part, dtype=np.float32) for name, part in parts.items()}, path)

    @classmethod
    def load(cls, path: Path, foreign: int, dim: int) -> Alignment:
        """foreign, dim: of the vectors that it should read and make. Raises RequestError, naming the file, if it is damaged."""
        try:
            parts = load_file(path)
            sharpness = parts["sharpness"].item() if "sharpness" in parts else None
            length, landmarks, held_out = parts["length"].item(), parts.get("landmarks"), parts.get("held_out")
            found = cls(parts["centre"], parts["weights"], parts["offset"], length, landmarks, sharpness, held_out)
            rows = found.dim if found.landmarks is None else len(found.landmarks)
            shapes = found.weights.shape == (rows, dim) and found.offset.shape == (dim,) and found.centre.shape == (foreign,)
            kept = found.landmarks is None or found.landmarks.shape == (rows, found.dim)
            kept &= held_out is None or held_out.shape == (len(held_out), dim)
            if not (shapes and kept) or not all(np.isfinite(part).all() for part in parts.values()):
                raise ValueError("its numbers do not fit together")
        except FileNotFoundError:
            raise RequestError(f"{path}: missing; the checkpoint is incomplete") from None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise RequestError(f"{path}: damaged, or of another checkpoint: {one_line(error)}") from None
        return found


@dataclass(frozen=True)
class Fitted:
    """kind: of the map; cosine: mean, of mapped pairs that were left out with their own vectors: COMPARED at most."""

    alignment: Alignment
    kind: str
    cosine: float


def fit_alignment(foreign: np.ndarray, own: np.ndarray) -> Fitted:
    """The best map from foreign (pairs, foreign dim) to own (pairs, dim) vectors, row i of both for the same text.

    Raises RequestError for too few pairs, or vectors that are all equal.
    """
    if len(own) < FEWEST:
        raise RequestError(f"{len(own)} pairs of texts and vectors are too few to align two spaces; the fewest are {FEWEST}")
    length = float(np.sqrt(np.square(own.astype(np.float64)).sum(axis=1).mean()))
    given, wanted = unit_rows(foreign).astype(np.float64), unit_rows(own).astype(np.float64)
    centre, offset = given.mean(axis=0), wanted.mean(axis=0)
    given, wanted = given - centre, wanted - offset
    if not np.square(given).sum() > 1e-9 * len(given):
        raise RequestError("the vectors of all texts are equal, so they cannot be aligned")
    some = np.random.default_rng(0).permutation(len(given))
    kind, cosine, noise, sharpness = _best_map(given[some[:COMPARED]], wanted[some[:COMPARED]], offset)
    landmarks = None
    if kind == "ridge":
        weights = _ridge(given, wanted, noise)
    elif kind == "rotation":
        weights = _rotation(given, wanted)
    else:
        unit = unit_rows(given)
        landmarks = unit[some[:LANDMARKS]]
        parts = [slice(start, start + LANDMARKS) for start in range(0, len(unit), LANDMARKS)]  # memory does not grow with the pairs
        gram = _kernel(landmarks, landmarks, sharpness)
        weights = _regressed((_kernel(unit[it], landmarks, sharpness) for it in parts), (wanted[it] for it in parts), gram, noise)
        landmarks = landmarks.astype(np.float32)
    alignment = Alignment(
        centre.astype(np.float32),
        weights.astype(np.float32),
        offset.astype(np.float32),
        length,
        landmarks,
        None if landmarks is None else sharpness,
    )
    return Fitted(alignment, kind, cosine)


def left_out(foreign: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, mapped by fits that left them out: their positions (n,) int64, and their vectors, float32 (n, dim).

    foreign, own: as in `fit_alignment`. Both are empty if the other pairs would be too few to fit a map to.
    """
    rows = np.sort(np.random.default_rng(1).permutation(len(own))[:MEASURED])
    folds = 1 if len(own) >= PLENTY else FOLDS
    if len(own) - -(-len(rows) // folds) < FEWEST:
        rows = rows[:0]
    mapped = np.empty((len(rows), own.shape[1]), dtype=np.float32)
    for number in range(min(folds, len(rows))):
        held = rows[number::folds]
        others = np.delete(np.arange(len(own)), held)
        mapped[number::folds] = fit_alignment(foreign[others], own[others]).alignment(foreign[held])
    return rows, mapped


def _best_map(given: np.ndarray, wanted: np.ndarray, offset: np.ndarray) -> tuple[str, float, float, float]:
    """The kind of map with the highest mean cosine on left-out pairs, this cosine, and its noise and sharpness, if any."""
    noise, cosine = _best_noise(_linear(given, given), wanted, offset, centred=True)
    maps = [("ridge", cosine, noise, 0.0), ("rotation", _folded(given, wanted, offset, _rotation), 0.0, 0.0)]
    unit = unit_rows(given)
    for sharpness in SHARPNESS:
        noise, cosine = _best_noise(_kernel(unit, unit, sharpness), wanted, offset)
        maps.append(("kernel", cosine, noise, sharpness))
    return max(maps, key=lambda it: it[1] - GAIN * (it[0] == "kernel"))


def _linear(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left @ right.T / np.square(right).sum(axis=1).mean()


def _kernel(left: np.ndarray, right: np.ndarray, sharpness: float) -> np.ndarray:
    return np.exp(sharpness * (left @ right.T - 1))


def _best_noise(gram: np.ndarray, wanted: np.ndarray, offset: np.ndarray, centred: bool = False) -> tuple[float, float]:
    """The regularisation with the smallest error when each pair is left out, and the mean cosine that it then reaches.

    The errors are known in closed form: that of row i is what the fit to all leaves of it, divided by 1 minus the weight of row i in
    its own prediction. centred: whether the mean was taken from what the gram matrix was made of, which is a part of this weight.
    """
    values, vectors = np.linalg.eigh(gram)
    turned, best = vectors.T @ wanted, (np.inf, 0.0, 0.0)
    for noise in NOISES:
        left = noise / (np.maximum(values, 0) + noise)
        alone = np.square(vectors) @ left - centred / len(gram)
        errors = (vectors @ (left[:, None] * turned)) / np.maximum(alone, 1e-9)[:, None]
        squared = float(np.square(errors).mean())
        if squared < best[0]:
            best = squared, noise, float(row_cosine(wanted - errors + offset, wanted + offset).mean())
    return best[1], best[2]


def _ridge(given: np.ndarray, wanted: np.ndarray, noise: float) -> np.ndarray:
    """(foreign dim, dim)."""
    square = noise * np.square(given).sum(axis=1).mean()
    return np.linalg.solve(given.T @ given + square * np.eye(given.shape[1]), given.T @ wanted)


def _regressed(features: Iterable[np.ndarray], wanted: Iterable[np.ndarray], gram: np.ndarray, noise: float) -> np.ndarray:
    """The weights of a kernel's landmarks, (landmarks, dim): those of kernel ridge regression if the landmarks are all pairs.

    features, wanted: part by part, (pairs, landmarks) and (pairs, dim).
    """
    normal, right = noise * gram, np.float64(0)
    for part, goal in zip(features, wanted):
        normal += part.T @ part
        right = right + part.T @ goal
    normal[np.diag_indices_from(normal)] += 1e-9 * normal.diagonal().mean()
    return np.linalg.solve(normal, right)


def _rotation(given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Orthogonal, and scaled to the length of what is wanted: (foreign dim, dim)."""
    left, values, right = np.linalg.svd(given.T @ wanted, full_matrices=False)
    return left @ right * (values.sum() / np.square(given).sum())


def _folded(given: np.ndarray, wanted: np.ndarray, offset: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
    """The mean cosine of predictions for a fold from a fit to the others."""
    fold, cosines = np.arange(len(given)) % FOLDS, []
    for number in range(FOLDS):
        held = fold == number
        cosines.append(row_cosine(given[held] @ fit(given[~held], wanted[~held]) + offset, wanted[held] + offset))
    return float(np.concatenate(cosines).mean())
