"""Preparing a training run: texts, vectors, models, examples, and what is signed so that the run can be resumed."""

from __future__ import annotations

import gc
import hashlib
import os
from dataclasses import replace
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
from v2t_cli.io.signature import check_unchanged, flat
from v2t_cli.models.adapters import ADAPTERS, Adapter, Learned
from v2t_cli.models.checkpoint import Checkpoint, load_adapters
from v2t_cli.models.encoder import Encoder, EncoderIdentity, open_encoder
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.language_model import load_lm, scratch_lm, set_dropout, tokenize_corpus
from v2t_cli.models.metadata import is_checkpoint, read_info
from v2t_cli.training import state as resume
from v2t_cli.training.batches import Examples
from v2t_cli.training.callbacks import Hooks
from v2t_cli.training.correction import make_hypotheses, read_hypotheses
from v2t_cli.training.dataset import Corpus, Split, corpus_vectors, kept_for_correction, read_corpus, split_held_out, statistics
from v2t_cli.training.history import TRACKED, History
from v2t_cli.training.trainer import Run

MAX_HELD_OUT = 2000


# Deviation of the prefix before a decoder from scratch, whose token embeddings start at 0.02: a prefix as small as that
# drowns in what the first block adds to it, and one of 0.2 drowns the first block.
UNTRAINED_SCALE = 0.05


def names_encoder(config: Config) -> bool:
    """Whether there is an encoder: vectors from elsewhere have one only where it is named."""
    return config.data.vectors is None or (config.encoder.model is not None and "model" in config.encoder.model_fields_set)


def prepare(request: Config, config: Config, hooks: Hooks, resume_run: bool, base: Path | None = None) -> Run:
    """Make a run ready to train, resumed where it stopped if it is to be.

    request: what the user configured; config: what this run of it does; base: the checkpoint that this run teaches to
    correct. Raises RequestError.
    """
    set_seed(config.seed)
    accelerator = open_accelerator(config)
    output = Path(config.output)
    corpus = read_corpus(config.data, config.seed)
    scratch = config.decoder.scratch
    # Encoder and decoder are opened before anything is embedded, so that a name that cannot be had is told at once.
    encoder = open_encoder(config.encoder, str(accelerator.device)) if names_encoder(config) else None
    identity = encoder.identity if encoder else None
    given = None if identity else corpus_vectors(config.data, corpus, None)
    progress = resume.TrainingProgress(
        2 if base else 1,
        encoder=identity.model_dump() if identity else None,
        signature=_signature(request, corpus, given, identity, accelerator.num_processes),
    )
    if resume_run:
        before = resume.read_progress(output)
        _check_encoder(output, before.encoder, identity)
        check_unchanged(before.signature, progress.signature, str(output))
        progress = before
    lm, tokenizer = scratch_lm(scratch, corpus.train.texts) if scratch else load_lm(config.decoder)
    if config.train.dropout is not None:
        set_dropout(lm, config.train.dropout)
    vectors = corpus_vectors(config.data, corpus, encoder, hooks.track) if given is None else given

    known = _known_texts(base or (None if scratch else Path(config.decoder.model)), corpus, config)
    inverter = Inverter(lm, _adapter(config, vectors, corpus.train.rows, lm, identity, known and base is None))
    train_split = _tokenized(corpus.train, tokenizer, inverter.n_positions, "training")
    held_out = _tokenized(_sampled(corpus.held_out, config.seed), tokenizer, inverter.n_positions, "held-out")
    examples = [Examples(train_split, vectors)]
    measured = [Examples(held_out, vectors)] if len(held_out) else []
    if request.train.correction:
        _check_room(inverter)
    if base is not None:
        if known:
            log.warning(
                "the inverter may know the texts kept for its correction: what it makes of them is better than what it makes of others"
            )
        checkpoint = Checkpoint(base, inverter.to(accelerator.device).eval(), tokenizer, read_info(base))
        pairs, of_held_out = _hypotheses(config, accelerator, checkpoint, encoder, corpus, held_out, vectors, resume_run, hooks)
        inverter.difference = _difference(pairs, inverter.adapter).to(accelerator.device)
        examples.append(pairs)
        if len(of_held_out):
            measured += [Examples(of_held_out.split, vectors), of_held_out]
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
    if accelerator.distributed_type == DistributedType.FSDP:
        for method in ("prefix", "next_logits"):  # weights come together for these as they do for `forward`
            register_fsdp_forward_method(inverter, method)
    run = Run(
        config=config,
        hooks=hooks,
        accelerator=accelerator,
        corpus=corpus,
        examples=examples,
        held_out=measured,
        identity=identity,
        inverter=inverter,
        model=model,
        optimizer=optimizer,
        tokenizer=tokenizer,
        progress=progress,
        base=read_info(base) if base else None,
        followed=request.train.correction is not None and base is None,
    )
    weights = f"{sum(weight.numel() for weight in inverter.parameters()) / 1e6:.1f}M weights"
    of_what = f"{len(examples[-1]):,} {'hypotheses' if base else 'texts'}"
    log.info(f"training{' the correction' if base else ''} on {accelerator.device}: {weights}, {of_what}, {run.length()}")
    if resume_run:
        resume.load_state(accelerator, output)
        if accelerator.is_main_process:
            History(output).go_back(progress.run, progress.step)
        log.info(f"resumed at step {progress.step:,}, after {progress.seconds / 60:.1f} minutes of training")
    elif accelerator.is_main_process and base != output:
        if base is None:
            resume.drop_state(output)
        History(output).drop()
    if config.train.trackers:
        accelerator.init_trackers(TRACKED, {name: str(value) for name, value in flat(config.model_dump()).items()})
    accelerator.wait_for_everyone()
    return run


def _signature(
    request: Config, corpus: Corpus, vectors: np.ndarray | None, identity: EncoderIdentity | None, processes: int
) -> dict[str, Any]:
    """What must be the same for two runs to be parts of one. vectors: where they come from elsewhere, else there is an identity.

    Of an encoder, what its probe vector does not tell: scale, and prompts that hardly change it.
    """
    digest = None
    if vectors is not None:  # those of an encoder are known by its probe vector
        parts = statistics(vectors, corpus.train.rows)
        digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:12]
    decoder, settings, correction = request.decoder, request.train, request.train.correction
    return {
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
        "correction": correction.model_dump(exclude={"epochs", "max_minutes"}) if correction else None,
    }


def _check_encoder(output: Path, before: dict[str, Any] | None, identity: EncoderIdentity | None) -> None:
    if before and identity:
        EncoderIdentity.model_validate(before).check(identity, f"the run in {output}")
    elif before or identity:
        raise RequestError(f"{output}: the run there had {'an encoder' if before else 'vectors from elsewhere'}; --overwrite starts anew")


def _known_texts(folder: Path | None, corpus: Corpus, config: Config) -> bool:
    """Whether a checkpoint of ours may have been trained on texts that are kept from this run's training."""
    if folder is None or not is_checkpoint(folder):
        return False
    data = read_info(folder).data
    share = config.data.held_out + (config.train.correction.texts if config.train.correction else 0)
    kept = split_held_out(len(corpus.texts), share, config.seed)[1]
    same = data.sha256 == corpus.sha256 and data.seed in (None, config.seed)
    return not same or data.held_out < len(kept)


def _adapter(config: Config, vectors: np.ndarray, rows: np.ndarray, lm: Any, identity: EncoderIdentity | None, warn: bool) -> Adapter:
    """A new adapter, or, where the decoder is one of our checkpoints, the one that it was trained with.

    warn: whether that one may know the texts that are held out now.
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
            known = "; it may have been trained on texts that are held out now" if warn else ""
            log.info(f"going on with the adapter of {folder}{known}")
            return load_adapters(folder, info, embedding.shape[1])[0]
        log.info(f"the adapter of {folder} is {info.adapter.kind} x {info.adapter.tokens}: a new one is trained")
    adapter = ADAPTERS[config.adapter.kind](vectors.shape[1], embedding.shape[1], config.adapter.tokens)
    mean, scale = statistics(vectors, rows)
    adapter.set_statistics(torch.from_numpy(mean), torch.from_numpy(scale))
    adapter.match_scale(UNTRAINED_SCALE if config.decoder.scratch else embedding.detach().std().item())
    return adapter


def _check_room(inverter: Inverter) -> None:
    room = inverter.n_correction_positions
    if room is not None and room < 2:
        raise RequestError(
            f"train.correction: beside {3 * inverter.adapter.tokens} prefix positions the decoder has no room for a hypothesis; "
            "fewer adapter.tokens, or a decoder of more positions"
        )


def _hypotheses(
    config: Config,
    accelerator: Accelerator,
    checkpoint: Checkpoint,
    encoder: Encoder | None,
    corpus: Corpus,
    held_out: Split,
    vectors: np.ndarray,
    made: bool,
    hooks: Hooks,
) -> list[Examples]:
    """What the inverter makes of the texts kept from its training, and of the held-out ones, where it is wrong.

    made: whether an earlier part of this run wrote them down already. All processes come back with the same.
    """
    output, inverter, tokenizer = Path(config.output), checkpoint.inverter, checkpoint.tokenizer
    correction, folder = config.train.correction, output / resume.FOLDER
    assert correction is not None and encoder is not None  # _only_corrected of training asks for both
    kept = kept_for_correction(corpus, config.data.held_out, correction.texts, config.seed)
    kept = _tokenized(kept, tokenizer, inverter.n_positions, "kept")
    parts = {"hypotheses": (kept, correction.hypotheses), "held_out": (held_out, 1)}
    if not made:
        if accelerator.is_main_process:
            if checkpoint.folder != output:  # else the first run's state stays until there is another
                resume.drop_state(output)
            for path in folder.glob("h*"):  # of a run that ended before it was saved
                path.unlink()
        accelerator.wait_for_everyone()
        for name, (split, count) in parts.items():
            make_hypotheses(folder / name, checkpoint, encoder, split, vectors, count, hooks.track)
    read = [
        read_hypotheses(folder / name, split, vectors, tokenizer, inverter.n_correction_positions) for name, (split, _) in parts.items()
    ]
    if not len(read[0]):
        raise RequestError("train.correction: no wrong hypothesis to learn from; raise train.correction.texts")
    return read


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


def _tokenized(split: Split, tokenizer: Any, limit: int | None, which: str) -> Split:
    """Tokenize, and drop what is longer than the decoder's positions: past them is an error, not a shorter text."""
    split = replace(split, ids=tokenize_corpus(tokenizer, split.texts))
    if limit is None:
        return split
    fits = np.flatnonzero(split.lengths <= limit)
    if len(fits) == len(split):
        return split
    log.warning(f"{len(split) - len(fits):,} {which} texts dropped: more than the {limit} tokens the decoder has room for")
    if not len(fits):
        raise RequestError(f"no {which} text fits the {limit} tokens that the decoder has room for")
    return split.keep(fits)


SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def open_accelerator(config: Config) -> Accelerator:
    """Device, precision and processes of a training. Raises RequestError for what this machine or v2t cannot do."""
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
    trackers, arguments = config.train.trackers, {}
    if trackers:
        if missing := set(trackers) - set(map(str, get_available_trackers())):
            raise RequestError(f"train.trackers: {', '.join(sorted(missing))} is not installed; pip install {' '.join(sorted(missing))}")
        arguments = {"log_with": trackers, "project_dir": config.output}
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=handlers, **arguments)
    if accelerator.distributed_type not in SUPPORTED or (accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2):
        kind = accelerator.distributed_type.value
        raise RequestError(f"accelerate's configuration asks for {kind}; v2t trains with DDP, or with FSDP of fsdp_version: 2")
    return accelerator
