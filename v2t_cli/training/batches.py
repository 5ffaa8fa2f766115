"""Training examples, and the order in which they make up batches and steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from v2t_cli.core.device import to_device
from v2t_cli.models.inverter import Inverter, logit_batches
from v2t_cli.models.language_model import pad
from v2t_cli.training.dataset import Split

# Lengths are sorted within pools of this many batches: little padding, and the order stays close to random.
POOL = 100


@dataclass(frozen=True)
class Examples:
    """Texts to write from their vectors, which the split's rows refer to."""

    split: Split
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.split)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens to write for each example, end-of-text included: int64."""
        return self.split.lengths

    def vectors_of(self, which: np.ndarray) -> np.ndarray:
        """The vectors of the examples at these positions: float32 (len(which), dim), a copy."""
        return np.array(self.vectors[self.split.rows[which]], dtype=np.float32)

    def tensors(self, which: np.ndarray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of Inverter.forward for the examples at these positions."""
        assert self.split.ids is not None  # examples are tokenized
        return to_device(torch.from_numpy(self.vectors_of(which)), device), *pad(self.split.ids.keep(which), pad_id, device)

    def loss(self, inverter: Inverter, pad_id: int) -> float:
        """Nats per token over all examples."""
        total = 0.0
        with torch.inference_mode():
            for batch in logit_batches(inverter, self.lengths):
                total += inverter(*self.tensors(batch, pad_id, inverter.device)).double().sum().item()
        return total / int(self.lengths.sum())


class BatchPlan:
    """Steps of `per_step` batches each. The plan follows from the seed and the step alone, so a run can resume anywhere."""

    def __init__(self, lengths: np.ndarray, batch_size: int, per_step: int, seed: int):
        """lengths: of all examples."""
        self._lengths, self._batch_size, self._per_step, self._seed = lengths, batch_size, per_step, seed
        self.steps_per_epoch = math.ceil(math.ceil(len(lengths) / batch_size) / per_step)
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def step(self, number: int) -> list[np.ndarray]:
        """The batches of a step, as positions of examples; the last step of an epoch may have fewer."""
        epoch, position = divmod(number, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, bucketed(self._lengths, self._batch_size, np.random.default_rng([self._seed, epoch]))
        return self._epoch[1][position * self._per_step : (position + 1) * self._per_step]


def bucketed(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffle 0 … len(lengths)-1 into batches of positions with similar lengths, in random order of batches."""
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), batch_size * POOL):
        pool = order[start : start + batch_size * POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches
