"""Causal language models with their tokenizers, pretrained or built from scratch, and rows of token ids."""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v2t_cli.core.config import DecoderConfig, ScratchConfig
from v2t_cli.core.console import log
from v2t_cli.core.device import to_device
from v2t_cli.core.errors import RequestError
from v2t_cli.models.hub import hub_arguments, not_loadable

CORPUS_PIECE = 10_000
# Tried, in this order, for a tokenizer that declares no end-of-text token, before one is added.
_END_TOKENS = ("</s>", "<|endoftext|>", "<eos>", "[SEP]")


def load_lm(config: DecoderConfig) -> tuple[Any, Any]:
    """Open a pretrained decoder: (AutoModelForCausalLM in float32, tokenizer with an end and a pad token).

    Raises RequestError if it cannot be loaded, takes no inputs_embeds, or is not causal.
    """
    from transformers import AutoModelForCausalLM

    tokenizer, arguments = open_tokenizer(config)
    try:
        lm = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32, **arguments)
    except Exception as error:
        raise not_loadable(config.model, "decoder", arguments, error) from error
    if "inputs_embeds" not in inspect.signature(lm.forward).parameters:
        raise RequestError(f"decoder '{config.model}': {type(lm).__name__} does not accept inputs_embeds, so it cannot be given a vector")
    if not _is_causal(lm):
        raise RequestError(f"decoder '{config.model}': {type(lm).__name__} is not causal (tokens see later tokens); expected a causal LM")
    complete_tokenizer(lm, tokenizer)
    return lm, tokenizer


def open_tokenizer(config: DecoderConfig) -> tuple[Any, dict[str, Any]]:
    """The tokenizer of a pretrained decoder, and the arguments that open the rest. Raises RequestError if it cannot be loaded."""
    from transformers import AutoTokenizer

    arguments = hub_arguments(config.model, config.revision, "decoder") | {"trust_remote_code": config.trust_remote_code}
    try:
        return AutoTokenizer.from_pretrained(config.model, **arguments), arguments
    except Exception as error:
        raise not_loadable(config.model, "decoder", arguments, error) from error


def _is_causal(lm: Any) -> bool:
    """Whether the logits of earlier tokens stay the same when the last token changes."""
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]])
    with torch.inference_mode():
        logits = lm.eval()(input_ids=ids).logits[:, :-1]
    return bool((logits[0] - logits[1]).abs().max() <= 1e-4 * logits.std())


def complete_tokenizer(lm: Any, tokenizer: Any) -> None:
    """Give the tokenizer an end and a pad token if it lacks them, and set them in the model's configurations.

    A known end token of the vocabulary is reused; otherwise one is added and the embeddings grow by a row. The model never
    sees padding, so the end token can serve for it.
    """
    if tokenizer.eos_token is None:
        known = tokenizer.get_vocab()
        end = next((token for token in _END_TOKENS if token in known), "</s>")
        tokenizer.add_special_tokens({"eos_token": end})
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if len(tokenizer) > lm.get_input_embeddings().num_embeddings:
        lm.resize_token_embeddings(len(tokenizer))
        log.info(f"the tokenizer has {len(tokenizer)} tokens: the decoder's embeddings were enlarged to match")
    _set_special_tokens(lm, tokenizer)


def _set_special_tokens(lm: Any, tokenizer: Any) -> None:
    from transformers import GenerationConfig

    # So that any tool that opens the folder stops where v2t does. The generation config is a fresh one, since the model's
    # own may hold sampling settings that would apply to every call.
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    lm.generation_config = GenerationConfig(**ids)
    for key, value in ids.items():
        setattr(lm.config, key, value)


def set_dropout(lm: Any, probability: float) -> None:
    """Set the dropout of each nn.Dropout, and of attention where models such as Llama keep it.

    Raises RequestError for a model that has neither.
    """
    from torch import nn

    places = 0
    for module in lm.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
            places += 1
        elif isinstance(getattr(module, "attention_dropout", None), (int, float)):
            module.attention_dropout = probability
            places += 1
    if not places:
        raise RequestError(f"train.dropout: {type(lm).__name__} has no dropout that can be set")


def scratch_lm(config: ScratchConfig, texts: list[str]) -> tuple[Any, Any]:
    """Build a GPT-2 of the given sizes with random weights, and train a byte-level BPE tokenizer on the texts.

    The tokenizer is lossless: any text comes back from its tokens byte for byte.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=config.vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>")
    sizes = {**config.model_dump(), "vocab_size": len(tokenizer)}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    lm = GPT2LMHeadModel(GPT2Config(**sizes, **ids, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    _set_special_tokens(lm, tokenizer)
    return lm, tokenizer


def tokenize(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of each text, followed by the end-of-text id. The name of a special token in a text stays text."""
    settings = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False, "verbose": False}
    rows = tokenizer(texts, **settings)["input_ids"] if texts else []
    return [row + [tokenizer.eos_token_id] for row in rows]


def tokenize_corpus(tokenizer: Any, texts: list[str]) -> TokenRows:
    """Like `tokenize`, for many texts, in pieces: the tokenizer's own output for a whole corpus is large."""
    pieces = (texts[start : start + CORPUS_PIECE] for start in range(0, len(texts), CORPUS_PIECE))
    return TokenRows.of(row for piece in pieces for row in tokenize(tokenizer, piece))


class TokenRows:
    """Token ids of many texts in one array; as Python lists they would take ten times the memory.

    Item i is int32 (tokens,), the ids of row i.
    """

    def __init__(self, ids: np.ndarray, ends: np.ndarray):
        """ids: int32, one row after the other; ends: int64 (rows,), where each row ends."""
        self._ids, self._ends = ids, ends

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> TokenRows:
        """Pack rows, reading them one by one."""
        ids, ends = array("i"), array("q")
        for row in rows:
            ids.extend(row)
            ends.append(len(ids))
        return cls(np.array(ids, dtype=np.int32), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, place: int) -> np.ndarray:
        end = self._ends[place]
        return self._ids[end - self.lengths[place] : end]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each row: int64 (rows,)."""
        return np.diff(self._ends, prepend=0)

    def keep(self, which: np.ndarray) -> TokenRows:
        """The rows at these positions, in that order."""
        lengths = self.lengths[which]
        ends = lengths.cumsum()
        shift = np.repeat(self._ends[which] - ends, lengths)  # from a token's new place to its old one
        return TokenRows(self._ids[np.arange(len(shift)) + shift], ends)


def pad(rows: Sequence[Sequence[int]] | TokenRows, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of tokens -> (ids (batch, time), lengths (batch,)), int64, padded on the right."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    within = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(within.shape, pad_id, dtype=np.int64)
    ids[within] = np.concatenate(list(rows))
    return to_device(torch.from_numpy(ids), device), to_device(torch.from_numpy(lengths), device)
