"""Edits of a text: what to replace, insert, delete or move, as spans of characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from v2t_cli.core.one_line import to_row
from v2t_cli.models.lexicon import WORD, inner_words, text_end

_MARK = re.compile(r"[^\w\s]")
REACH = 4  # places by which a word moves, at most: a text that is twice as long shall have twice as many edits
LONGEST_BLOCK = 4  # words that move together, at most


class Span(NamedTuple):
    """Characters start … stop of the text become `new`."""

    start: int
    stop: int
    new: str


class Edit(NamedTuple):
    """Disjoint spans; flip: whether the first letter of the text changes its case."""

    spans: tuple[Span, ...]
    flip: bool = False


FLIP = Edit((), flip=True)


def edit(*spans: Span) -> Edit:
    return Edit(spans)


def apply(text: str, change: Edit) -> str:
    """The edited text as one line: no blanks at the ends, none doubled, and the case of its first letter kept, or flipped."""
    out = text
    for start, stop, new in sorted(change.spans, reverse=True):
        out = out[:start] + new + out[stop:]
    out = re.sub(" +", " ", to_row(out)).strip()
    before, after = WORD.search(text), WORD.search(out)
    if before and after and (capital := before[0][0].isupper()) | change.flip:
        first = out[after.start()]
        out = out[: after.start()] + (first.lower() if capital and change.flip else first.upper()) + out[after.start() + 1 :]
    return out


def disjoint(left: Edit, right: Edit) -> bool:
    """Whether both edits can be made at once: no span of one overlaps a span of the other, and only one flips the case."""
    apart = all(a.stop <= b.start or b.stop <= a.start for a in left.spans for b in right.spans)
    return apart and not (left.flip and right.flip)


def together(edits: Iterable[Edit]) -> Edit:
    """Disjoint edits as one."""
    edits = list(edits)
    return Edit(tuple(chain.from_iterable(it.spans for it in edits)), any(it.flip for it in edits))


class Parsed:
    """A text and where its words are. spans: (start, stop) of each word; words: as they look inside a sentence."""

    def __init__(self, text: str):
        self.text = text
        self.spans = [match.span() for match in WORD.finditer(text)]
        self.words = inner_words(text)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def end(self) -> str:
        return text_end(self.text)

    def replacement(self, number: int, new: str) -> Edit:
        """Another word in place of word `number`."""
        return edit(Span(*self.spans[number], new))

    def insertion(self, place: int, new: str) -> Edit:
        """A word before word number `place`, or after the last one."""
        if not self.spans:
            return edit(Span(0, 0, f"{new} "))
        if place == len(self):
            stop = self.spans[-1][1]
            return edit(Span(stop, stop, f" {new}"))
        start, stop = self.spans[place]
        if place == 0:  # the word that was the first loses its capital
            return edit(Span(start, stop, f"{new} {self.words[0]}"))
        return edit(Span(start, start, f"{new} "))

    def insertions(self, new: str) -> list[Edit]:
        return [self.insertion(place, new) for place in range(len(self) + 1)]

    def _deletion(self, number: int) -> Span:
        start, stop = self.spans[number]
        return Span(start - (start > 0 and self.text[start - 1] == " "), stop, "")

    def deletions(self) -> list[Edit]:
        """One for each word, in order."""
        return [edit(self._deletion(number)) for number in range(len(self))]

    def marks(self, ends: Iterable[str]) -> Iterator[Edit]:
        """Each other end of the text; each mark inside it, or the blank after it, gone; a comma after each word that has none."""
        begin = len(self.text) - len(self.end)
        for end in ends:
            if end != self.end:
                yield edit(Span(begin, len(self.text), end))
        for match in _MARK.finditer(self.text, 0, begin):
            yield edit(Span(*match.span(), ""))
            if self.text[match.end()] == " ":
                yield edit(Span(match.end(), match.end() + 1, ""))
        for _, stop in self.spans[:-1]:
            if self.text[stop] == " ":
                yield edit(Span(stop, stop, ","))

    def cases(self) -> Iterator[Edit]:
        """The first letter of the text, and of each other word, in the other case."""
        yield FLIP
        for start, _ in self.spans[1:]:
            yield edit(Span(start, start + 1, self.text[start].swapcase()))

    def swaps(self, neighbours: bool) -> Iterator[Edit]:
        """Swap neighbours, then, unless only these are wanted, words that are up to REACH places apart."""
        for distance in range(1, 2 if neighbours else REACH + 1):
            for i, j in enumerate(range(distance, len(self))):
                yield edit(Span(*self.spans[i], self.words[j]), Span(*self.spans[j], self.words[i]))

    def moves(self) -> Iterator[Edit]:
        """Move each word by two to REACH places: a swap of neighbours moves it by one."""
        for number in range(len(self)):
            for place in range(max(0, number - REACH), min(len(self), number + 1 + REACH) + 1):
                if not number - 1 <= place <= number + 2:
                    moved, gone = self.insertion(place, self.words[number]), edit(self._deletion(number))
                    if disjoint(moved, gone):
                        yield together([gone, moved])

    def block_moves(self) -> Iterator[Edit]:
        """Move two to LONGEST_BLOCK neighbouring words to each later or earlier place within REACH; marks stay between the same places."""
        count = len(self)
        gaps = [self.text[left[1] : right[0]] for left, right in zip(self.spans, self.spans[1:])]
        for start in range(count):
            for stop in range(start + 2, min(count, start + LONGEST_BLOCK) + 1):
                for place in (*range(max(0, start - REACH), start), *range(stop + 1, min(count, stop + REACH) + 1)):
                    rest = [*range(start), *range(stop, count)]
                    cut = place if place < start else place - (stop - start)
                    order = [self.words[i] for i in (*rest[:cut], *range(start, stop), *rest[cut:])]
                    new = "".join(chain.from_iterable(zip(order, [*gaps, ""])))
                    yield edit(Span(self.spans[0][0], self.spans[-1][1], new))
