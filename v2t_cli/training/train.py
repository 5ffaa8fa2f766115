"""Training: from texts and a configuration to a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

from v2t_cli.core.config import Config
from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError
from v2t_cli.io.atomic import obstacle
from v2t_cli.models.checkpoint import UNFINISHED
from v2t_cli.models.metadata import LOG, RESUME, TRACKED, is_checkpoint
from v2t_cli.training import state
from v2t_cli.training.align import align
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.history import EVENTS, History
from v2t_cli.training.prepare import prepare
from v2t_cli.training.trainer import TrainResult


def train(config: Config, resume: bool = False, overwrite: bool = False, callbacks: Callbacks | None = None) -> TrainResult:
    """Train, or align, as configured and leave a complete checkpoint in config.output.

    Raises RequestError for a wrong request, V2TError if training itself fails.
    """
    callbacks, output = callbacks or Callbacks(), Path(config.output)
    for file in filter(None, (*config.data.texts, config.data.vectors)):
        if Path(file).resolve().parent == output.resolve():
            raise RequestError(f"{file}: lies in the output folder, so the checkpoint might replace it; copy it elsewhere")
    begun = check_output(output, resume, overwrite)
    if begun and config.adapter.align:
        raise RequestError(f"{output}: holds a training, which an alignment does not continue; --overwrite replaces it")
    with state.locked(output):
        if config.adapter.align:
            align(config, callbacks.track)
            return TrainResult(output, finished=True, scores=None)
        trainer = prepare(config, callbacks, begun)
        try:
            with callbacks.stoppable() as should_stop:
                return trainer.train(should_stop)
        finally:
            for tracker in trainer.accelerator.trackers:  # not end_training, which would also end the processes' group
                tracker.finish()


def check_output(output: Path, resume: bool, overwrite: bool) -> bool:
    """Whether there is a run to resume, if that is wanted. Raises RequestError for a folder that would be damaged."""
    if resume and overwrite:
        raise RequestError("--resume and --overwrite exclude each other")
    if why := obstacle(output):
        raise RequestError(f"{output}: cannot be created: {why}")
    begun = state.has_state(output)
    if resume and begun:
        return True
    if not output.is_dir() or all(_is_left_over(path) for path in output.iterdir()):
        if resume:  # one command can start a run and resume it
            log.info(f"{output}: nothing saved there yet; starting from the beginning")
        return False
    if resume:
        raise RequestError(f"{output}: nothing to resume; start without --resume")
    if not (is_checkpoint(output) or begun):
        raise RequestError(f"{output}: holds something other than a v2t checkpoint; choose another --output")
    if not overwrite:
        raise RequestError(f"{output}: already holds a run; --resume continues it, --overwrite replaces it")
    return False


def _is_left_over(path: Path) -> bool:
    """Whether a run that ended before its first save left this behind."""
    if path.name == LOG:
        return History(path.parent).is_ours()
    if path.name == TRACKED:
        return all(EVENTS in inner.name for inner in path.rglob("*") if not inner.is_dir())
    return path.name.startswith(UNFINISHED) or path.name == RESUME
