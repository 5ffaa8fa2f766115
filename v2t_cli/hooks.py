"""What a training reports on its way, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from v2t_cli.console import Track, silent
from v2t_cli.info import Scores

LOG_STEPS = 20


@dataclass
class StepReport:
    """Where the run is: called back every LOG_STEPS steps."""

    step: int
    fraction: float  # of the whole run, 0 to 1
    minutes: float
    learning_rate: float  # of the decoder
    loss: float  # nats per token over the last LOG_STEPS steps, of this process's texts
    tokens_per_second: float


@dataclass
class EvalReport:
    """What the held-out texts say: called back every train.eval_steps and at the end."""

    step: int
    minutes: float
    scores: Scores
    samples: list[tuple[str, str]]  # source, generated


@dataclass
class Hooks:
    """What a caller may want to see and decide while a run goes on.

    stoppable: opened for the time of training; what it gives is asked before each step whether to stop.
    """

    step: Callable[[StepReport], None] = lambda report: None
    evaluation: Callable[[EvalReport], None] = lambda report: None
    save: Callable[[int], None] = lambda step: None
    stoppable: Callable[[], AbstractContextManager[Callable[[], bool]]] = lambda: nullcontext(lambda: False)
    track: Track = silent


@dataclass
class TrainResult:
    checkpoint: Path
    finished: bool
    scores: Scores | None
