"""The state that lets a run go on where it stopped: OUTPUT/.resume/, apart from the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.io.atomic import replacing

FOLDER = ".resume"


PROGRESS = "progress.json"


@dataclass
class TrainingProgress:
    """How far a run has come, and what must not change between its parts.

    run: 1 trains the inverter, 2 its correction; step: optimizer steps; seconds: of training; length: steps and minutes of
    the whole run; schedule_start: as in Schedule; encoder: as EncoderIdentity; None for vectors from elsewhere.
    """

    run: int = 1
    step: int = 0
    seconds: float = 0.0
    length: tuple[int, float | None] | None = None
    schedule_start: tuple[float, float] = (0.0, 0.0)
    encoder: dict[str, Any] | None = None
    signature: dict[str, Any] = field(default_factory=dict)


def latest_run(output: Path) -> int:
    """The number of the run that can be resumed there; 0 where there is none."""
    folder = _latest(output)
    return int(folder.name[len("run")]) if folder else 0


def _latest(output: Path) -> Path | None:
    states = sorted((output / FOLDER).glob("run?-step-*"))
    return states[-1] if states else None


def save_state(accelerator: Any, output: Path, progress: TrainingProgress, same: bool = False) -> None:
    """Save model, optimizer, scaler and random states beside the older state, then drop that one.

    same: the state of this step was saved already, and only the progress, such as the seconds, is new.
    """
    final = output / FOLDER / f"run{progress.run}-step-{progress.step:09d}"
    if same:
        if accelerator.is_main_process:
            with replacing(final / PROGRESS) as stream:
                stream.write(json.dumps(asdict(progress)).encode())
        return
    writing = output / FOLDER / "writing"
    if accelerator.is_main_process:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(writing))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (writing / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)  # of an older run that this one replaces
        os.replace(writing, final)
        for old in (output / FOLDER).glob("run?-step-*"):
            if old != final:
                shutil.rmtree(old)


def read_progress(output: Path) -> TrainingProgress:
    """How far the run there is. Raises RequestError where nothing was saved, or the state is damaged."""
    folder = _latest(output)
    if folder is None:
        raise RequestError(f"{output}: nothing to resume there; start the run without --resume")
    try:
        progress = TrainingProgress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
        progress.signature = dict(progress.signature)
        if progress.length:
            progress.length = (progress.length[0], progress.length[1])  # JSON knows lists alone
        progress.schedule_start = (progress.schedule_start[0], progress.schedule_start[1])
    except (OSError, ValueError, TypeError, IndexError, KeyError) as error:
        raise _damaged(folder, error) from None
    return progress


def load_state(accelerator: Any, output: Path) -> None:
    """Bring the prepared model and optimizer to the saved state. Pickle is read weights-only. Raises RequestError where it is damaged."""
    folder = _latest(output) or output / FOLDER
    try:
        accelerator.load_state(str(folder))
    except Exception as error:
        raise _damaged(folder, error) from error


def _damaged(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path}: damaged, the run cannot go on from it: {one_line(error)}")


def drop_state(output: Path) -> None:
    shutil.rmtree(output / FOLDER, ignore_errors=True)
