"""Preparing a training: processes, data, models, optimizer, and the state to resume from."""

from __future__ import annotations

import gc
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch.distributed.fsdp import register_fsdp_forward_method

from v2t_cli.core.config import Config
from v2t_cli.core.console import log
from v2t_cli.core.device import pick_device
from v2t_cli.core.errors import RequestError
from v2t_cli.io.signature import EncoderIdentity, Signature, flat
from v2t_cli.models.adapters import ADAPTERS, Adapter
from v2t_cli.models.checkpoint import load_adapters
from v2t_cli.models.encoder import open_encoder
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.language_model import load_lm, scratch_lm, set_dropout
from v2t_cli.models.metadata import TRACKED, is_checkpoint, read_info
from v2t_cli.training import correction, state
from v2t_cli.training.batches import Examples
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.dataset import Corpus, corpus_vectors, has_encoder, read_corpus, split_held_out, statistics
from v2t_cli.training.history import History
from v2t_cli.training.trainer import Models, Stage, Trainer, TrainingData

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
# Standard deviation of the prefix before a decoder from scratch, whose token embeddings start at 0.02. A prefix as small as
# that is lost in what the first block adds to it, and one of 0.2 hides what the block adds.
UNTRAINED_SCALE = 0.05


def prepare(stage: Stage, callbacks: Callbacks, resume: bool) -> Trainer:
    """Make a stage ready to train, at its beginning or where it stopped. Raises RequestError."""
    config = stage.config
    set_seed(config.seed)
    accelerator = open_accelerator(config)
    corpus = read_corpus(config.data, config.seed)
    # Opened before anything is embedded, so that a wrong name is reported at once.
    encoder = open_encoder(config.encoder, str(accelerator.device)) if has_encoder(config) else None
    identity = encoder.identity if encoder else None
    progress = _open_progress(stage, _signature(stage.request, corpus, identity, accelerator.num_processes), resume)
    lm, tokenizer = _open_decoder(config, corpus)
    vectors = corpus_vectors(config.data, corpus, encoder, callbacks.track)
    inverter = Inverter(lm, _adapter(config, corpus, vectors, identity, lm, continues=stage.base is None))
    data = _data(stage, corpus, vectors, identity, inverter, tokenizer)
    if stage.request.train.correction:
        correction.check_room(inverter)
    if stage.base is not None:
        if _may_know_held_out(config, stage.base, corpus):
            log.warning("the inverter may have been trained on the texts set aside for correction: its mistakes there are not typical")
        teacher = correction.Teacher(config, accelerator, inverter, tokenizer, encoder, callbacks.track)
        data, inverter.difference = teacher.add_hypotheses(data, stage.base, made=resume)
        del teacher
    del encoder  # training needs its memory
    gc.collect()
    trainer = Trainer(stage, accelerator, data, _wrapped(config, accelerator, inverter, tokenizer), progress, callbacks)
    _log_start(trainer)
    _restore(trainer, resume)
    if config.train.trackers:
        accelerator.init_trackers(TRACKED, {name: str(value) for name, value in flat(config.model_dump()).items()})
    accelerator.wait_for_everyone()
    return trainer


def open_accelerator(config: Config) -> Accelerator:
    """accelerate, with device, precision and processes of a training. Raises RequestError for what is not possible here."""
    device = pick_device(config.device)
    precision = config.train.precision
    if precision == "auto":
        precision = "no"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type != "cuda":
        raise RequestError(f"train.precision fp16 needs CUDA, but this run is on '{device.type}'; use auto")
    if "WORLD_SIZE" not in os.environ:
        # accelerate keeps the device and precision of a process's first run; this one may have others.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    # A batch without hypotheses leaves the adapter of differences without gradients.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if config.train.correction else []
    trackers, arguments = config.train.trackers, {}
    if trackers:
        if missing := set(trackers) - set(map(str, get_available_trackers())):
            raise RequestError(f"train.trackers: {', '.join(sorted(missing))} is not installed; pip install {' '.join(sorted(missing))}")
        arguments = {"log_with": trackers, "project_dir": config.output}
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=handlers, **arguments)
    if accelerator.distributed_type not in SUPPORTED or (accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2):
        kind = accelerator.distributed_type.value
        raise RequestError(f"accelerate's configuration asks for {kind}; v2t trains with DDP, or with FSDP and fsdp_version: 2")
    return accelerator


def _open_progress(stage: Stage, signature: Signature, resume: bool) -> state.Progress:
    """The beginning of a stage, or how far it was when it stopped, if it is the same one."""
    if not resume:
        return state.Progress(stage=stage.number, **dict(signature))
    progress = state.read_progress(Path(stage.config.output))
    progress.check(signature, stage.config.output)
    return progress


def _signature(request: Config, corpus: Corpus, identity: EncoderIdentity | None, processes: int) -> Signature:
    """What must stay the same for a run to resume. Of an encoder: what its probe vector does not tell."""
    digest = None
    if identity is None:  # the vectors come from elsewhere
        parts = statistics(corpus_vectors(request.data, corpus, None), corpus.train.rows)
        digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:12]
    decoder, settings = request.decoder, request.train
    values = {
        "data.min_chars": request.data.min_chars,
        "data.max_chars": request.data.max_chars,
        "texts": corpus.sha256[:12],
        "held_out": request.data.held_out,
        "seed": request.seed,
        "vectors": digest,
        "encoder": identity.model_dump(include={"prompt", "normalize"}) if identity else None,
        "decoder": decoder.scratch.model_dump() if decoder.scratch else [decoder.model, decoder.revision],
        "adapter": request.adapter.model_dump(),
        "batch": [settings.batch_size, settings.gradient_accumulation * processes],
        "learning rates": settings.learning_rates(decoder.scratch is not None),
        **{key: getattr(settings, key) for key in ("weight_decay", "dropout", "warmup", "max_grad_norm", "precision")},
        "correction": settings.correction.model_dump(exclude={"epochs", "max_minutes"}) if settings.correction else None,
    }
    return Signature(settings=values, encoder=identity)


def _open_decoder(config: Config, corpus: Corpus) -> tuple[Any, Any]:
    """The language model and its tokenizer."""
    scratch = config.decoder.scratch
    lm, tokenizer = scratch_lm(scratch, corpus.train.texts) if scratch else load_lm(config.decoder)
    if config.train.dropout is not None:
        set_dropout(lm, config.train.dropout)
    return lm, tokenizer


def _adapter(config: Config, corpus: Corpus, vectors: np.ndarray, identity: EncoderIdentity | None, lm: Any, continues: bool) -> Adapter:
    """A new adapter, or the adapter of the v2t checkpoint that the decoder comes from.

    continues: whether an inverter is trained further, on texts that may have been held out before.
    """
    embedding = lm.get_input_embeddings().weight
    folder = Path(config.decoder.model)
    if config.decoder.scratch is None and is_checkpoint(folder):
        info = read_info(folder)
        if info.dim != vectors.shape[1]:
            raise RequestError(f"decoder '{folder}': reads vectors of {info.dim} dimensions, but these have {vectors.shape[1]}")
        if info.encoder and identity:
            info.encoder.check(identity, f"the checkpoint {folder}")
        if (info.adapter.kind, info.adapter.tokens) == (config.adapter.kind, config.adapter.tokens):
            known = continues and _may_know_held_out(config, folder, corpus)
            warning = "; it may have been trained on texts that are now held out" if known else ""
            log.info(f"continuing with the adapter of {folder}{warning}")
            return load_adapters(folder, info, embedding.shape[1])[0]
        log.info(f"the adapter of {folder} is {info.adapter.kind} x {info.adapter.tokens}, not as configured; training a new one")
    adapter = ADAPTERS[config.adapter.kind](vectors.shape[1], embedding.shape[1], config.adapter.tokens)
    mean, scale = statistics(vectors, corpus.train.rows)
    adapter.set_statistics(torch.from_numpy(mean), torch.from_numpy(scale))
    adapter.match_scale(UNTRAINED_SCALE if config.decoder.scratch else embedding.detach().std().item())
    return adapter


def _may_know_held_out(config: Config, folder: Path, corpus: Corpus) -> bool:
    """Whether a v2t checkpoint may have been trained on texts that this run holds out."""
    data = read_info(folder).data
    fraction = config.data.held_out + (config.train.correction.texts if config.train.correction else 0)
    kept = split_held_out(len(corpus.texts), fraction, config.seed)[1]
    same = data.sha256 == corpus.sha256 and data.seed in (None, config.seed)
    return not same or data.held_out < len(kept)


def _data(
    stage: Stage, corpus: Corpus, vectors: np.ndarray, identity: EncoderIdentity | None, inverter: Inverter, tokenizer: Any
) -> TrainingData:
    """The examples, tokenized."""
    limit = inverter.n_positions
    train = corpus.train.tokenized(tokenizer, limit, "training")
    held_out = corpus.held_out.sampled(stage.config.seed).tokenized(tokenizer, limit, "held-out")
    measured = [Examples(held_out, vectors)] if len(held_out) else []
    return TrainingData(corpus, [Examples(train, vectors)], measured, identity)


def _wrapped(config: Config, accelerator: Accelerator, inverter: Inverter, tokenizer: Any) -> Models:
    """The models and the optimizer as accelerate runs them."""
    lm = inverter.lm
    if config.train.gradient_checkpointing:
        # transformers 6 renames it.
        enable = "activation_checkpointing_enable" if hasattr(lm, "activation_checkpointing_enable") else "gradient_checkpointing_enable"
        getattr(lm, enable)()
    of_adapters = [weight for name, weight in inverter.named_parameters() if not name.startswith("lm.")]
    groups = [{"name": "decoder", "params": list(lm.parameters())}, {"name": "adapter", "params": of_adapters}]
    # The trainer sets rates and decay. The fused implementation is the fastest.
    fused = accelerator.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98), fused=fused)
    wrapped, optimizer = accelerator.prepare(inverter, optimizer)
    if accelerator.distributed_type == DistributedType.FSDP:
        for method in ("prefix", "next_logits"):  # these gather the sharded weights, as `forward` does
            register_fsdp_forward_method(inverter, method)
    return Models(inverter, wrapped, tokenizer, optimizer)


def _log_start(trainer: Trainer) -> None:
    size = f"{sum(weight.numel() for weight in trainer.models.inverter.parameters()) / 1e6:.1f}M parameters"
    learned = f"{len(trainer.data.examples[-1]):,} {'hypotheses' if trainer.stage.base else 'texts'}"
    what = " the correction" if trainer.stage.base else ""
    log.info(f"training{what} on {trainer.accelerator.device}: {size}, {learned}, {trainer.length()}")


def _restore(trainer: Trainer, resume: bool) -> None:
    """Load the saved state, or remove what an earlier run left in the output folder."""
    accelerator, output, progress, base = trainer.accelerator, trainer.output, trainer.progress, trainer.stage.base
    if resume:
        state.load_state(accelerator, output)
        if accelerator.is_main_process:
            History(output).go_back(progress.stage, progress.step)
        log.info(f"resumed at step {progress.step:,}, after {progress.seconds / 60:.1f} minutes of training")
    elif accelerator.is_main_process and base != output:
        if base is None:
            state.drop_state(output)
        History(output).drop()
