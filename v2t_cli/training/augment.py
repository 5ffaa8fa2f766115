"""Augmentation: texts that nobody wrote, made from those of the corpus by joining two of them, or by the edits that the search makes.

Their vectors are as true as any others, because the encoder computes them while training. So an inverter sees words in more
places than its corpus has them, and learns what case, marks and order do to a vector, instead of learning its texts by heart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v2t_cli.core.device import to_device
from v2t_cli.decoding.edits import FLIP, Edit, Parsed, apply
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.language_model import pad, tokenize
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.training.batches import Examples

KINDS = {"replace": 0.3, "splice": 0.15, "end": 0.15, "case": 0.15, "delete": 0.1, "swap": 0.1, "insert": 0.05}
AGAIN = 0.3  # how often a second word is replaced too
FLATTENING = 0.5  # words are drawn by their count to this power, so that rare ones are learned too


class Augmenter:
    """Makes batches in which some texts are changed, or each is followed by another text; differently each time."""

    def __init__(
        self,
        examples: Examples,
        encoder: Encoder,
        tokenizer: Any,
        lexicon: Lexicon,
        limit: int | None,
        scale: float = 1.0,
        *,
        changed_share: float = 0.0,
        joined_share: float = 0.0,
    ):
        """limit: tokens that fit the decoder: a text that outgrows them stays as it was; scale: factor from the encoder's vectors to those
        of the examples; changed_share: of the texts, to change, in batches that are not joined; joined_share: of the batches, to join.
        """
        self._examples, self._encoder, self._tokenizer, self._lexicon = examples, encoder, tokenizer, lexicon
        self._limit, self._scale, self._changed_share, self._joined_share = limit, scale, changed_share, joined_share
        weights = lexicon.counts**FLATTENING
        self._cumulative = np.cumsum(weights / max(1.0, weights.sum()))

    @property
    def longest(self) -> int:
        """About how many tokens its longest text has, the end-of-text included: if texts are joined, twice those of the longest one."""
        longest = int(self._examples.lengths.max())
        return min(2 * longest - 1, self._limit or 2 * longest) if self._joined_share else longest

    def tensors(self, which: np.ndarray, pad_id: int, device: torch.device, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Like Examples.tensors, with some of the texts changed, or with another text after each."""
        split, vectors = self._examples.split, self._examples.vectors_of(which)
        assert split.ids is not None  # examples are tokenized
        texts, ids = [split.texts[i] for i in which], [row.tolist() for row in split.ids.keep(which)]
        new: dict[int, str] = {}
        joined = len(texts) > 1 and self._joined_share and rng.random() < self._joined_share
        for i, text in self._joins(texts, rng) if joined else self._changes(texts, rng):
            tokens = tokenize(self._tokenizer, [text])[0]
            if text.strip() and text != texts[i] and (self._limit is None or len(tokens) <= self._limit):
                new[i], ids[i] = text, tokens
        if new:
            vectors[list(new)] = self._scale * self._encoder.encode(list(new.values()))
        return to_device(torch.from_numpy(vectors), device), *pad(ids, pad_id, device)

    def _joins(self, texts: list[str], rng: np.random.Generator) -> Iterable[tuple[int, str]]:
        """Each text with another one after it. The texts of a batch are about equally long, so these are, too, and need little padding."""
        order = rng.permutation(len(texts))
        return ((i, f"{texts[i]} {texts[after]}") for i, after in zip(order.tolist(), np.roll(order, 1).tolist()))

    def _changes(self, texts: list[str], rng: np.random.Generator) -> Iterable[tuple[int, str]]:
        which = np.flatnonzero(rng.random(len(texts)) < self._changed_share)
        return ((i, self.change(texts[i], rng)) for i in which.tolist())

    def change(self, text: str, rng: np.random.Generator) -> str:
        """The text after an edit that is drawn at random; now and then it stays as it is."""
        kind = rng.choice(list(KINDS), p=list(KINDS.values()))
        parsed = Parsed(text)
        if kind == "splice":
            return self._splice(text, rng)
        if kind == "replace":
            text = self._replace(text, rng)
            return self._replace(text, rng) if rng.random() < AGAIN else text
        edits: list[Edit] = []
        if kind == "end":
            edits = list(parsed.marks(self._lexicon.ends))
        elif kind == "case":
            edits = [FLIP]
        elif kind == "delete" and len(parsed) > 1:
            edits = parsed.deletions()
        elif kind == "swap":
            edits = parsed.neighbours()
        elif kind == "insert":
            edits = parsed.insertions(self._word(rng))
        return apply(text, edits[int(rng.integers(len(edits)))]) if edits else text

    def _replace(self, text: str, rng: np.random.Generator) -> str:
        parsed = Parsed(text)
        return apply(text, parsed.replacement(int(rng.integers(len(parsed))), self._word(rng))) if len(parsed) else text

    def _splice(self, text: str, rng: np.random.Generator) -> str:
        """The beginning of one text and the end of another."""
        texts = self._examples.split.texts
        ours, theirs = text.split(" "), texts[int(rng.integers(len(texts)))].split(" ")
        return " ".join([*ours[: rng.integers(1, len(ours) + 1)], *theirs[rng.integers(len(theirs)) :]])

    def _word(self, rng: np.random.Generator) -> str:
        """Nothing if no text has a word, or none short enough for a lexicon."""
        if not len(self._lexicon):
            return ""
        return self._lexicon.words[min(int(np.searchsorted(self._cumulative, rng.random())), len(self._lexicon) - 1)]
