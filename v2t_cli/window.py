"""The losses and the speed of a training since its last report."""

from __future__ import annotations

import math
import time

import torch

from v2t_cli.errors import V2TError


class Window:
    """Sums of the steps since the last report."""

    def __init__(self, section: str):
        self.tokens_per_second = 0.0
        self._section = section  # of the configuration, which rules the learning rate
        self._start_anew()

    def _start_anew(self) -> None:
        self._loss: torch.Tensor | None = None
        self._tokens, self._since = 0, time.perf_counter()

    def add(self, loss: torch.Tensor, tokens: int) -> None:
        self._loss = loss if self._loss is None else self._loss + loss
        self._tokens += tokens

    def check(self, step: int) -> float:
        """The mean loss in nats per token. Raises V2TError where it is no number, before anything of it is saved."""
        mean = 0.0 if self._loss is None else self._loss.item() / self._tokens
        if not math.isfinite(mean):
            raise V2TError(f"the loss became {mean} before step {step}; lower {self._section}.learning_rate and start again")
        return mean

    def close(self, step: int) -> float:
        """As `check`, and the next window begins."""
        mean = self.check(step)
        self.tokens_per_second = self._tokens / (time.perf_counter() - self._since)
        self._start_anew()
        return mean
