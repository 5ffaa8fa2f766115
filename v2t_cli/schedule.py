"""The learning rate's schedule: how far a run is on its way, and the share of the peak rate that belongs there."""

from __future__ import annotations

import math
from dataclasses import dataclass

FINAL_LEARNING_RATE = 0.05  # of the peak


@dataclass
class Schedule:
    """A linear rise during the warm-up, then a cosine down to FINAL_LEARNING_RATE at the end of the run.

    The end is that of total_steps or, if it comes first, of max_minutes. start: a fraction of the run, and the position on
    the curve there: where a run was given another length, what was left of the curve stretches to the new end.
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
        """Where on the curve the run is, 0 to 1, given how much of it is done."""
        begun, position = self.start
        if not begun:
            return fraction
        return position + (1 - position) * (fraction - begun) / (1 - begun) if begun < 1 else position

    def share(self, fraction: float) -> float:
        """Of the peak learning rate, given how much of the run is done."""
        position = self.position(fraction)
        if position < self.warmup:
            # The first step is not free: half a step into the warm-up.
            return max(position, 0.5 / self.total_steps) / self.warmup
        down = (1 + math.cos(math.pi * (position - self.warmup) / (1 - self.warmup))) / 2
        return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * down
