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
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from v2t_cli import resume
from v2t_cli.adapters import ADAPTERS, Adapter, Learned
from v2t_cli.checkpoint import UNFINISHED, Checkpoint, load_adapters
from v2t_cli.config import Config, DecoderConfig
from v2t_cli.console import log
from v2t_cli.dataset import Corpus, Split, corpus_vectors, kept_for_correction, read_corpus, statistics
from v2t_cli.device import pick_device
from v2t_cli.encoder import EncoderIdentity, open_encoder
from v2t_cli.errors import RequestError
from v2t_cli.examples import Examples
from v2t_cli.hypotheses import read_hypotheses, write_hypotheses
from v2t_cli.info import CheckpointInfo, is_checkpoint, read_info
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

    With train.correction there are two runs in that folder, one after the other: the inverter's, from which some texts
    are kept, and its correction's, which goes on from there with hypotheses for these texts.

    Raises RequestError for a wrong request, V2TError when training itself fails.
    """
    hooks = hooks or Hooks()
    output = Path(config.output)
    check_output(output, resume_run, overwrite)
    correction = config.train.correction
    if correction is None:
        if not config.train.epochs:
            raise RequestError("train.epochs is 0: nothing would be trained")
        return _run(config, hooks, resume_run)
    base = Path(config.decoder.model if config.decoder.scratch is None else "")
    if config.train.epochs:
        held_out = config.data.held_out + correction.texts
        if held_out >= 1:
            raise RequestError(f"data.held_out and train.correction.texts leave no text to train the inverter on: {held_out:.0%} together")
        inverter = _updated(config, train={"correction": None}, data={"held_out": held_out})
        if not (resume_run and resume.signature(output).get("correction")):
            result = _run(inverter, hooks, resume_run)
            if not result.finished:
                return result
            resume_run = False
        base = output
    elif not is_checkpoint(base):
        raise RequestError("train.epochs is 0: only a checkpoint of v2t, named by decoder.model, can be taught to correct alone")
    return _run(_correction_config(config, base), hooks, resume_run, base)


def _updated(config: Config, **sections: dict) -> Config:
    parts = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=parts)


def _correction_config(config: Config, base: Path) -> Config:
    """The configuration of the second run: from the checkpoint that the first one left, at rates of its own."""
    correction, adapter = config.train.correction, read_info(base).adapter
    decoder_rate, adapter_rate = config.train.learning_rates(config.decoder.scratch is not None)
    settings = {
        "epochs": correction.epochs,
        "max_minutes": correction.max_minutes,
        "learning_rate": correction.learning_rate or decoder_rate,
        "adapter_learning_rate": correction.adapter_learning_rate or adapter_rate,
    }
    new = _updated(config, train=settings, adapter={"kind": adapter.kind, "tokens": adapter.tokens})
    return new.model_copy(update={"decoder": DecoderConfig(model=str(base))})


def _run(config: Config, hooks: Hooks, resume_run: bool, base: Path | None = None) -> TrainResult:
    output = Path(config.output)
    run = _prepare(config, hooks, resume_run, base)
    weights = sum(weight.numel() for weight in run.inverter.parameters())
    size = f"{weights / 1e6:.1f}M weights, {len(run.examples[-1]):,} {'texts' if base is None else 'hypotheses'}, {run.total_steps:,} steps"
    log.info(f"training{'' if base is None else ' the correction'} on {run.accelerator.device}: {size}")
    if resume_run:
        _check_encoder(output, run)
        run.progress = resume.load_state(run.accelerator, output, run.signature)
        log.info(f"resumed at step {run.progress.step:,}, after {run.progress.seconds / 60:.1f} minutes of training")
    elif run.accelerator.is_main_process and base is None:
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


def _prepare(config: Config, hooks: Hooks, resume_run: bool, base: Path | None) -> Run:
    set_seed(config.seed)
    accelerator = _accelerator(config)
    corpus = read_corpus(config.data, config.seed)
    scratch = config.decoder.scratch
    # Encoder and decoder are opened before anything is embedded, so that a name that cannot be had is told at once.
    encoder = _open_encoder(config, str(accelerator.device))
    if config.train.correction is not None and encoder is None:
        raise RequestError("train.correction embeds what the inverter writes: name the encoder of data.vectors with encoder.model")
    lm, tokenizer = scratch_lm(scratch, corpus.train.texts) if scratch else load_lm(config.decoder)
    vectors = corpus_vectors(config.data, corpus, encoder, hooks.track)
    identity = encoder.identity if encoder else None

    adapter = _adapter(config, vectors, corpus.train.rows, lm, identity, known=base is not None)
    inverter = Inverter(lm, adapter)
    train_split = _tokenized(corpus.train, tokenizer, inverter.n_positions, "training")
    held_out = _tokenized(_sampled(corpus.held_out, config.seed), tokenizer, inverter.n_positions, "held-out")
    examples = [Examples(train_split, vectors)]
    measured = [Examples(held_out, vectors)] if len(held_out) else []
    if base is not None:
        checkpoint = Checkpoint(base, inverter.to(accelerator.device).eval(), tokenizer, read_info(base))
        kept = _tokenized(_kept(config, corpus, checkpoint.info), tokenizer, inverter.n_positions, "kept")
        folder = Path(config.output) / resume.FOLDER
        splits = {folder / "hypotheses.jsonl": kept} | ({folder / "held_out.jsonl": held_out} if measured else {})
        if not resume_run and accelerator.is_main_process:
            if base != Path(config.output):  # where both runs share the folder, the first one's state stays until the second has its own
                resume.drop_state(Path(config.output))
            for path, split in splits.items():
                count = config.train.correction.hypotheses if split is kept else 1
                log.info(f"making {count} hypotheses for each of {len(split):,} texts")
                write_hypotheses(path, checkpoint, encoder, split, vectors, count, hooks.track)
        accelerator.wait_for_everyone()
        pairs = [read_hypotheses(path, split, vectors, tokenizer, inverter.n_correction_positions) for path, split in splits.items()]
        if not len(pairs[0]):
            raise RequestError("train.correction: no wrong hypothesis for the texts kept for it; raise train.correction.texts")
        inverter.difference = _difference(pairs[0], adapter).to(accelerator.device)
        examples, measured = examples + pairs[:1], measured + pairs[1:]
    del encoder  # its memory is wanted for training
    gc.collect()
    if config.train.gradient_checkpointing:
        # transformers renames it on the way to version 6
        enable = "activation_checkpointing_enable" if hasattr(lm, "activation_checkpointing_enable") else "gradient_checkpointing_enable"
        getattr(lm, enable)()

    of_adapters = [weight for name, weight in inverter.named_parameters() if not name.startswith("lm.")]
    groups = [{"name": "decoder", "params": list(lm.parameters())}, {"name": "adapter", "params": of_adapters}]
    # The loop sets rates and decay. Fused is the fastest where there is an implementation.
    fused = accelerator.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98), fused=fused)
    model, optimizer = accelerator.prepare(inverter, optimizer)
    info = read_info(base) if base is not None else None
    return Run(config, hooks, accelerator, corpus, examples, measured, identity, inverter, model, optimizer, tokenizer, info)


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
    # A batch without hypotheses leaves the adapter of differences without gradients.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if config.train.correction else []
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=handlers)


def _adapter(config: Config, vectors: np.ndarray, rows: np.ndarray, lm, identity: EncoderIdentity | None, known: bool) -> Adapter:
    """A new adapter, or, where the decoder is one of our checkpoints, the one that it was trained with.

    known: whether it is clear which texts that checkpoint was trained on.
    """
    embedding = lm.get_input_embeddings().weight
    folder = Path(config.decoder.model)
    if config.decoder.scratch is None and is_checkpoint(folder):
        info = read_info(folder)
        if info.dim != vectors.shape[1]:
            raise RequestError(f"decoder '{folder}': reads vectors of {info.dim} numbers, the encoder makes {vectors.shape[1]}")
        if info.encoder and identity:
            info.encoder.check(identity, f"the checkpoint {folder}")
        if (info.adapter.kind, info.adapter.tokens) == (config.adapter.kind, config.adapter.tokens):
            if not known:
                log.info(
                    f"going on with the adapter of {folder}; what is held out now may have been trained on there, "
                    "unless texts and seed agree"
                )
            return load_adapters(folder, info, embedding.shape[1])[0]
        log.info(f"the adapter of {folder} is {info.adapter.kind} x {info.adapter.tokens}: a new one is trained")
    adapter = ADAPTERS[config.adapter.kind](vectors.shape[1], embedding.shape[1], config.adapter.tokens)
    mean, scale = statistics(vectors, rows)
    adapter.set_statistics(torch.from_numpy(mean), torch.from_numpy(scale))
    adapter.match_scale(UNTRAINED_SCALE if config.decoder.scratch else embedding.detach().std().item())
    return adapter


def _kept(config: Config, corpus: Corpus, base: CheckpointInfo) -> Split:
    """The texts that the inverter was not trained on, without those that stay held out."""
    kept = kept_for_correction(corpus, config.data.held_out, config.train.correction.texts, config.seed)
    if base.data.sha256 != corpus.sha256 or base.data.held_out < len(corpus.held_out) + len(kept):
        log.warning("the inverter may know the texts kept for its correction: what it makes of them is better than what it makes of others")
    return kept


def _difference(pairs: Examples, adapter: Adapter) -> Adapter:
    """A new adapter, of the kind and scale of the other, for what the vectors of hypotheses lack."""
    difference = ADAPTERS[adapter.kind](adapter.dim, adapter.hidden, adapter.tokens)
    lacking = pairs.vectors[pairs.split.rows] - pairs.hypothesis_vectors
    difference.set_statistics(*(torch.from_numpy(part) for part in statistics(lacking, np.arange(len(lacking)))))
    if isinstance(adapter, Learned):
        difference.match_scale(adapter.gain.item())
    return difference


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
