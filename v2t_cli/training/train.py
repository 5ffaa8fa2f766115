"""Training: from texts and a configuration to a checkpoint folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from v2t_cli.core.config import Config, DecoderConfig
from v2t_cli.core.console import log
from v2t_cli.core.device import free_memory
from v2t_cli.core.errors import RequestError
from v2t_cli.models.checkpoint import UNFINISHED
from v2t_cli.models.metadata import is_checkpoint, read_info
from v2t_cli.training import state as resume
from v2t_cli.training.callbacks import Hooks, TrainResult
from v2t_cli.training.history import EVENTS, LOG, TRACKED, History
from v2t_cli.training.prepare import names_encoder, prepare


def check_output(output: Path, resume_run: bool, overwrite: bool) -> bool:
    """Whether there is a run to go on with, if that is wanted. Refuses a folder that would be damaged: raises RequestError."""
    if resume_run and overwrite:
        raise RequestError("--resume and --overwrite exclude each other")
    place = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise RequestError(f"{output}: cannot be made, {place} is {'not writable' if place.is_dir() else 'a file'}")
    begun = resume.latest_run(output) > 0
    if resume_run and begun:
        return True
    if not output.is_dir() or all(_left_over(path) for path in output.iterdir()):
        if resume_run:  # the same command may start a run and go on with it
            log.info(f"{output}: nothing was saved there yet, the run starts from its beginning")
        return False
    if resume_run:
        raise RequestError(f"{output}: nothing to resume there; start the run without --resume")
    if not (is_checkpoint(output) or begun):
        raise RequestError(f"{output}: holds something other than a v2t checkpoint; choose another --output")
    if not overwrite:
        raise RequestError(f"{output}: holds a run already; --resume goes on with it, --overwrite replaces it")
    return False


def _left_over(path: Path) -> bool:
    """Of a run that ended before its first save."""
    if path.name == LOG:
        return History(path.parent).is_ours()
    if path.name == TRACKED:
        return all(EVENTS in inner.name for inner in path.rglob("*") if not inner.is_dir())
    return path.name.startswith(UNFINISHED) or path.name == resume.FOLDER


def train(config: Config, resume_run: bool = False, overwrite: bool = False, hooks: Hooks | None = None) -> TrainResult:
    """Train as configured and leave a complete checkpoint in config.output.

    With train.correction there are two runs in that folder, one after the other: the inverter's, from which some texts
    are kept, and its correction's, which goes on from there with hypotheses for these texts.

    Raises RequestError for a wrong request, V2TError when training itself fails.
    """
    hooks = hooks or Hooks()
    output = Path(config.output)
    resume_run = check_output(output, resume_run, overwrite)
    correction = config.train.correction
    base = _only_corrected(config)
    if base is None and not (resume_run and resume.latest_run(output) == 2):
        result = _run(config, _inverter_config(config), hooks, resume_run)
        if correction is None or not result.finished:
            return result
        resume_run = False
        free_memory()
    base = base or output
    return _run(config, _correction_config(config, base), hooks, resume_run, base)


def _run(request: Config, config: Config, hooks: Hooks, resume_run: bool, base: Path | None = None) -> TrainResult:
    run = prepare(request, config, hooks, resume_run, base)
    try:
        with hooks.stoppable() as should_stop:
            return run.loop(should_stop)
    finally:
        for tracker in run.accelerator.trackers:  # not end_training, which would end the processes' group before a second run
            tracker.finish()


def _only_corrected(config: Config) -> Path | None:
    """The checkpoint that is only taught to correct; None where an inverter is trained first. Raises RequestError for what cannot be."""
    correction, base = config.train.correction, Path(config.decoder.model)
    if correction is None:
        if not config.train.epochs:
            raise RequestError("train.epochs is 0: nothing would be trained")
        return None
    if not names_encoder(config):
        raise RequestError("train.correction embeds what the inverter writes: name the encoder of data.vectors with encoder.model")
    if config.data.held_out + correction.texts >= 1:
        share = f"{config.data.held_out + correction.texts:.0%}"
        raise RequestError(f"data.held_out and train.correction.texts leave no text to train the inverter on: {share} together")
    if config.train.epochs:
        return None
    if config.decoder.scratch is not None or not is_checkpoint(base):
        raise RequestError("train.epochs is 0: only a checkpoint of v2t, named by decoder.model, can be taught to correct alone")
    return base


def _inverter_config(config: Config) -> Config:
    """The configuration of the first run: without the texts that are kept for the second, if there is one."""
    correction = config.train.correction
    if correction is None:
        return config
    return _updated(config, train={"correction": None}, data={"held_out": config.data.held_out + correction.texts})


def _updated(config: Config, **sections: dict[str, Any]) -> Config:
    parts = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=parts)


def _correction_config(config: Config, base: Path) -> Config:
    """The configuration of the second run: from the checkpoint that the first one left, at rates of its own."""
    correction, adapter = config.train.correction, read_info(base).adapter
    assert correction is not None  # else there is no such run
    decoder_rate, adapter_rate = config.train.learning_rates(config.decoder.scratch is not None)
    settings = {
        "epochs": correction.epochs,
        "max_minutes": correction.max_minutes,
        "learning_rate": correction.learning_rate or decoder_rate,
        "adapter_learning_rate": correction.adapter_learning_rate or adapter_rate,
    }
    new = _updated(config, train=settings, adapter={"kind": adapter.kind, "tokens": adapter.tokens})
    return new.model_copy(update={"decoder": DecoderConfig(model=str(base), trust_remote_code=config.decoder.trust_remote_code)})
