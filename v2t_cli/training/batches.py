"""Training examples, and the order in which they make up batches and steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from v2t_cli.core.device import to_device
from v2t_cli.models.inverter import Hypotheses, Inverter, logit_batches
from v2t_cli.models.language_model import TokenRows, pad
from v2t_cli.training.dataset import Split

# Lengths are sorted within pools of this many batches: little padding, and the order stays close to random.
POOL = 100


@dataclass(frozen=True)
class Examples:
    """Texts to write from their vectors, which the split's rows refer to.

    hypothesis_ids, hypothesis_vectors: if there are hypotheses, one for each text: token ids with the end-of-text id, and
    float32 (texts, dim).
    """

    split: Split
    vectors: np.ndarray
    hypothesis_ids: TokenRows | None = None
    hypothesis_vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.split)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens to write for each example, end-of-text included: int64."""
        return self.split.lengths

    @cached_property
    def sizes(self) -> np.ndarray:
        """Tokens to read and to write for each example, without the prefix: int64."""
        if self.hypothesis_ids is None:
            return self.lengths
        return self.lengths + self.hypothesis_ids.lengths

    def tensors(self, which: np.ndarray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Hypotheses | None]:
        """The arguments of Inverter.forward for the examples at these positions."""
        assert self.split.ids is not None  # examples are tokenized
        ids, lengths = pad(self.split.ids.keep(which), pad_id, device)
        vectors = _tensor(self.vectors[self.split.rows[which]], device)
        if self.hypothesis_ids is None or self.hypothesis_vectors is None:
            return vectors, ids, lengths, None
        read = pad(self.hypothesis_ids.keep(which), pad_id, device, left=True)
        return vectors, ids, lengths, Hypotheses(_tensor(self.hypothesis_vectors[which], device), *read)

    def loss(self, inverter: Inverter, pad_id: int) -> float:
        """Nats per token over all examples."""
        total = 0.0
        with torch.inference_mode():
            for batch in logit_batches(inverter, self.lengths):
                total += inverter(*self.tensors(batch, pad_id, inverter.device)).double().sum().item()
        return total / int(self.lengths.sum())


def _tensor(rows: np.ndarray, device: torch.device) -> Tensor:
    return to_device(torch.from_numpy(np.asarray(rows, dtype=np.float32)), device)


Batch = tuple[Examples, np.ndarray]  # and positions in them


class BatchPlan:
    """Steps of `per_step` batches each. The plan follows from the seed and the step alone, so a run can resume anywhere.

    With hypotheses, an epoch goes through the last of the examples, mixed with as many of the first, so that the inverter
    does not forget.
    """

    def __init__(self, examples: list[Examples], batch_size: int, per_step: int, seed: int):
        self._examples, self._batch_size, self._per_step, self._seed = examples, batch_size, per_step, seed
        self._counts = [min(len(part), len(examples[-1])) for part in examples]
        self.steps_per_epoch = math.ceil(sum(math.ceil(count / batch_size) for count in self._counts) / per_step)
        self._epoch: tuple[int, list[Batch]] = (-1, [])

    def step(self, number: int) -> list[Batch]:
        """The batches of a step; the last step of an epoch may have fewer."""
        epoch, position = divmod(number, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(np.random.default_rng([self._seed, epoch]))
        return self._epoch[1][position * self._per_step : (position + 1) * self._per_step]

    def _batches(self, rng: np.random.Generator) -> list[Batch]:
        batches: list[Batch] = []
        for part, count in zip(self._examples, self._counts):
            chosen = np.arange(len(part)) if count == len(part) else rng.permutation(len(part))[:count]
            batches += [(part, chosen[batch]) for batch in bucketed(part.sizes[chosen], self._batch_size, rng)]
        if len(self._examples) > 1:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches


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
