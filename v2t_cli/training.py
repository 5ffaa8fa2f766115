"""Training: from texts and a configuration to a checkpoint folder."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed

from v2t_cli import resume
from v2t_cli.adapters import ADAPTERS, Adapter
from v2t_cli.checkpoint import UNFINISHED, load_adapter
from v2t_cli.config import Config
from v2t_cli.console import log
from v2t_cli.dataset import Split, corpus_vectors, read_corpus, statistics
from v2t_cli.device import pick_device
from v2t_cli.encoder import EncoderIdentity, open_encoder
from v2t_cli.errors import RequestError
from v2t_cli.info import is_checkpoint, read_info
from v2t_cli.lm import load_lm, scratch_lm, tokenize
from v2t_cli.loop import Hooks, Run, TrainResult
from v2t_cli.model import Inverter

MAX_HELD_OUT = 2000
# Deviation of the prefix before a decoder from scratch, whose token embeddings start at 0.02: a prefix as small as that
# drowns in what the first block adds to it, and one of 0.2 drowns the first block.
UNTRAINED_SCALE = 0.05


def check_output(output: Path, resume_run: bool, overwrite: bool) -> None:
    """Refuse a folder that would be damaged. Raises RequestError."""
    if resume_run and overwrite:
        raise RequestError("--resume and --overwrite exclude each other")
    place = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise RequestError(f"{output}: cannot be made, {place} is {'not writable' if place.is_dir() else 'a file'}")
    begun = resume.has_state(output)
    if resume_run and not begun:
        raise RequestError(f"{output}: nothing to resume there; start the run without --resume")
    if resume_run or not output.is_dir() or all(path.name.startswith(UNFINISHED) for path in output.iterdir()):
        return
    if not (is_checkpoint(output) or begun):
        raise RequestError(f"{output}: holds something other than a v2t checkpoint; choose another --output")
    if not overwrite:
        raise RequestError(f"{output}: holds a run already; --resume goes on with it, --overwrite replaces it")


def train(config: Config, resume_run: bool = False, overwrite: bool = False, hooks: Hooks | None = None) -> TrainResult:
    """Train as configured and leave a complete checkpoint in config.output.

    Raises RequestError for a wrong request, V2TError when training itself fails.
    """
    hooks = hooks or Hooks()
    output = Path(config.output)
    check_output(output, resume_run, overwrite)
    run = _prepare(config, hooks)
    weights = sum(weight.numel() for weight in run.inverter.parameters())
    size = f"{weights / 1e6:.1f}M weights, {len(run.train_split):,} texts, {run.total_steps:,} steps"
    log.info(f"training on {run.accelerator.device}: {size}")
    if resume_run:
        _check_encoder(output, run)
        run.progress = resume.load_state(run.accelerator, output, run.signature)
        log.info(f"resumed at step {run.progress.step:,}, after {run.progress.seconds / 60:.1f} minutes of training")
    elif run.accelerator.is_main_process:
        resume.drop_state(output)
    run.accelerator.wait_for_everyone()
    with hooks.stoppable() as should_stop:
        return run.loop(should_stop)


def _check_encoder(output: Path, run: Run) -> None:
    before = read_info(output).encoder
    if before is not None and run.identity is not None:
        before.check(run.identity, f"the run in {output}")
    elif before is not run.identity:
        raise RequestError(f"{output}: the run there had {'an encoder' if before else 'vectors from elsewhere'}; --overwrite starts anew")


def _prepare(config: Config, hooks: Hooks) -> Run:
    set_seed(config.seed)
    accelerator = _accelerator(config)
    corpus = read_corpus(config.data, config.seed)
    scratch = config.decoder.scratch
    # Encoder and decoder are opened before anything is embedded, so that a name that cannot be had is told at once.
    encoder = _open_encoder(config, str(accelerator.device))
    lm, tokenizer = scratch_lm(scratch, corpus.train.texts) if scratch else load_lm(config.decoder)
    vectors = corpus_vectors(config.data, corpus, encoder, hooks.track)
    identity = encoder.identity if encoder else None
    del encoder  # its memory is wanted for training
    gc.collect()

    adapter = _adapter(config, vectors, corpus.train.rows, lm, identity)
    inverter = Inverter(lm, adapter)
    train_split = _tokenized(corpus.train, tokenizer, inverter.n_positions, "training")
    held_out = _tokenized(_sampled(corpus.held_out, config.seed), tokenizer, inverter.n_positions, "held-out")
    if config.train.gradient_checkpointing:
        # transformers renames it on the way to version 6
        enable = "activation_checkpointing_enable" if hasattr(lm, "activation_checkpointing_enable") else "gradient_checkpointing_enable"
        getattr(lm, enable)()

    groups = [{"name": "decoder", "params": list(lm.parameters())}, {"name": "adapter", "params": list(adapter.parameters())}]
    # The loop sets rates and decay. Fused is the fastest where there is an implementation.
    fused = accelerator.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98), fused=fused)
    model, optimizer = accelerator.prepare(inverter, optimizer)
    return Run(config, hooks, accelerator, corpus, train_split, held_out, vectors, identity, inverter, model, optimizer, tokenizer)


def _open_encoder(config: Config, device: str):
    """The encoder that the configuration names; None where the vectors come from elsewhere and none is named."""
    if config.data.vectors is not None and (config.encoder.model is None or "model" not in config.encoder.model_fields_set):
        return None
    return open_encoder(config.encoder, device)


def _accelerator(config: Config) -> Accelerator:
    device = pick_device(config.device)
    precision = config.train.precision
    if precision == "auto":
        precision = "no"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type != "cuda":
        raise RequestError(f"train.precision fp16 needs CUDA, this run is on '{device.type}'; use auto")
    if "WORLD_SIZE" not in os.environ:
        # accelerate remembers device and precision of the first run in a process; a second one may have others.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def _adapter(config: Config, vectors: np.ndarray, rows: np.ndarray, lm, identity: EncoderIdentity | None) -> Adapter:
    """A new adapter, or, where the decoder is one of our checkpoints, the one that it was trained with."""
    embedding = lm.get_input_embeddings().weight
    folder = Path(config.decoder.model)
    if config.decoder.scratch is None and is_checkpoint(folder):
        info = read_info(folder)
        if info.dim != vectors.shape[1]:
            raise RequestError(f"decoder '{folder}': reads vectors of {info.dim} numbers, the encoder makes {vectors.shape[1]}")
        if info.encoder and identity:
            info.encoder.check(identity, f"the checkpoint {folder}")
        if (info.adapter.kind, info.adapter.tokens) == (config.adapter.kind, config.adapter.tokens):
            log.info(
                f"going on with the adapter of {folder}; what is held out now may have been trained on there, unless texts and seed agree"
            )
            return load_adapter(folder, info, embedding.shape[1])
        log.info(f"the adapter of {folder} is {info.adapter.kind} x {info.adapter.tokens}: a new one is trained")
    adapter = ADAPTERS[config.adapter.kind](vectors.shape[1], embedding.shape[1], config.adapter.tokens)
    mean, scale = statistics(vectors, rows)
    adapter.set_statistics(torch.from_numpy(mean), torch.from_numpy(scale))
    adapter.match_scale(UNTRAINED_SCALE if config.decoder.scratch else embedding.detach().std().item())
    return adapter


def _sampled(held_out: Split, seed: int) -> Split:
    """At most MAX_HELD_OUT of the held-out texts are scored and kept; the others stay out of training all the same."""
    chosen = np.random.default_rng(seed).permutation(len(held_out))[:MAX_HELD_OUT]
    return held_out.keep(np.sort(chosen))


def _tokenized(split: Split, tokenizer, limit: int | None, which: str) -> Split:
    """Tokenize, and drop what is longer than the decoder's positions: past them is an error, not a shorter text."""
    split = replace(split, ids=tokenize(tokenizer, split.texts))
    if limit is None:
        return split
    fits = np.flatnonzero(split.lengths <= limit)
    if len(fits) < len(split):
        log.warning(f"{len(split) - len(fits):,} {which} texts dropped: more than the {limit} tokens the decoder has room for")
    if not len(fits) and len(split):
        raise RequestError(f"no {which} text fits the {limit} tokens that the decoder has room for")
    return split.keep(fits)
