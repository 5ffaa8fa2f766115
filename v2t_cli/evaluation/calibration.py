"""Calibration: how probable it is that a decoded text is right, given the cosine of its vector with the target.

A checkpoint keeps texts that training did not see, or, if it is aligned, pairs mapped by fits that left them out. They are decoded with
the same search as the rows, and which of them came back gives the probability by isotonic regression (pool adjacent violators, Ayer et
al. 1955): a higher cosine is never less probable.

A text is right if its words and marks are those of the true text. Case and blanks do not count: many encoders give the same vector
whatever they are, so that no cosine could tell an exact text from one with another capital.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from v2t_cli.core.console import Track, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import FittedSearch
from v2t_cli.evaluation.metrics import Interval, same_words, wilson_interval
from v2t_cli.io.vectors import Block, grid
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import embed_all
from v2t_cli.models.forms import FormedEncoder, divided

TEXTS = 200  # that are decoded, at most
DIGITS = 5  # of a cosine; what differs by less is how the encoder rounds


@dataclass(frozen=True)
class Level:
    """Held-out texts with similar cosines, and how many of them came back right. cosine: the least of theirs."""

    cosine: float
    texts: int
    right: int

    @property
    def probability(self) -> float:
        """That a text with such a cosine is right. Counts one more text, a miss, so that a few texts never make a row sure."""
        return self.right / (self.texts + 1)

    @property
    def interval(self) -> Interval:
        return wilson_interval(self.right, self.texts)


class Calibration:
    """Levels in ascending order of cosines and probabilities. texts, right: of all levels together."""

    def __init__(self, outcomes: Iterable[tuple[float, bool]], top: float = 1.0):
        """outcomes: of held-out texts, the cosine and whether the decoded text is right. Raises ValueError without any.

        top: the cosine from which the search takes any text. Higher ones count as this one: rows that a store rounded cannot reach them.
        """
        self._top = top
        levels = [Level(self._rounded(cosine), 1, right) for cosine, right in sorted(outcomes)]
        if not levels:
            raise ValueError("no outcomes to calibrate with")
        # First equal cosines, then the isotonic regression; the extra miss weighs more in small levels and may upset their order again.
        levels = _pooled(levels, lambda level: level.cosine)
        levels = _pooled(levels, lambda level: level.right / level.texts)
        self.levels = _pooled(levels, lambda level: level.probability)
        self.texts, self.right = (sum(getattr(level, count) for level in self.levels) for count in ("texts", "right"))
        self._ends = [level.cosine for level in self.levels]

    def level(self, cosine: float) -> int:
        """The number of the level that a cosine reaches; -1 below all of them."""
        return bisect_right(self._ends, self._rounded(cosine)) - 1

    def probability(self, level: int) -> float:
        """That a text of this level is right. 0 below all levels, where nothing was measured."""
        return self.levels[level].probability if level >= 0 else 0.0

    def interval(self, level: int) -> Interval:
        """95 % interval of the probability. Below all levels it ends where that of the lowest one does."""
        return self.levels[level].interval if level >= 0 else (0.0, self.levels[0].interval[1])

    def _rounded(self, cosine: float) -> float:
        return round(min(cosine, self._top), DIGITS)


def _pooled(levels: list[Level], share: Callable[[Level], float]) -> list[Level]:
    """Neighbours are merged until their shares ascend."""
    out: list[Level] = []
    for level in levels:
        out.append(level)
        while len(out) > 1 and share(out[-2]) >= share(out[-1]):
            high, low = out.pop(), out.pop()
            out.append(Level(low.cosine, low.texts + high.texts, low.right + high.right))
    return out


def calibrate(
    checkpoint: Checkpoint, search: FittedSearch, seed: int = 0, track: Track = silent, processes: Processes = ALONE
) -> Calibration:
    """Decode held-out texts with this search, which re-ranks by the checkpoint's encoder. Several processes divide the texts.

    seed: chooses the texts, and is that of sampling. Raises RequestError if the checkpoint keeps no held-out texts, or too few for the
    form of its vectors.
    """
    assert checkpoint.encoder is not None and search.rerank  # otherwise there is no cosine
    texts, few, known = checkpoint.held_out(), "no", None
    if checkpoint.alignment:
        known = checkpoint.alignment.held_out
        if known is None or len(known) != len(texts):
            raise RequestError(f"{checkpoint.folder}: its held-out texts and their vectors do not belong together; align again")
    if texts and isinstance(checkpoint.encoder, FormedEncoder):
        texts, few = divided(texts)[1], "too few"
    if not texts:
        raise RequestError(f"{checkpoint.folder}: holds {few} held-out texts, so nothing tells how sure a decoded text is")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:TEXTS])
    texts = [texts[i] for i in chosen]
    vectors = known[chosen] if known is not None else embed_all(checkpoint.encoder, texts, processes)
    # The same everywhere: GPUs with unequal memory would cut unequal blocks.
    blocks = processes.split(grid(len(texts), processes.by_main(lambda: search.batch_size)))
    outcomes = []
    with track("decoding held-out texts", sum(map(len, blocks))) as advance:
        given = (Block(it.start, vectors[it.start : it.stop]) for it in blocks)
        for row in decode(checkpoint, given, search, seed, processes, warn=False, advance=advance):
            outcomes.append((row.best.nearness, same_words(row.best.text, texts[row.index])))
    return Calibration(processes.gather(outcomes), search.until_cosine)
