"""The state that lets a run go on where it stopped: OUTPUT/.resume/, apart from the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from v2t_cli.errors import RequestError, one_line

FOLDER = ".resume"
PROGRESS = "progress.json"


@dataclass
class TrainingProgress:
    """How far a run has come: optimizer steps, seconds of training, and what must not change between its parts."""

    step: int = 0
    seconds: float = 0.0
    signature: str = ""


def has_state(output: Path) -> bool:
    return _latest(output) is not None


def signature(output: Path) -> dict:
    """What the run there was; empty where there is none, or its state is damaged."""
    folder = _latest(output)
    try:
        return json.loads(json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["signature"]) if folder else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _latest(output: Path) -> Path | None:
    states = sorted((output / FOLDER).glob("step-*"))
    return states[-1] if states else None


def save_state(accelerator, output: Path, progress: TrainingProgress) -> None:
    """Save model, optimizer, scaler and random states beside the older state, then drop that one."""
    final = output / FOLDER / f"step-{progress.step:09d}"
    writing = output / FOLDER / "writing"
    if accelerator.is_main_process:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(writing))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (writing / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(writing, final)
        for old in (output / FOLDER).glob("step-*"):
            if old != final:
                shutil.rmtree(old)


def load_state(accelerator, output: Path, signature: str) -> TrainingProgress:
    """Bring the prepared model and optimizer to the saved state; return how far it was. Pickle is read weights-only.

    Raises RequestError where nothing was saved, the run was a different one, or the state is damaged.
    """
    folder = _latest(output)
    if folder is None:
        raise RequestError(f"{output}: nothing to resume there; start the run without --resume")
    try:
        progress = TrainingProgress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{folder}: damaged, the run cannot go on from it: {one_line(error)}") from None
    if progress.signature != signature:
        before, now = json.loads(progress.signature), json.loads(signature)
        changed = ", ".join(f"{key} ({before.get(key)} then, {now[key]} now)" for key in now if before.get(key) != now[key])
        raise RequestError(f"{output}: the run there is another one, changed: {changed}; --overwrite starts anew")
    try:
        accelerator.load_state(str(folder))
    except Exception as error:
        raise RequestError(f"{folder}: damaged, the run cannot go on from it: {one_line(error)}") from error
    return progress


def drop_state(output: Path) -> None:
    shutil.rmtree(output / FOLDER, ignore_errors=True)
