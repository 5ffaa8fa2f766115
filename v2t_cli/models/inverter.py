"""The inverter: an adapter in front of a causal language model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, StaticCache

from v2t_cli.models.adapters import Adapter
from v2t_cli.models.language_model import pad


class Hypotheses(NamedTuple):
    """Texts to be corrected.

    vectors: (batch, dim) float32, of the texts themselves; ids: (batch, time) int64, padded on the left, the
    end-of-text that separates them from the better text included; lengths: (batch,) int64.
    """

    vectors: Tensor
    ids: Tensor
    lengths: Tensor


class Inverter(nn.Module):
    """Reads a sentence vector as prefix positions and writes the sentence.

    The sequence is prefix, text tokens, end-of-text. Nothing is predicted from the prefix but its last position;
    texts are padded on the right, where causal attention never looks back at it, hypotheses on the left, behind a mask.

    difference: where the inverter also corrects, the adapter of what a hypothesis' vector lacks. The prefix is then the
    target's, the hypothesis' (by the same adapter) and the difference's, followed by the hypothesis' tokens: the scheme
    of vec2text (Morris et al. 2023) in a decoder alone.
    """

    lm: Any  # a causal LM of transformers
    adapter: Adapter
    difference: Adapter | None

    def __init__(self, lm: nn.Module, adapter: Adapter, difference: Adapter | None = None):
        super().__init__()
        _fuse_activations(lm)
        self.lm = lm
        self.adapter = adapter
        self.difference = difference
        self._static_cache: StaticCache | None = None
        parameters = inspect.signature(lm.forward).parameters
        self._keeps_logits, self._takes_positions = "logits_to_keep" in parameters, "position_ids" in parameters
        self._takes_cache = "past_key_values" in parameters

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def n_positions(self) -> int | None:
        """Text tokens (the end included) that the decoder has room for behind the prefix; None for no limit."""
        limit = getattr(self.lm.config, "max_position_embeddings", None)
        return None if limit is None else limit - self.adapter.tokens

    @property
    def n_correction_positions(self) -> int | None:
        """Tokens of a hypothesis and of its correction (both ends included) that there is room for; None for no limit."""
        return None if self.n_positions is None else self.n_positions - 2 * self.adapter.tokens

    def prefix(self, vectors: Tensor, hypotheses: Hypotheses | None = None) -> tuple[Tensor, Tensor]:
        """What the decoder reads before the text it writes.

        vectors: (batch, dim) float32. Returns (batch, time, hidden) in the decoder's dtype and its mask, int64 (batch, time).
        """
        vectors = vectors.float()
        look_up = self.lm.get_input_embeddings()
        parts = [self.adapter(vectors)]
        if hypotheses is not None:
            assert self.difference is not None  # only what learned to correct is given hypotheses
            parts += [self.adapter(hypotheses.vectors), self.difference(vectors - hypotheses.vectors)]
        mask = torch.ones(len(vectors), sum(part.shape[1] for part in parts), dtype=torch.long, device=vectors.device)
        if hypotheses is not None:
            parts.append(look_up(hypotheses.ids))
            time = hypotheses.ids.shape[1]
            within = torch.arange(time, device=vectors.device) >= (time - hypotheses.lengths)[:, None]
            mask = torch.cat([mask, within.long()], dim=1)
        return torch.cat([part.to(look_up.weight.dtype) for part in parts], dim=1), mask

    def logits(self, vectors: Tensor, ids: Tensor, hypotheses: Hypotheses | None = None) -> Tensor:
        """Logits of each of `ids`, given the vector, the hypothesis if there is one, and the tokens before it.

        vectors: (batch, dim); ids: (batch, time) int64, right-padded, end-of-text included. Returns float32 (batch, time, vocabulary).
        """
        time = ids.shape[1]
        tokens = self.lm.get_input_embeddings()(ids[:, :-1])  # looked up here, so that gradients reach the embeddings
        prefix, read = self.prefix(vectors, hypotheses)
        embeds = torch.cat([prefix.to(tokens.dtype), tokens], dim=1)  # (batch, prefix + time - 1, hidden)
        more: dict[str, Any] = {"logits_to_keep": time} if self._keeps_logits else {}
        mask = None  # padding on the right needs none, and without one attention takes its fastest path
        if hypotheses is not None:
            mask = torch.cat([read, read.new_ones(len(read), time - 1)], dim=1)
            if self._takes_positions:
                more["position_ids"] = _positions(mask)
        logits = self.lm(inputs_embeds=embeds, attention_mask=mask, use_cache=False, **more).logits
        if logits.shape[1] > time:  # a slice that takes everything still costs a zeroed copy on the way back
            logits = logits[:, -time:]
        return logits.float()

    def forward(self, vectors: Tensor, ids: Tensor, lengths: Tensor, hypotheses: Hypotheses | None = None) -> Tensor:
        """Negative log-likelihood of each text, in nats, summed over its tokens and the end: float32 (batch,)."""
        logits = self.logits(vectors, ids, hypotheses)
        padding = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        labels = ids.masked_fill(padding, -100)
        # Flat: a softmax over a dimension that is not the last one is three times slower on a CPU.
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        return losses.view(labels.shape).sum(dim=1)

    def new_cache(self) -> DynamicCache | None:
        """An empty cache of keys and values, whose rows can be selected; None where the decoder has no such thing."""
        if not self._takes_cache:
            return None
        cache = DynamicCache(config=self.lm.config)
        return cache if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers) else None

    def static_cache(self, rows: int, length: int) -> StaticCache | None:
        """An empty cache of fixed shape with room for so many rows and positions, or for more: the last one, where it is large enough.

        None where the decoder has no such thing.
        """
        cache = self.new_cache()
        if cache is None or any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        layer: Any = None if self._static_cache is None else self._static_cache.layers[0]
        if layer is None or not layer.is_initialized or layer.batch_size < rows or layer.max_cache_len < length:
            self._static_cache = StaticCache(config=self.lm.config, max_cache_len=length)
        assert self._static_cache is not None
        self._static_cache.reset()
        return self._static_cache

    def drop_static_cache(self) -> None:
        """Free its memory."""
        self._static_cache = None

    @cached_property
    def compiled_next_logits(self) -> Callable[..., Tensor]:
        """`next_logits` as CUDA graphs, which repeat a step without launching its kernels one by one: shapes must stay the same."""
        return torch.compile(self.next_logits, mode="reduce-overhead", dynamic=False) if self.device.type == "cuda" else self.next_logits

    def next_logits(self, embeds: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        """Logits of the token behind each row: float32 (batch, vocabulary).

        embeds: (batch, time, hidden), what the cache does not hold yet, and is held by it from now on; mask: int64, of all that
        was read, (batch, all time); None where nothing is padding.
        """
        more: dict[str, Any] = {"logits_to_keep": 1} if self._keeps_logits else {}
        if cache is not None:
            more["past_key_values"] = cache
        if mask is not None and self._takes_positions:
            more["position_ids"] = _positions(mask)[:, -embeds.shape[1] :]
        return self.lm(inputs_embeds=embeds, attention_mask=mask, use_cache=cache is not None, **more).logits[:, -1].float()


def _fuse_activations(lm: nn.Module) -> None:
    """GPT-2's activation in one kernel in the place of eight, the same but for rounding."""
    for module in list(lm.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def _positions(mask: Tensor) -> Tensor:
    """The position of each token where padding takes none: int64, as the mask (batch, time)."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


# Logits of a batch, as numbers; cross-entropy holds about three times as much for a moment.
MAX_LOGITS = 2**25


def score(inverter: Inverter, vectors: Tensor, rows: list[list[int]], owners: np.ndarray, pad_id: int) -> np.ndarray:
    """Log-probability of each token row given its vector, in nats, summed over the row: float64 (len(rows),).

    vectors: (n, dim) float32; owners: for each row the vector it belongs to.
    """
    out = np.empty(len(rows))
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    with torch.inference_mode():
        for batch in logit_batches(inverter, lengths):
            ids, times = pad([rows[i] for i in batch], pad_id, inverter.device)
            target = vectors[torch.from_numpy(owners[batch]).to(vectors.device)].to(inverter.device)
            out[batch] = -inverter(target, ids, times).double().cpu().numpy()
    return out


def logit_batches(inverter: Inverter, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Positions by length, in batches whose logits are at most MAX_LOGITS numbers, padding included; a longer text goes alone."""
    tokens = MAX_LOGITS // inverter.lm.get_input_embeddings().num_embeddings
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= tokens:
            stop += 1
        yield order[start:stop]
        start = stop
