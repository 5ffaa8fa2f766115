"""The decoder as generation uses it: it has read something in each row, says what may come next, and reads on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from v2t_cli.model import Inverter


class Reader:
    """The decoder behind what each row has read so far: the prefix, then tokens."""

    def __init__(self, inverter: Inverter, prefix: Tensor, mask: Tensor):
        self.inverter = inverter
        self.cache = inverter.new_cache()
        self.mask = None if mask.all() else mask
        self.unread = prefix  # everything, where the decoder has no cache

    def logits(self) -> Tensor:
        """Of the token to come: float32 (rows, vocabulary)."""
        return self.inverter.next_logits(self.unread, self.mask, self.cache)

    def go_on(self, rows: Tensor, tokens: Tensor) -> None:
        """From now on row i is what rows[i] was, with tokens[i] behind it."""
        moved = len(rows) != len(self.unread) or bool((rows != torch.arange(len(rows), device=rows.device)).any())
        if self.mask is not None:
            self.mask = torch.cat([self.mask[rows], self.mask.new_ones(len(rows), 1)], dim=1)
        embeds = self.inverter.lm.get_input_embeddings()(tokens[:, None])
        if self.cache is None:
            embeds = torch.cat([self.unread[rows], embeds], dim=1)
        elif moved:
            self.cache.batch_select_indices(rows)
        self.unread = embeds


class StaticReader:
    """As Reader, in shapes that never change: every row has the places that its beam may need, and keeps them when it has ended."""

    def __init__(self, inverter: Inverter, prefix: Tensor, width: int, cache: Any):
        self.inverter, self.width = inverter, width
        self.cache = cache  # a StaticCache, whose layers have no common type
        self.places = torch.arange(0, len(prefix) * width, width, device=prefix.device)  # of the rows that are read, in the cache
        self.unread = prefix.repeat_interleave(width, dim=0)
        if self.cache.layers[0].is_initialized:  # by batches before; the last one is smaller
            missing = self.cache.layers[0].batch_size - len(self.unread)
            self.unread = torch.cat([self.unread, self.unread.new_zeros(missing, *prefix.shape[1:])])
        self.step: Callable[..., Tensor] = inverter.next_logits  # reads the prefix

    def logits(self) -> Tensor:
        """Of the token to come: float32 (rows, vocabulary)."""
        logits = self.step(self.unread, None, self.cache)[self.places]
        self.step = self.inverter.compiled_next_logits
        return logits

    def go_on(self, rows: Tensor, tokens: Tensor) -> None:
        """From now on row i is what rows[i] was, with tokens[i] behind it."""
        places = self.places[rows]
        if self.width > 1:  # a row may go on in several ways: each gets a copy
            source = torch.arange(len(self.unread), device=places.device)
            source[: len(places)] = places
            for layer in self.cache.layers:
                layer.keys.copy_(layer.keys[source])
                layer.values.copy_(layer.values[source])
            places = torch.arange(len(places), device=places.device)
        self.places = places
        embeds = self.inverter.lm.get_input_embeddings()(tokens[:, None])
        self.unread = embeds.new_zeros(len(self.unread), *embeds.shape[1:])
        self.unread[places] = embeds
