"""The learning rate's schedule: how much of a run is done, and the fraction of the peak rate that belongs there."""

from __future__ import annotations

import math
from dataclasses import dataclass

FINAL_LEARNING_RATE = 0.05  # of the peak


@dataclass(frozen=True)
class Schedule:
    """A linear rise during the warm-up, then a cosine down to FINAL_LEARNING_RATE at the end of the run.

    The run ends after total_steps or max_minutes, whichever comes first. start: a fraction of the run, and the position on
    the curve there: if a resumed run got another length, the rest of the curve stretches to the new end.
    """

    total_steps: int
    max_minutes: float | None
    warmup: float
    start: tuple[float, float] = (0.0, 0.0)

    def fraction(self, step: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1, by steps or by the clock, whichever is ahead."""
        by_clock = seconds / 60 / self.max_minutes if self.max_minutes else 0.0
        return min(1.0, max(step / self.total_steps, by_clock))

    def position(self, fraction: float) -> float:
        """The position on the curve, 0 to 1, when this fraction of the run is done."""
        begun, position = self.start
        if not begun:
            return fraction
        return position + (1 - position) * (fraction - begun) / (1 - begun) if begun < 1 else position

    def factor(self, fraction: float) -> float:
        """What to multiply the peak learning rate by when this fraction of the run is done."""
        position = self.position(fraction)
        if position < self.warmup:
            # The first step must count: half a step into the warm-up, which may be shorter than that.
            return min(1.0, max(position, 0.5 / self.total_steps) / self.warmup)
        down = (1 + math.cos(math.pi * (position - self.warmup) / (1 - self.warmup))) / 2
        return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * down
