"""The checkpoint folder: one save, one load.

Any Hugging Face tool opens the folder as a causal LM. v2t adds adapter.safetensors, held_out.txt, v2t.json and a card.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from v2t_cli.core.config import Config
from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.device import has_fast_bfloat16, lowered, pick_device
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.io.atomic import move_in, set_mode, settle
from v2t_cli.io.texts import read_lines
from v2t_cli.models.adapters import ADAPTERS, Adapter
from v2t_cli.models.alignment import ALIGNMENT, Alignment, Fitted
from v2t_cli.models.encoder import Encoder, checkpoint_encoder, embed_all
from v2t_cli.models.hub import CODE_REFUSED, asks_for_code, checkpoint_folder
from v2t_cli.models.inflection import cached_forms
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.metadata import (
    ADAPTER,
    CARD,
    HELD_OUT,
    INFO,
    LEXICON,
    PICTURE,
    CheckpointInfo,
    check_files,
    hashes_of,
    model_card,
    read_info,
)
from v2t_cli.models.vector_cache import cached_vectors
from v2t_cli.models.words import Words

FORMS = 2  # that are proposed for each word of a lexicon, on average and at most
LM = "lm."  # prefix of the decoder's weights in the inverter
# Width of the embeddings from which bfloat16 pays on a CPU with instructions for it. With 64 rows at once, float32 takes 1.35 times as
# long with AMX, and 1.7 times with AVX-512 BF16; at width 128, 0.95 and 1.4 times.
WIDE = 256
UNFINISHED = ".new-"  # prefix of the folder that a save writes to


@dataclass
class Checkpoint:
    """A trained inverter with everything that decoding needs.

    alignment: if it decodes the vectors of another encoder than it was trained on. encoder: the one that it was trained on, opened and
    checked; None if the checkpoint has none, it cannot be opened, or it was not asked for. fits: how vectors of a form and a width are
    restored, as forms.py learned it; replace() makes a checkpoint that shares them.
    """

    folder: Path
    inverter: Inverter
    tokenizer: Any
    info: CheckpointInfo
    alignment: Alignment | None = None
    encoder: Encoder | None = None
    words: Words | None = None
    fits: dict[tuple[str, int], Fitted] = field(default_factory=dict, repr=False)
    _opened: tuple[int, bool] | None = field(default=None, repr=False)  # how many words `words` has, and whether it has forms

    @cached_property
    def lexicon(self) -> Lexicon:
        """Empty for checkpoints of version 0.1.0, which have none."""
        path = self.folder / LEXICON
        return Lexicon.read(path) if path.exists() else Lexicon([], [], [])

    def aligned(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (rows, info.width) as vectors of the space that the checkpoint was trained on, (rows, info.dim)."""
        return self.alignment(vectors) if self.alignment else vectors

    def open_words(self, count: int, inflect: bool = False, cache: str | None = None, track: Track = silent) -> None:
        """Have `words` ready: the `count` most frequent ones of the lexicon, with their vectors, embedded or from the cache.

        inflect: with the most probable forms that the lexicon lacks, at most FORMS times as many.
        """
        words = self.lexicon.words[:count]
        if self._opened != (opening := (len(words), inflect)):
            forms = cached_forms(self.lexicon.words, cache)[: FORMS * len(words)] if inflect and words else []
            parts = ((words, "words"), (forms, "forms of words"))
            vectors = np.concatenate([self._vectors(texts, what, cache, track) for texts, what in parts])
            self.words, self._opened = Words(self.lexicon, vectors, forms), opening

    def _vectors(self, texts: list[str], what: str, cache: str | None, track: Track) -> np.ndarray:
        assert self.encoder is not None  # whoever needs words has one
        try:
            return np.load(cached_vectors(texts, self.encoder, cache, what, track)) if texts else embed_all(self.encoder, [])
        except (V2TError, OSError) as error:  # a folder that cannot be written, or is full, should not keep anybody from decoding
            log.warning(f"{one_line(error)}; embedding {len(texts):,} {what}, which the next run will have to do again")
            return embed_all(self.encoder, texts)

    def held_out(self) -> list[str]:
        """At most 2,000 texts that were held out from training, or the texts of `alignment.held_out`.

        Raises RequestError if the file is damaged.
        """
        check_files(self.folder, self.info, HELD_OUT)
        return list(read_lines(str(self.folder / HELD_OUT)))


def save_checkpoint(
    folder: Path,
    inverter: Inverter,
    tokenizer: Any,
    info: CheckpointInfo,
    held_out: list[str],
    lexicon: Lexicon,
    dtype: torch.dtype = torch.float32,
    weights: dict[str, torch.Tensor] | None = None,
    picture: bytes | None = None,
    alignment: Alignment | None = None,
) -> None:
    """Write a checkpoint, replacing an older one in the folder. If interrupted, the folder holds the old or the new one, complete.

    dtype: in which the decoder's weights are stored; the adapter, a small part, stays float32. weights: of the inverter, if
    they are sharded over processes and it does not hold them all. picture: of the losses, a PNG for the card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder)
    for leftover in folder.glob(f"{UNFINISHED}*"):  # from a save that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=UNFINISHED))
    try:
        state = weights or inverter.state_dict()
        of_adapters = {name: tensor for name, tensor in state.items() if not name.startswith(LM)}
        _save_lm(inverter.lm, {name.removeprefix(LM): state[name] for name in state.keys() - of_adapters.keys()}, new, dtype)
        tokenizer.save_pretrained(new)
        save_file({name.removeprefix("adapter."): part.contiguous() for name, part in of_adapters.items()}, new / ADAPTER, {"format": "pt"})
        (new / HELD_OUT).write_text("".join(text + "\n" for text in held_out), encoding="utf-8")
        lexicon.write(new / LEXICON)
        if alignment is not None:
            alignment.save(new / ALIGNMENT)
        if picture is not None:
            (new / PICTURE).write_bytes(picture)
        pictured = picture is not None or (folder / PICTURE).exists()
        (new / CARD).write_text(model_card(info, pictured), encoding="utf-8")
        complete = info.model_copy(update={"files": hashes_of(new)})
        (new / INFO).write_text(complete.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for path in new.iterdir():
            set_mode(path, folder / path.name)
        before = {path.name for path in folder.glob("model*.safetensors*")} | _files_before(folder)
        move_in(new, folder, gone=before - {path.name for path in new.iterdir()})
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _files_before(folder: Path) -> set[str]:
    """The files of the checkpoint that stands there, such as those of another kind of tokenizer, which would be read with the new ones."""
    try:
        return set(read_info(folder).files)
    except RequestError:  # there is none
        return set()


def _save_lm(lm: Any, weights: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype) -> None:
    # On the CPU, because the training device may have no room for a second set of weights.
    with torch.device("meta"):
        stored = type(lm)(lm.config)
    stored.load_state_dict({name: weight.detach().to("cpu", dtype) for name, weight in weights.items()}, assign=True)
    stored.tie_weights()
    stored.generation_config = lm.generation_config
    stored.save_pretrained(folder)


EncoderUse = Literal["none", "optional", "required"]


def open_checkpoint(
    name: str | PathLike[str], config: Config, device: str = "auto", encoder: str | None = None, use: EncoderUse = "optional"
) -> Checkpoint:
    """Open a checkpoint with its encoder, as decoding needs them.

    name: a folder, or `owner/name` on the hub. config: for the sections encoder, decoder and decode. encoder: one that the
    user named, which must equal the checkpoint's own. use: whether to open the encoder; an optional one that cannot be opened
    is left out with a warning, unless the user named it.

    Raises RequestError for what is not a checkpoint, is damaged, needs untrusted code, or has another encoder.
    """
    trusted = config.decoder.trust_remote_code
    checkpoint = load_checkpoint(checkpoint_folder(name, trusted), pick_device(device), config.decode.precision, trusted)
    if encoder or use != "none":  # one that was named is always checked
        on = str(checkpoint.inverter.device)
        opened = checkpoint_encoder(checkpoint.info, encoder, config.encoder, on, required=use == "required")
        return replace(checkpoint, encoder=opened)
    return checkpoint


def load_checkpoint(folder: str | Path, device: torch.device, precision: str = "auto", trust_remote_code: bool = False) -> Checkpoint:
    """Load a checkpoint for decoding, on `device`, in evaluation mode, without its encoder.

    precision: of the decoder, the name of a torch dtype. auto: on the CPU bfloat16 if that is faster, otherwise float32; elsewhere
    the stored type, except that CUDA uses bfloat16 (or float16, if the GPU lacks it) instead of float32.

    Raises RequestError, naming the file, if something is missing, truncated or foreign, or if the decoder comes with
    untrusted code.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(folder)
    info = read_info(folder)
    check_files(folder, info)  # first: what is damaged may not even be parsed
    _check_index(folder)
    as_stored = torch.float32 if device.type == "cpu" else "auto"
    dtype = as_stored if precision == "auto" else getattr(torch, precision)
    common = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        opened: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, output_loading_info=True, **common)
    except Exception as error:
        if asks_for_code(error):
            raise RequestError(f"{folder}: {CODE_REFUSED}") from None
        raise RequestError(f"{folder}: cannot load the decoder; a file may be missing or damaged: {one_line(error)}") from error
    lm, report = opened
    if report["missing_keys"] or report["mismatched_keys"]:
        raise RequestError(f"{folder / 'model.safetensors'}: its weights do not match config.json")
    _check_weights(folder, lm)
    _check_tokenizer(folder, info, tokenizer, lm)
    if precision == "auto" and lm.dtype == torch.float32 and (half := _faster(device, lm)):
        for weight in lm.parameters():  # not buffers: the frequencies of rotary positions need their precision
            weight.data = lowered(weight, half)
    inverter = Inverter(lm, load_adapter(folder, info, lm.get_input_embeddings().embedding_dim))
    if inverter.n_positions is not None and inverter.n_positions < 1:
        raise RequestError(f"{folder / INFO}: adapter.tokens is {info.adapter.tokens}, which leaves the decoder no room for a text")
    alignment = Alignment.load(folder / ALIGNMENT, info.alignment.dim, info.dim) if info.alignment else None
    return Checkpoint(folder, inverter.to(device).eval(), tokenizer, info, alignment)


def _faster(device: torch.device, lm: Any) -> torch.dtype | None:
    """The type that the device computes faster than float32 in a decoder of this size; None if there is none."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    wide = lm.get_input_embeddings().embedding_dim >= WIDE
    return torch.bfloat16 if wide and has_fast_bfloat16(device) else None


def _check_index(folder: Path) -> None:
    """Raise RequestError if the index of the shards leads out of the folder."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        outside = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RequestError(f"{path}: damaged: {one_line(error)}") from None
    if outside:
        raise RequestError(f"{path}: points outside the folder ('{outside[0]}'); do not trust this checkpoint")


def _check_weights(folder: Path, lm: Any) -> None:
    """Raise RequestError, naming the file, for weights that are no finite floating-point numbers."""
    used = dict(lm.named_parameters())
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as stored:
            for name in used.keys() & stored.keys():
                if not (kind := stored.get_slice(name).get_dtype()).startswith(("F", "BF")):
                    raise RequestError(f"{path}: '{name}' is of type {kind}; expected floating-point numbers")
    for name, weight in used.items():
        if not weight.isfinite().all():
            raise RequestError(
                f"{folder / 'model.safetensors'}: '{name}' holds NaN or infinity (as {weight.dtype}), so nothing can be decoded"
            )


def _check_tokenizer(folder: Path, info: CheckpointInfo, tokenizer: Any, lm: Any) -> None:
    """Raise RequestError for the tokenizer of another model."""
    vocabulary = lm.get_input_embeddings().num_embeddings
    if len(tokenizer) > vocabulary:
        difference = f"it has {len(tokenizer)} tokens, and the decoder {vocabulary}"
    elif (tokenizer.eos_token, tokenizer.pad_token) != (info.decoder.eos_token, info.decoder.pad_token):
        of_training = f"'{info.decoder.eos_token}' and '{info.decoder.pad_token}'"
        difference = f"its end and pad tokens are '{tokenizer.eos_token}' and '{tokenizer.pad_token}', not {of_training}"
    else:
        return
    raise RequestError(f"{folder / 'tokenizer.json'}: damaged, or of another checkpoint: {difference}")


def load_adapter(folder: Path, info: CheckpointInfo, hidden: int) -> Adapter:
    """The adapter of a checkpoint for a decoder of this hidden size. Raises RequestError, naming the file."""
    path = folder / ADAPTER
    if info.adapter.kind not in ADAPTERS:
        raise RequestError(f"{folder / INFO}: adapter kind '{info.adapter.kind}' is unknown; this v2t has {', '.join(ADAPTERS)}")
    try:
        # A checkpoint of version 0.1.0 that learned to correct has a second adapter, which inverting does not need.
        stored = {name: part for name, part in load_file(path).items() if not name.startswith("difference.")}
        with torch.device("meta"):  # without memory, of which a damaged v2t.json may ask for any amount
            adapter = ADAPTERS[info.adapter.kind](info.dim, hidden, info.adapter.tokens)
        adapter.load_state_dict({name: part.float() for name, part in stored.items()}, assign=True)
    except FileNotFoundError:
        raise RequestError(f"{path}: missing; the checkpoint is incomplete") from None
    except RequestError as error:
        raise RequestError(f"{folder / INFO}: {error}") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise RequestError(f"{path}: damaged, or of another checkpoint: {one_line(error)}") from None
    for name, part in stored.items():
        if not part.is_floating_point() or not part.isfinite().all():
            raise RequestError(f"{path}: damaged: '{name}' holds something other than finite floating-point numbers")
    if not (adapter.scale > 0).all():
        raise RequestError(f"{path}: damaged: 'scale' holds numbers that are not positive")
    return adapter
