"""The inverter: an adapter in front of a causal language model, and the log-likelihood that it gives to texts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from v2t_cli.models.adapters import Adapter
from v2t_cli.models.language_model import pad

CACHE_NAMES = "cache", "past_key_values"  # a decoder's argument for its cache: since transformers 5.24, and before


class Inverter(nn.Module):
    """Reads a sentence vector as prefix positions and writes the sentence.

    The sequence is prefix, text tokens, end-of-text. Only the last prefix position predicts a token. Texts are padded on the
    right, where causal attention never sees the padding, so there is no mask.
    """

    lm: Any  # a causal LM of transformers
    adapter: Adapter

    def __init__(self, lm: nn.Module, adapter: Adapter):
        super().__init__()
        _fuse_activations(lm)
        self.lm = lm
        self.adapter = adapter
        parameters = inspect.signature(lm.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self._cache_name = next((name for name in CACHE_NAMES if name in parameters), "")

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def n_positions(self) -> int | None:
        """Text tokens, end-of-text included, that fit after the prefix; None for no limit."""
        limit = getattr(self.lm.config, "max_position_embeddings", None)
        return None if limit is None else limit - self.adapter.tokens

    def prefix(self, vectors: Tensor) -> Tensor:
        """What the decoder reads before the text: (batch, dim) float32 -> (batch, adapter.tokens, hidden) in the decoder's dtype."""
        return self.adapter(vectors.float()).to(self.lm.get_input_embeddings().weight.dtype)

    def logits(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """Logits for each of `ids`, given the vector and the tokens before.

        vectors: (batch, dim); ids: (batch, time) int64, right-padded, end-of-text included. Returns float32 (batch, time, vocabulary).
        """
        time = ids.shape[1]
        tokens = self.lm.get_input_embeddings()(ids[:, :-1])  # here, so that gradients reach the embeddings
        embeds = torch.cat([self.prefix(vectors).to(tokens.dtype), tokens], dim=1)  # (batch, prefix + time - 1, hidden)
        more = {"logits_to_keep": time} if self._keeps_logits else {}
        logits = self.lm(inputs_embeds=embeds, use_cache=False, **more).logits
        if logits.shape[1] > time:  # even a slice of everything would cost a zeroed copy in the backward pass
            logits = logits[:, -time:]
        return logits.float()

    def forward(self, vectors: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Negative log-likelihood of each text in nats, summed over its tokens, end-of-text included: float32 (batch,)."""
        logits = self.logits(vectors, ids)
        padding = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        labels = ids.masked_fill(padding, -100)
        # Flat: on a CPU, a softmax over any dimension but the last is three times slower.
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        return losses.view(labels.shape).sum(dim=1)

    def new_cache(self) -> DynamicCache | None:
        """An empty key-value cache whose rows can be selected; None if the decoder has no such cache."""
        if not self._cache_name or getattr(self.lm, "_is_stateful", False):  # that of a recurrent decoder is a state
            return None
        cache = DynamicCache(config=self.lm.config)
        return cache if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers) else None

    def next_logits(self, embeds: Tensor, cache: Cache | None) -> Tensor:
        """Logits for the next token of each row: float32 (batch, vocabulary).

        embeds: (batch, time, hidden), what the cache does not hold yet; it is added to the cache.
        """
        more: dict[str, Any] = {"logits_to_keep": 1} if self._keeps_logits else {}
        if cache is not None:
            more[self._cache_name] = cache
        return self.lm(inputs_embeds=embeds, use_cache=cache is not None, **more).logits[:, -1].float()


def _fuse_activations(lm: nn.Module) -> None:
    """Compute GPT-2's activation in one kernel instead of eight; the result differs only by rounding."""
    for module in list(lm.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


# How many logits a batch may have; cross-entropy briefly holds about three times as many.
MAX_LOGITS = 2**25


class TextBatch(NamedTuple):
    """Texts that the decoder reads together.

    which: their places among the rows they come from; vectors: (batch, dim); ids: (batch, time) int64, right-padded; lengths: (batch,).
    """

    which: np.ndarray
    vectors: Tensor
    ids: Tensor
    lengths: Tensor


def text_batches(inverter: Inverter, vectors: Tensor, rows: list[list[int]], owners: np.ndarray, pad_id: int) -> Iterator[TextBatch]:
    """The rows of tokens on the decoder's device, in batches as `logit_batches` makes them, without those that do not fit the decoder.

    vectors: (n, dim) float32; owners: for each row, which vector it belongs to.
    """
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    fits = np.flatnonzero(lengths <= (inverter.n_positions or np.inf))
    for batch in logit_batches(inverter, lengths[fits]):
        which = fits[batch]
        of_rows = vectors[torch.from_numpy(owners[which]).to(vectors.device)].to(inverter.device)
        yield TextBatch(which, of_rows, *pad([rows[i] for i in which], pad_id, inverter.device))


def log_likelihood(inverter: Inverter, vectors: Tensor, rows: list[list[int]], owners: np.ndarray, pad_id: int) -> np.ndarray:
    """Log-probability of each row of tokens given its vector, in nats, summed over the row: float64 (len(rows),).

    It is -inf for a row that does not fit the decoder. Arguments: as for `text_batches`.
    """
    out = np.full(len(rows), -np.inf)
    with torch.inference_mode():
        for batch in text_batches(inverter, vectors, rows, owners, pad_id):
            out[batch.which] = -inverter(batch.vectors, batch.ids, batch.lengths).double().cpu().numpy()
    return out


def logit_batches(inverter: Inverter, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Positions in `lengths`, shortest first, in batches of at most MAX_LOGITS logits, padding included; a longer text is alone."""
    tokens = MAX_LOGITS // inverter.lm.get_input_embeddings().num_embeddings
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= tokens:
            stop += 1
        yield order[start:stop]
        start = stop
