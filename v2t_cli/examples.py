"""Training examples: a vector and the text to write, with or without a hypothesis to correct."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from v2t_cli.dataset import Split
from v2t_cli.device import to_device
from v2t_cli.model import Hypotheses, Inverter
from v2t_cli.scoring import logit_batches
from v2t_cli.tokens import TokenRows, pad


@dataclass(frozen=True)
class Examples:
    """Texts to write from their vectors, which the split's rows point at.

    hypothesis_ids, hypothesis_vectors: where there are hypotheses, one for each text: token ids with the end-of-text id,
    and float32 (texts, dim).
    """

    split: Split
    vectors: np.ndarray
    hypothesis_ids: TokenRows | None = None
    hypothesis_vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.split)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens to write for each example, the end included: int64."""
        return self.split.lengths

    @cached_property
    def sizes(self) -> np.ndarray:
        """Tokens to read and to write for each example, without the prefix: int64."""
        if self.hypothesis_ids is None:
            return self.lengths
        return self.lengths + self.hypothesis_ids.lengths

    def tensors(self, which: np.ndarray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Hypotheses | None]:
        """The arguments of Inverter.forward for the positions `which`."""
        assert self.split.ids is not None  # examples are tokenized
        ids, lengths = pad(self.split.ids.keep(which), pad_id, device)
        vectors = _tensor(self.vectors[self.split.rows[which]], device)
        if self.hypothesis_ids is None or self.hypothesis_vectors is None:
            return vectors, ids, lengths, None
        read = pad(self.hypothesis_ids.keep(which), pad_id, device, left=True)
        return vectors, ids, lengths, Hypotheses(_tensor(self.hypothesis_vectors[which], device), *read)

    def loss(self, inverter: Inverter, pad_id: int) -> float:
        """Nats a token over all examples."""
        total = 0.0
        with torch.inference_mode():
            for batch in logit_batches(inverter, self.lengths):
                total += inverter(*self.tensors(batch, pad_id, inverter.device)).double().sum().item()
        return total / int(self.lengths.sum())


def _tensor(rows: np.ndarray, device: torch.device) -> Tensor:
    return to_device(torch.from_numpy(np.asarray(rows, dtype=np.float32)), device)
