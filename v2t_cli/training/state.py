"""The state from which a run resumes: OUTPUT/.resume/, apart from the checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from v2t_cli.core.console import is_main_process, log
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.io.atomic import replacing
from v2t_cli.io.hashes import differing, file_hashes, sealed, unsealed
from v2t_cli.io.signature import Signature
from v2t_cli.models.metadata import RESUME

PROGRESS, LOCK = "progress.json", "lock"
WRITING = "writing"  # the state that is being saved


class Progress(Signature):
    """How far a run is, besides what must stay the same when it resumes.

    step: optimizer steps; seconds: of training; length: steps and minutes of the whole run; schedule_start: as in Schedule;
    files: the hashes of what was saved with it, none in version 0.1.0.
    """

    step: int = 0
    seconds: float = 0.0
    length: tuple[int, float | None] | None = None
    schedule_start: tuple[float, float] = (0.0, 0.0)
    files: dict[str, str] = {}


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other trainings out of the folder. Raises RequestError if one is there, or if the folder cannot be made.

    Of several processes only the first, which writes there, takes the lock. Folders made for it go if nothing was saved.
    """
    from filelock import FileLock, Timeout

    if not is_main_process():
        yield
        return
    folder = output.absolute() / RESUME
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise RequestError(f"{output}: another training is writing there; wait until it ends, or choose another --output") from None
    except OSError as error:
        raise RequestError(f"{output}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
        with suppress(OSError):  # one is not empty: something was saved
            for path in made:
                path.rmdir()


def has_state(output: Path) -> bool:
    """Whether there is a run that can be resumed."""
    return bool(_states(output))


def _states(output: Path) -> list[Path]:
    """The saved states, the newest last. In version 0.1.0 their names began with "run1-"."""
    return sorted((output / RESUME).glob("*step-*"))


def _latest(output: Path) -> Path:
    return (_states(output) or [output / RESUME])[-1]


@contextmanager
def saving(output: Path) -> Iterator[None]:
    """Raise V2TError if what the block writes cannot be written; safetensors and torch have their own errors for that."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's writer of files
            raise
        shutil.rmtree(output / RESUME / WRITING, ignore_errors=True)
        reason = (isinstance(error, OSError) and error.strerror) or f"is the disk full? ({one_line(error)})"
        raise V2TError(
            f"{output}: cannot save: {reason}; what was saved before is kept: make room, then run the same command with --resume"
        ) from error


def save_state(accelerator: Any, output: Path, progress: Progress, same: bool = False) -> None:
    """Save model, optimizer, scaler and random states beside the older state, then drop the older one.

    same: whether this step's state was saved already, so that only the progress, such as the seconds, is new.
    """
    final = output / RESUME / f"step-{progress.step:09d}"
    if same:
        if accelerator.is_main_process:
            _write(final, progress)
        return
    writing = output / RESUME / WRITING
    if accelerator.is_main_process:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(writing))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        progress.files = file_hashes(writing, (str(path.relative_to(writing)) for path in writing.rglob("*") if path.is_file()))
        _write(writing, progress)
        shutil.rmtree(final, ignore_errors=True)  # of an older run that this one replaces
        os.replace(writing, final)
        for old in _states(output):
            if old != final:
                shutil.rmtree(old)


def _write(folder: Path, progress: Progress) -> None:
    with replacing(folder / PROGRESS) as stream:
        stream.write(sealed(progress.model_dump(mode="json")))


def read_progress(output: Path) -> Progress:
    """How far the run there is. Raises RequestError if the state is damaged."""
    folder = _latest(output)
    try:
        return Progress.model_validate(unsealed((folder / PROGRESS).read_bytes(), required=False))
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from None


def load_state(accelerator: Any, output: Path, progress: Progress) -> None:
    """Load the saved state into the prepared model and optimizer. Pickle is read weights-only. Raises RequestError for damage."""
    folder = _latest(output)
    if name := differing(folder, progress.files):
        raise _damaged(folder / name, ValueError("it is missing, or not what was saved"))
    try:
        accelerator.load_state(str(folder))
        _check_random_state(folder, accelerator.process_index)
    except Exception as error:
        raise _damaged(folder, error) from error


def _check_random_state(folder: Path, process: int) -> None:
    """Raise an error if accelerate, which only logs it, could not restore the random state of this process."""
    import torch
    from accelerate.utils import load

    path = folder / f"random_states_{process}.pkl"
    if process and not path.exists():
        log.warning(f"there were fewer processes before, so dropout in process {process} is not what it would have been")
    elif not torch.equal(load(path)["torch_manual_seed"], torch.get_rng_state()):
        raise ValueError(f"{path.name} was not restored")


def _damaged(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path}: damaged, so the run cannot resume: {one_line(error)}; --overwrite starts over")


def drop_state(output: Path) -> None:
    for path in (output / RESUME).glob("*"):
        if path.name != LOCK:
            shutil.rmtree(path, ignore_errors=True)
