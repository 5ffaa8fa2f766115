"""Generation: the most probable texts after a prefix by beam search, or sampled texts.

transformers' `generate` computes every row of a batch until its longest text has ended. In this loop a text that has ended
leaves the batch and the cache, but keeps its place in the beam.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from v2t_cli.core.one_line import to_row
from v2t_cli.decoding.candidates import Candidate
from v2t_cli.decoding.search import FittedSearch
from v2t_cli.models.inverter import Inverter


class Written(NamedTuple):
    """A text as one line, its tokens (with the end-of-text if it was reached), and their log-probability in nats."""

    text: str
    ids: list[int]
    logprob: float


_Choose = Callable[[Tensor], Tensor]  # logits (rows, vocabulary) -> the tokens to continue with, int64 (rows, choices)


@torch.inference_mode()
def generate(
    inverter: Inverter, tokenizer: Any, vectors: Tensor, search: FittedSearch, generator: torch.Generator | None = None
) -> list[list[Written]]:
    """For each vector at most search.beams texts, the most probable first; sampled texts come in any order.

    vectors: (batch, dim) float32 on the inverter's device. generator: of sampling, on this device too; None: torch's own.
    """
    prefix = inverter.prefix(vectors)
    draws = search.beams if search.strategy == "sample" else 1
    if draws > 1:
        prefix = prefix.repeat_interleave(draws, dim=0)
    width = search.beams // draws
    choose = _draw(search, generator) if search.strategy == "sample" else _most_probable(width)
    beams = _search(Reader(inverter, prefix), len(prefix), width, choose, tokenizer.eos_token_id, search.max_new_tokens)
    texts = iter(tokenizer.batch_decode([ids for beam in beams for ids, _ in beam], skip_special_tokens=True))
    rows = [[Written(to_row(next(texts)).strip(), ids, logprob) for ids, logprob in beam] for beam in beams]
    return [list(chain.from_iterable(rows[start : start + draws])) for start in range(0, len(rows), draws)]


def candidates_of(
    inverter: Inverter, tokenizer: Any, vectors: Tensor, search: FittedSearch, generator: torch.Generator | None = None
) -> list[list[Candidate]]:
    """The distinct texts that `generate` gives for each vector, the most probable first: different tokens may make the same text."""
    out = []
    for written in generate(inverter, tokenizer, vectors, search, generator):
        best: dict[str, Candidate] = {}
        for text, _, logprob in sorted(written, key=lambda it: -it.logprob):
            best.setdefault(text, Candidate(text, logprob))
        out.append(list(best.values()))
    return out


def _most_probable(count: int) -> _Choose:
    if count == 1:
        return lambda logits: logits.argmax(dim=1, keepdim=True)
    return lambda logits: logits.topk(min(count, logits.shape[1]), dim=1).indices


def _draw(search: FittedSearch, generator: torch.Generator | None) -> _Choose:
    warpers: Any = LogitsProcessorList([TemperatureLogitsWarper(search.temperature)])
    if search.top_k:
        warpers.append(TopKLogitsWarper(search.top_k))
    if search.top_p < 1:
        warpers.append(TopPLogitsWarper(search.top_p))
    return lambda logits: warpers(None, logits.clone()).softmax(dim=-1).multinomial(1, generator=generator)


def _logprobs(logits: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen tokens: float32, shaped like `chosen` (rows, choices)."""
    of_chosen = logits.gather(1, chosen)
    # Relative to the first choice: cross-entropy passes over the vocabulary once, logsumexp several times.
    first = -nn.functional.cross_entropy(logits, chosen[:, 0], reduction="none")
    return first[:, None] + of_chosen - of_chosen[:, :1]


def _search(reader: Reader, count: int, width: int, choose: _Choose, end: int, limit: int) -> list[list[tuple[list[int], float]]]:
    """For each of `count` rows its beam: at most `width` lists of tokens with log-probabilities, the most probable first."""
    device = reader.unread.device
    beams: list[list[tuple[list[int], float]]] = [[] for _ in range(count)]
    left = torch.arange(count, device=device)  # the n rows still being searched
    scores = torch.full((count, width), -torch.inf, device=device)  # of each place in the beam; -inf: empty
    tokens = torch.empty(count, width, 0, dtype=torch.long, device=device)
    going = torch.zeros(count, width, dtype=torch.bool, device=device)  # whether the text has not ended: the reader's rows, in order
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
        reached[..., 0] = torch.where(going, reached[..., 0], scores)  # a finished text stays as it is

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
        reader.advance(row[going], token[going])
    return beams


def _until_end(ids: list[int], end: int) -> list[int]:
    """The tokens up to and including the first end-of-text; all of them if the limit came first."""
    return ids[: ids.index(end) + 1] if end in ids else ids


class Reader:
    """The decoder with what each row has read so far: the prefix, then tokens."""

    def __init__(self, inverter: Inverter, prefix: Tensor):
        self.inverter = inverter
        self.cache = inverter.new_cache()
        self.unread = prefix  # everything, if the decoder has no cache

    def logits(self) -> Tensor:
        """For the next token: float32 (rows, vocabulary)."""
        return self.inverter.next_logits(self.unread, self.cache)

    def advance(self, rows: Tensor, tokens: Tensor) -> None:
        """Row i becomes what rows[i] was, followed by tokens[i]."""
        moved = len(rows) != len(self.unread) or bool((rows != torch.arange(len(rows), device=rows.device)).any())
        embeds = self.inverter.lm.get_input_embeddings()(tokens[:, None])
        if self.cache is None:
            embeds = torch.cat([self.unread[rows], embeds], dim=1)
        elif moved:
            self.cache.batch_select_indices(rows)
        self.unread = embeds
