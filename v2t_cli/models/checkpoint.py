"""The checkpoint folder: one save, one load.

A folder that any Hugging Face tool opens as a causal LM, plus adapter.safetensors, held_out.txt, v2t.json and a card.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.io.atomic import move_in, open_to_others, settle
from v2t_cli.io.texts import read_lines
from v2t_cli.models.adapters import ADAPTERS, Adapter
from v2t_cli.models.encoder import Encoder, open_encoder
from v2t_cli.models.hub import CODE_REFUSED, asks_for_code
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.metadata import INFO, CheckpointInfo, model_card, read_info
from v2t_cli.training.history import PICTURE


def checkpoint_encoder(info: CheckpointInfo, named: str | None, base: EncoderConfig, device: str, needed: bool = False) -> Encoder | None:
    """The encoder that belongs to a checkpoint, checked by the probe vector.

    named: one that the user insists on; base: the settings that the checkpoint leaves open. Without a name, and unless
    it is needed, an encoder that cannot be had gives None and a note: texts are then chosen by log-probability alone.

    Raises RequestError for an encoder that is not the checkpoint's, naming both.
    """
    own = info.encoder
    if named is None and own is None:
        if needed:
            raise RequestError("the checkpoint was trained on vectors from elsewhere and knows no encoder; name one with --encoder")
        log.info("the checkpoint knows no encoder: no cosine, no re-ranking (--encoder names one)")
        return None
    config = own.config(base) if own else base
    if named is not None:
        config = config.model_copy(update={"model": named, "revision": None})
    try:
        encoder = open_encoder(config, device)
    except RequestError as error:
        if named is not None or needed:
            raise
        log.warning(f"no cosine and no re-ranking, the texts are chosen by log-probability: {error}")
        return None
    if own:
        own.check(encoder.identity, "the checkpoint")
    elif encoder.identity.dim != info.dim:
        raise RequestError(f"encoder '{named}' makes vectors of {encoder.identity.dim} numbers, the checkpoint reads {info.dim}")
    return encoder


ADAPTER, HELD_OUT, CARD = "adapter.safetensors", "held_out.txt", "README.md"


LM = "lm."  # before the names of the decoder's weights in the inverter


DIFFERENCE = "difference."  # before the names of that adapter's weights


UNFINISHED = ".new-"


@dataclass
class Checkpoint:
    """A trained inverter with what is needed to use it."""

    folder: Path
    inverter: Inverter
    tokenizer: Any
    info: CheckpointInfo

    def held_out(self) -> list[str]:
        """The texts that were kept from training, at most 2,000 of them."""
        return list(read_lines(str(self.folder / HELD_OUT)))


def save_checkpoint(
    folder: Path,
    inverter: Inverter,
    tokenizer: Any,
    info: CheckpointInfo,
    held_out: list[str],
    dtype: torch.dtype = torch.float32,
    weights: dict[str, torch.Tensor] | None = None,
    picture: bytes | None = None,
) -> None:
    """Write the checkpoint beside its place and move its files in, all or none; an older one there is replaced.

    dtype: of the decoder's weights as stored; the adapter, a small part, keeps float32. weights: of the inverter, where it
    does not hold them itself, being sharded over processes. picture: of the losses, for the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder)
    for leftover in folder.glob(f"{UNFINISHED}*"):  # of a save that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=UNFINISHED))
    try:
        state = weights or inverter.state_dict()
        of_adapters = {name: tensor for name, tensor in state.items() if not name.startswith(LM)}
        _save_lm(inverter.lm, {name.removeprefix(LM): state[name] for name in state.keys() - of_adapters.keys()}, new, dtype)
        tokenizer.save_pretrained(new)
        save_file({name.removeprefix("adapter."): part.contiguous() for name, part in of_adapters.items()}, new / ADAPTER, {"format": "pt"})
        (new / HELD_OUT).write_text("".join(text + "\n" for text in held_out), encoding="utf-8")
        if picture is not None:
            (new / PICTURE).write_bytes(picture)
        pictured = picture is not None or (folder / PICTURE).exists()
        (new / CARD).write_text(model_card(info, PICTURE if pictured else None), encoding="utf-8")
        (new / INFO).write_text(info.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for path in new.iterdir():
            open_to_others(path)
        shards = {path.name for path in folder.glob("model*.safetensors*")}  # perhaps of an older, larger model
        move_in(new, folder, gone=shards - {path.name for path in new.iterdir()})
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _save_lm(lm: Any, weights: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype) -> None:
    # On the CPU: the training device may have no room for a second set of weights.
    with torch.device("meta"):
        stored = type(lm)(lm.config)
    stored.load_state_dict({name: weight.detach().to("cpu", dtype) for name, weight in weights.items()}, assign=True)
    stored.tie_weights()
    stored.generation_config = lm.generation_config
    stored.save_pretrained(folder)


def load_checkpoint(folder: str | Path, device: torch.device, precision: str = "auto", trust_remote_code: bool = False) -> Checkpoint:
    """Open a checkpoint for decoding, on `device`, in evaluation mode.

    precision: of the decoder, the name of a torch dtype. auto: float32 on the CPU, which is slow or wrong in anything
    less; elsewhere the stored type, but on CUDA bfloat16 (float16 where the GPU has none) in the place of float32.

    Raises RequestError, naming the file, where something is missing, truncated or foreign, or where the decoder brings
    code of its own, unless that is trusted.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(folder)
    info = read_info(folder)
    auto = torch.float32 if device.type == "cpu" else "auto"
    dtype = auto if precision == "auto" else getattr(torch, precision)
    _check_index(folder)
    common = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        opened: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **common)
    except Exception as error:
        if asks_for_code(error):
            raise RequestError(f"{folder}: {CODE_REFUSED}") from None
        raise RequestError(f"{folder}: the decoder cannot be loaded, a file is missing or damaged: {one_line(error)}") from error
    lm, report = opened
    if report["missing_keys"] or report["mismatched_keys"]:
        raise RequestError(f"{folder / 'model.safetensors'}: does not hold the weights that config.json describes")
    if precision == "auto" and device.type == "cuda" and lm.dtype == torch.float32:
        half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        for weight in lm.parameters():  # buffers, such as the frequencies of rotary positions, need their precision
            weight.data = weight.data.to(half)
    inverter = Inverter(lm, *load_adapters(folder, info, lm.get_input_embeddings().embedding_dim))
    return Checkpoint(folder, inverter.to(device).eval(), tokenizer, info)


def _check_index(folder: Path) -> None:
    """Raise RequestError where the index of the shards leads out of the folder."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        outside = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RequestError(f"{path}: damaged: {one_line(error)}") from None
    if outside:
        raise RequestError(f"{path}: names '{outside[0]}', which is no file beside it; the checkpoint is not to be trusted")


def load_adapters(folder: Path, info: CheckpointInfo, hidden: int) -> tuple[Adapter, Adapter | None]:
    """The adapters of a checkpoint, of vectors and, where it corrects, of differences, for a decoder of the given hidden size.

    Raises RequestError, naming the file.
    """
    path = folder / ADAPTER
    if info.adapter.kind not in ADAPTERS:
        raise RequestError(f"{folder / INFO}: adapter kind '{info.adapter.kind}' is unknown; this v2t has {', '.join(ADAPTERS)}")
    kind = ADAPTERS[info.adapter.kind]
    adapter = kind(info.dim, hidden, info.adapter.tokens)
    difference = kind(info.dim, hidden, info.adapter.tokens) if info.correction else None
    try:
        state = load_file(path)
        of_difference = {name.removeprefix(DIFFERENCE): state.pop(name) for name in list(state) if name.startswith(DIFFERENCE)}
        adapter.load_state_dict(state)
        if difference is not None:
            difference.load_state_dict(of_difference)
    except FileNotFoundError:
        raise RequestError(f"{path}: missing; the checkpoint is incomplete") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise RequestError(f"{path}: damaged, or of another checkpoint: {one_line(error)}") from None
    return adapter, difference
