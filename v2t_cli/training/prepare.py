"""Preparing a training: processes, data, models, optimizer, and the state to resume from."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from torch.distributed import default_pg_timeout
from torch.distributed.fsdp import register_fsdp_forward_method

from v2t_cli.core.config import Config, ScratchConfig
from v2t_cli.core.console import log
from v2t_cli.core.device import has_fast_bfloat16, pick_device
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import are_several, meet
from v2t_cli.io.signature import EncoderIdentity, Signature, flat
from v2t_cli.models.adapters import ADAPTERS, Adapter
from v2t_cli.models.checkpoint import load_adapter
from v2t_cli.models.encoder import Encoder, open_encoder
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.language_model import load_lm, open_tokenizer, scratch_lm, set_dropout
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.metadata import LEXICON, TRACKED, CheckpointInfo, check_files, is_checkpoint, read_info
from v2t_cli.training import state
from v2t_cli.training.augment import Augmenter
from v2t_cli.training.batches import Examples
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.dataset import Corpus, all_equal, check_encoder, corpus_vectors, has_encoder, read_corpus, statistics
from v2t_cli.training.history import History
from v2t_cli.training.trainer import Models, Trainer, TrainingData

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)
# Standard deviation of the prefix before a decoder from scratch, whose token embeddings start at 0.02. A prefix as small as
# that is lost in what the first block adds to it, and one of 0.2 hides what the block adds.
UNTRAINED_SCALE = 0.05


# What a user knows the settings of a signature by; of a list, its items.
_KEYS: dict[str, str | tuple[str, ...]] = {
    "texts": "the kept texts of data.texts",
    "vectors": "the vectors of data.vectors",
    "encoder": "encoder.model",
    "decoder": ("decoder.model", "decoder.revision"),
    "batch": ("train.batch_size", "train.gradient_accumulation x processes"),
    "learning rates": ("train.learning_rate", "train.adapter_learning_rate"),
    **{key: f"data.{key}" for key in ("held_out", "augment", "join")},
    **{key: f"train.{key}" for key in ("optimizer", "weight_decay", "dropout", "warmup", "max_grad_norm", "precision")},
    **{f"decoder.{key}": f"decoder.scratch.{key}" for key in ScratchConfig.model_fields},
}


def prepare(config: Config, callbacks: Callbacks, resume: bool) -> Trainer:
    """Make a run ready to train, at its beginning or where it stopped. Raises RequestError."""
    set_seed(config.seed)
    if config.decoder.scratch is None and "model" not in config.decoder.model_fields_set:
        log.info(
            f"decoder: {config.decoder.model}, the default, a Russian GPT of 760M parameters; --set decoder.model=NAME chooses "
            "another, --set decoder.scratch={} trains a small one from scratch, in the language of your texts"
        )
    accelerator = open_accelerator(config)
    corpus = read_corpus(config.data, config.seed, callbacks.track)
    # Opened before anything is embedded, so that a wrong name is reported at once.
    encoder = _open_encoder(config, str(accelerator.device)) if has_encoder(config) else None
    if (keys := _augmenting_keys(config)) and encoder is None:
        raise RequestError(
            f"new texts ({', '.join(keys)}) are embedded with the encoder of data.vectors: name it as encoder.model, or with --encoder"
        )
    scale = 1.0  # of the vectors, by those of the encoder
    if config.data.vectors and encoder is not None:
        scale = check_encoder(config.data.vectors, corpus_vectors(config.data, corpus, encoder), corpus, encoder)
    identity = encoder.identity if encoder else None
    progress = _open_progress(config, _signature(config, corpus, identity, accelerator.num_processes), resume)
    lm, tokenizer = _open_decoder(config, corpus)
    vectors = corpus_vectors(config.data, corpus, encoder, callbacks.track)
    if all_equal(vectors, corpus.train.rows):
        log.warning(f"all {len(corpus.train):,} training vectors are equal, so no text can be told from another; check how they were made")
    inverter = Inverter(lm, _adapter(config, corpus, vectors, identity, lm))
    data = _data(config, corpus, vectors, encoder, scale, inverter, tokenizer)
    if not _augmenting_keys(config):
        del encoder  # training needs its memory
        gc.collect()
    trainer = Trainer(config, accelerator, data, _wrapped(config, accelerator, inverter, tokenizer), progress, callbacks)
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
    if precision == "bf16" and device.type == "cpu" and not has_fast_bfloat16(device):
        log.warning("train.precision bf16: this CPU has no fast bfloat16, so steps may take many times as long; auto uses float32")
    if "WORLD_SIZE" not in os.environ:
        # accelerate keeps the device and precision of a process's first run; this one may have others.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    trackers, arguments = config.train.trackers, {}
    if trackers:
        if missing := set(trackers) - set(map(str, get_available_trackers())):
            raise RequestError(f"train.trackers: {', '.join(sorted(missing))} is not installed; pip install {' '.join(sorted(missing))}")
        arguments = {"log_with": trackers, "project_dir": config.output}
    if are_several():
        PartialState(cpu=device.type == "cpu", **meet(default_pg_timeout))
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu", **arguments)
    if accelerator.distributed_type not in SUPPORTED or (accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2):
        kind = accelerator.distributed_type.value
        raise RequestError(f"accelerate's configuration asks for {kind}; v2t trains with DDP, or with FSDP and fsdp_version: 2")
    return accelerator


def _open_encoder(config: Config, device: str) -> Encoder:
    """The encoder. If neither it nor the decoder can be opened, the error tells both."""
    try:
        return open_encoder(config.encoder, device)
    except RequestError as of_encoder:
        try:
            if config.decoder.scratch is None:
                open_tokenizer(config.decoder)
        except RequestError as of_decoder:
            raise RequestError(f"{of_encoder}; {of_decoder}") from None
        raise


def _open_progress(config: Config, signature: Signature, resume: bool) -> state.Progress:
    """The beginning of a run, or how far it was when it stopped, if it is the same one."""
    if not resume:
        return state.Progress(**dict(signature))
    progress = state.read_progress(Path(config.output))
    progress.check(signature, config.output, _KEYS)
    return progress


def _signature(config: Config, corpus: Corpus, identity: EncoderIdentity | None, processes: int) -> Signature:
    """What must stay the same for a run to resume. Of an encoder: what its probe vector does not tell."""
    decoder, settings = config.decoder, config.train
    values = {
        "data.min_chars": config.data.min_chars,
        "data.max_chars": config.data.max_chars,
        "texts": corpus.sha256[:12],
        "held_out": config.data.held_out,
        # Earlier versions did not know these.
        **{key: value for key in ("augment", "join") if (value := getattr(config.data, key))},
        **({"optimizer": settings.optimizer} if settings.optimizer != "adamw" else {}),
        "seed": config.seed,
        "vectors": corpus.vectors_sha256 and corpus.vectors_sha256[:12],
        "encoder": identity.model_dump(include={"prompt", "normalize"}) if identity else None,
        "decoder": decoder.scratch.model_dump() if decoder.scratch else [decoder.model, decoder.revision],
        "adapter": config.adapter.model_dump(),
        "batch": [settings.batch_size, settings.gradient_accumulation * processes],
        "learning rates": settings.learning_rates(decoder.scratch is not None),
        **{key: getattr(settings, key) for key in ("weight_decay", "dropout", "warmup", "max_grad_norm", "precision")},
    }
    return Signature(settings=values, encoder=identity)


def _open_decoder(config: Config, corpus: Corpus) -> tuple[Any, Any]:
    """The language model and its tokenizer."""
    scratch = config.decoder.scratch
    lm, tokenizer = scratch_lm(scratch, corpus.train.texts) if scratch else load_lm(config.decoder)
    if config.train.dropout is not None:
        set_dropout(lm, config.train.dropout)
    return lm, tokenizer


def _adapter(config: Config, corpus: Corpus, vectors: np.ndarray, identity: EncoderIdentity | None, lm: Any) -> Adapter:
    """A new adapter, or the adapter of the v2t checkpoint that the decoder comes from. Then the corpus learns the words of its lexicon."""
    embedding = lm.get_input_embeddings().weight
    folder = Path(config.decoder.model)
    if config.decoder.scratch is None and is_checkpoint(folder):
        info = read_info(folder)
        check_files(folder, info)
        if (folder / LEXICON).exists():
            corpus.known = Lexicon.read(folder / LEXICON)
        if info.alignment:
            raise RequestError(f"decoder '{folder}': is aligned to the vectors of another encoder; name the checkpoint it was made from")
        if info.dim != vectors.shape[1]:
            raise RequestError(f"decoder '{folder}': reads vectors of {info.dim} dimensions, but these have {vectors.shape[1]}")
        if info.encoder and identity:
            info.encoder.check(identity, f"the checkpoint {folder}")
        if (info.adapter.kind, info.adapter.tokens) == (config.adapter.kind, config.adapter.tokens):
            known = _may_know_held_out(info, config.seed, corpus)
            warning = "; it may have been trained on texts that are now held out" if known else ""
            log.info(f"continuing with the adapter of {folder}{warning}")
            return load_adapter(folder, info, embedding.shape[1])
        log.info(f"the adapter of {folder} is {info.adapter.kind} x {info.adapter.tokens}, not as configured; training a new one")
    adapter = ADAPTERS[config.adapter.kind](vectors.shape[1], embedding.shape[1], config.adapter.tokens)
    mean, scale = statistics(vectors, corpus.train.rows)
    adapter.set_statistics(torch.from_numpy(mean), torch.from_numpy(scale))
    adapter.match_scale(UNTRAINED_SCALE if config.decoder.scratch else embedding.detach().std().item())
    return adapter


def _augmenting_keys(config: Config) -> list[str]:
    """The settings that ask for new texts while training."""
    return [f"data.{key}" for key in ("augment", "join") if getattr(config.data, key)]


def _may_know_held_out(info: CheckpointInfo, seed: int, corpus: Corpus) -> bool:
    """Whether a v2t checkpoint may have been trained on texts that this run holds out."""
    same = info.data.sha256 == corpus.sha256 and info.data.seed in (None, seed)
    return not same or info.data.held_out < len(corpus.held_out)


def _data(
    config: Config, corpus: Corpus, vectors: np.ndarray, encoder: Encoder | None, scale: float, inverter: Inverter, tokenizer: Any
) -> TrainingData:
    """The examples, tokenized."""
    limit = inverter.n_positions
    train = corpus.train.tokenized(tokenizer, limit, "training")
    held_out = corpus.held_out.sampled(config.seed).tokenized(tokenizer, limit, "held-out")
    examples, augmenter = Examples(train, vectors), None
    if encoder is not None and _augmenting_keys(config):
        shares = {"changed_share": config.data.augment, "joined_share": config.data.join}
        augmenter = Augmenter(examples, encoder, tokenizer, corpus.lexicon, limit, scale, **shares)
    return TrainingData(corpus, examples, Examples(held_out, vectors), augmenter, encoder.identity if encoder else None)


def _wrapped(config: Config, accelerator: Accelerator, inverter: Inverter, tokenizer: Any) -> Models:
    """The models and the optimizers as accelerate runs them."""
    lm = inverter.lm
    if config.train.gradient_checkpointing:
        # transformers 6 renames it.
        enable = "activation_checkpointing_enable" if hasattr(lm, "activation_checkpointing_enable") else "gradient_checkpointing_enable"
        getattr(lm, enable)()
    if accelerator.device.type == "cpu" and getattr(lm.config, "_attn_implementation", None) == "sdpa":
        lm.set_attn_implementation("eager")  # in bf16, the backward pass of torch's fused attention takes a CPU as long as all matrices
    wrapped, *optimizers = accelerator.prepare(inverter, *_optimizers(config, accelerator, inverter))
    if accelerator.distributed_type == DistributedType.FSDP:
        for method in ("prefix", "next_logits"):  # these gather the sharded weights, as `forward` does
            register_fsdp_forward_method(inverter, method)
    return Models(inverter, wrapped, tokenizer, optimizers)


def _optimizers(config: Config, accelerator: Accelerator, inverter: Inverter) -> list[torch.optim.Optimizer]:
    """Over all weights. The trainer sets rates and decay.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) takes the decoder's inner matrices; its updates are scaled
    to the size of AdamW's, so that both have the same rate.

    Raises RequestError if Muon is asked for where it cannot run.
    """
    lm, matrices = inverter.lm, list[torch.nn.Parameter]()
    if config.train.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise RequestError(f"train.optimizer muon needs torch 2.9 or later, and this is {torch.__version__}")
        if accelerator.distributed_type == DistributedType.FSDP:
            raise RequestError("train.optimizer muon needs whole matrices, which FSDP divides; use adamw, or DDP")
        outer = {lm.get_output_embeddings(), *(module for module in lm.modules() if isinstance(module, torch.nn.Embedding))}
        inner = (module for module in lm.modules() if module not in outer)
        matrices = [weight for module in inner for weight in module.parameters(recurse=False) if weight.ndim == 2]
    taken = set(matrices)
    of_adapter = [weight for name, weight in inverter.named_parameters() if not name.startswith("lm.")]
    groups = {"decoder": [weight for weight in lm.parameters() if weight not in taken], "adapter": of_adapter}
    fused = accelerator.device.type in ("cpu", "cuda")  # the fastest implementation
    named = [{"name": name, "params": weights} for name, weights in groups.items() if weights]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(named, betas=(0.9, 0.98), fused=fused)]
    if matrices:
        optimizers.append(torch.optim.Muon([{"name": "decoder", "params": matrices}], adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _log_start(trainer: Trainer) -> None:
    size = f"{sum(weight.numel() for weight in trainer.models.inverter.parameters()) / 1e6:.1f}M parameters"
    log.info(f"training on {trainer.accelerator.device}: {size}, {len(trainer.data.examples):,} texts, {trainer.length()}")


def _restore(trainer: Trainer, resume: bool) -> None:
    """Load the saved state, or remove what an earlier run left in the output folder."""
    accelerator, output, progress = trainer.accelerator, trainer.output, trainer.progress
    if resume:
        state.load_state(accelerator, output, progress)
        if accelerator.is_main_process:
            History(output).go_back(progress.step)
        log.info(f"resumed at step {progress.step:,}, after {progress.seconds / 60:.1f} minutes of training")
    elif accelerator.is_main_process:
        state.drop_state(output)
        History(output).drop()
