"""Generation: the texts that a decoder writes behind a prefix, the likeliest by beams, or drawn.

A loop of our own in the place of transformers' `generate`, which computes every row of a batch until the longest of its
texts has ended: here a text that has ended leaves the batch and the cache. A text that has ended keeps its place in the
beam, which is so much narrower from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from v2t_cli.core.one_line import to_line
from v2t_cli.decoding.search import Search
from v2t_cli.models.inverter import Hypotheses, Inverter


class Written(NamedTuple):
    """A text as one line, its tokens (the end-of-text included where it was reached), and their log-probability in nats."""

    text: str
    ids: list[int]
    logprob: float


_Choose = Callable[[Tensor], Tensor]  # logits (rows, vocabulary) -> the tokens to go on with, int64 (rows, choices)


@torch.inference_mode()
def generate(
    inverter: Inverter, tokenizer: Any, vectors: Tensor, search: Search, hypotheses: Hypotheses | None = None
) -> list[list[Written]]:
    """For each vector at most search.beams texts, the likeliest first; where they are drawn, search.beams as they come.

    vectors: (batch, dim) float32 on the inverter's device; hypotheses: texts to correct, one a vector.
    """
    prefix, mask = inverter.prefix(vectors, hypotheses)
    draws = search.beams if search.strategy == "sample" else 1
    if draws > 1:
        prefix, mask = prefix.repeat_interleave(draws, dim=0), mask.repeat_interleave(draws, dim=0)
    width = search.beams // draws
    choose = _draw(search) if search.strategy == "sample" else _likeliest(width)
    static = None
    if search.compile and hypotheses is None:  # these come in other numbers and lengths each time
        static = inverter.static_cache(len(prefix) * width, prefix.shape[1] + search.max_new_tokens)
    reader = StaticReader(inverter, prefix, width, static) if static else Reader(inverter, prefix, mask)
    beams = _search(reader, len(prefix), width, choose, tokenizer.eos_token_id, search.max_new_tokens)
    texts = iter(tokenizer.batch_decode([ids for beam in beams for ids, _ in beam], skip_special_tokens=True))
    rows = [[Written(to_line(next(texts)).strip(), ids, logprob) for ids, logprob in beam] for beam in beams]
    return [list(chain.from_iterable(rows[start : start + draws])) for start in range(0, len(rows), draws)]


def _likeliest(count: int) -> _Choose:
    if count == 1:
        return lambda logits: logits.argmax(dim=1, keepdim=True)
    return lambda logits: logits.topk(min(count, logits.shape[1]), dim=1).indices


def _draw(search: Search) -> _Choose:
    warpers: Any = LogitsProcessorList([TemperatureLogitsWarper(search.temperature)])
    if search.top_k:
        warpers.append(TopKLogitsWarper(search.top_k))
    if search.top_p < 1:
        warpers.append(TopPLogitsWarper(search.top_p))
    return lambda logits: warpers(None, logits.clone()).softmax(dim=-1).multinomial(1)


def _logprobs(logits: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen tokens: float32, as `chosen` (rows, choices)."""
    of_chosen = logits.gather(1, chosen)
    # By way of the first choice: cross-entropy goes through the vocabulary once, logsumexp several times.
    first = -nn.functional.cross_entropy(logits, chosen[:, 0], reduction="none")
    return first[:, None] + of_chosen - of_chosen[:, :1]


def _search(
    reader: Reader | StaticReader, count: int, width: int, choose: _Choose, end: int, limit: int
) -> list[list[tuple[list[int], float]]]:
    """For each of `count` rows its beam of at most `width` token rows and their log-probabilities, the likeliest first."""
    device = reader.unread.device
    beams: list[list[tuple[list[int], float]]] = [[] for _ in range(count)]
    left = torch.arange(count, device=device)  # the rows that are searched still, n of them
    scores = torch.full((count, width), -torch.inf, device=device)  # of each place in the beam; -inf where it is empty
    tokens = torch.empty(count, width, 0, dtype=torch.long, device=device)
    going = torch.zeros(count, width, dtype=torch.bool, device=device)  # places whose text has not ended: the reader's rows, in order
    scores[:, 0], going[:, 0] = 0, True
    for step in range(1, limit + 1):
        logits = reader.logits()
        chosen = choose(logits)
        choices = chosen.shape[1]
        logprobs = _logprobs(logits, chosen)
        following = torch.full((*going.shape, choices), end, device=device)
        following[going] = chosen
        reached = torch.full((*going.shape, choices), -torch.inf, device=device)
        reached[going] = scores[going][:, None] + logprobs
        reached[..., 0] = torch.where(going, reached[..., 0], scores)  # a text that has ended stays as it is

        scores, best = reached.flatten(1).topk(width, dim=1)  # (n, width)
        parents = best // choices
        token = following.flatten(1).gather(1, best)
        row = (going.flatten().cumsum(dim=0) - 1).view_as(going).gather(1, parents)  # of the reader
        going = going.gather(1, parents) & (token != end) & (scores > -torch.inf)
        tokens = torch.cat([tokens.gather(1, parents[..., None].expand_as(tokens)), token[..., None]], dim=2)

        more = going.any(dim=1) if step < limit else torch.zeros_like(left, dtype=torch.bool)
        for i, rows, values in zip(*(part[~more].tolist() for part in (left, tokens, scores))):
            beams[i] = [(_until_end(ids, end), value) for ids, value in zip(rows, values) if value != -torch.inf]
        if not more.any():
            break
        left, scores, tokens, token, row, going = (part[more] for part in (left, scores, tokens, token, row, going))
        reader.go_on(row[going], token[going])
    return beams


def _until_end(ids: list[int], end: int) -> list[int]:
    """The tokens up to the first end-of-text, which is included; all of them where the limit came first."""
    return ids[: ids.index(end) + 1] if end in ids else ids


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
