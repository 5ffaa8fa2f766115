"""Edits of a text: what to replace, insert, delete or move, as spans of characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, groupby
from typing import NamedTuple

from v2t_cli.core.one_line import to_row
from v2t_cli.models.lexicon import WORD, inner_words, text_end

_MARK = re.compile(r"[^\w\s]")
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”»)]*(?=\s)|\Z)")
REACH = 4  # places by which a sentence moves, at most
SPREAD = 3  # places from one insertion or deletion to the next, at first
BETWEEN = (",", ".", "!", "?")  # marks between clauses


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
        """At every place; the first ones are spread over the text, for it matters more which word comes than where."""
        return [self.insertion(place, new) for start in range(SPREAD) for place in range(start, len(self) + 1, SPREAD)]

    def _deletion(self, number: int) -> Span:
        start, stop = self.spans[number]
        return Span(start - (start > 0 and self.text[start - 1] == " "), stop, "")

    def deletions(self) -> list[Edit]:
        """One for each word; the first ones are spread over the text."""
        return [edit(self._deletion(number)) for start in range(SPREAD) for number in range(start, len(self), SPREAD)]

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

    def other_marks(self) -> Iterator[Edit]:
        """Each mark between clauses by each other one. After a comma, the next word is tried in lower case and as it was, for it may be a
        name; after other marks, it begins a sentence.
        """
        for (_, stop), (start, _) in zip(self.spans, self.spans[1:]):
            mark, blank = self.text[stop : stop + 1], self.text[stop + 1 : start]
            if mark in BETWEEN and blank == " ":
                first = self.text[start]
                for new in BETWEEN:
                    if new != mark:
                        firsts = (first.lower(), first) if new == "," else (first.upper(),)
                        yield from (edit(Span(stop, start + 1, f"{new} {it}")) for it in dict.fromkeys(firsts))

    def digits(self) -> Iterator[Edit]:
        """Each digit by each other one: the nearest ones of all digits first."""
        places = [place for start, stop in self.spans for place in range(start, stop) if self.text[place] in "0123456789"]
        for step in (1, -1, 2, -2, 3, -3, 4, -4, 5):
            for place in places:
                yield edit(Span(place, place + 1, str((int(self.text[place]) + step) % 10)))

    def cases(self) -> Iterator[Edit]:
        """The first letter of the text, and of each other word, in the other case."""
        yield FLIP
        for start, _ in self.spans[1:]:
            yield edit(Span(start, start + 1, self.text[start].swapcase()))

    def sentence_moves(self) -> Iterator[Edit]:
        """Move each sentence, with its marks, to each later place within REACH."""
        sentences = _SENTENCE.findall(self.text)
        for number, sentence in enumerate(sentences):
            for place in range(number + 1, min(len(sentences), number + 1 + REACH)):
                order = [*sentences[:number], *sentences[number + 1 : place + 1], sentence, *sentences[place + 1 :]]
                yield edit(Span(0, len(self.text), " ".join(order)))

    def reordered(self, order: Sequence[int]) -> Edit:
        """The words in another order, a permutation of their numbers; marks stay between the same places."""
        spans = []
        changed = (number != place for place, number in enumerate(order))
        for moved, run in groupby(enumerate(changed), key=lambda it: it[1]):
            if moved:
                places = [place for place, _ in run]
                gaps = [self.text[self.spans[place][1] : self.spans[place + 1][0]] for place in places[:-1]]
                new = "".join(chain.from_iterable(zip((self.words[order[place]] for place in places), [*gaps, ""])))
                spans.append(Span(self.spans[places[0]][0], self.spans[places[-1]][1], new))
        return edit(*spans)

    def neighbours(self) -> list[Edit]:
        """Each two neighbouring words in the other order."""
        places = zip(zip(self.spans, self.words), zip(self.spans[1:], self.words[1:]))
        return [edit(Span(*first, right), Span(*second, left)) for (first, left), (second, right) in places]
