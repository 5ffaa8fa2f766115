"""The order of training: which batches a step is made of."""

from __future__ import annotations

import math

import numpy as np

from v2t_cli.batching import bucketed
from v2t_cli.examples import Examples

Batch = tuple[Examples, np.ndarray]  # and positions among them


class Plan:
    """Steps of `per_step` batches each. It follows from seed and step alone, so that a run can go on anywhere.

    An epoch goes through the last of the examples, beside as many of the first: what was learned before is not to be lost.
    """

    def __init__(self, examples: list[Examples], batch_size: int, per_step: int, seed: int):
        self._examples, self._batch_size, self._per_step, self._seed = examples, batch_size, per_step, seed
        self._shares = [min(len(part), len(examples[-1])) for part in examples]
        self.steps_per_epoch = math.ceil(sum(math.ceil(share / batch_size) for share in self._shares) / per_step)
        self._epoch: tuple[int, list[Batch]] = (-1, [])

    def step(self, number: int) -> list[Batch]:
        """The batches of a step; the last one of an epoch may have fewer."""
        epoch, position = divmod(number, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(np.random.default_rng([self._seed, epoch]))
        return self._epoch[1][position * self._per_step : (position + 1) * self._per_step]

    def _batches(self, rng: np.random.Generator) -> list[Batch]:
        batches: list[Batch] = []
        for part, share in zip(self._examples, self._shares):
            chosen = np.arange(len(part)) if share == len(part) else rng.permutation(len(part))[:share]
            batches += [(part, chosen[batch]) for batch in bucketed(part.sizes[chosen], self._batch_size, rng)]
        if len(self._examples) > 1:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches
