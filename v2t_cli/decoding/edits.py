"""Edits of a text: what to replace, insert, delete or move, as spans of characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from typing import NamedTuple

from v2t_cli.core.one_line import to_line

_WORD = re.compile(r"\w+")
_MARK = re.compile(r"[^\w\s]")


class Span(NamedTuple):
    """Characters start … stop of the text become `new`."""

    start: int
    stop: int
    new: str


Edit = tuple[Span, ...]  # disjoint spans


def apply(text: str, edit: Edit) -> str:
    """The edited text as one line: no blanks at the ends, none doubled, and a capital first letter if the text had one."""
    out = text
    for start, stop, new in sorted(edit, reverse=True):
        out = out[:start] + new + out[stop:]
    out = re.sub(" +", " ", to_line(out)).strip()
    before, after = _WORD.search(text), _WORD.search(out)
    if before and after and before[0][0].isupper():
        out = out[: after.start()] + out[after.start()].upper() + out[after.start() + 1 :]
    return out


def disjoint(left: Edit, right: Edit) -> bool:
    """Whether both edits can be made at once: no span of one touches a span of the other."""
    return all(a.stop < b.start or b.stop < a.start for a in left for b in right)


def rearrangements(text: str) -> Iterator[Edit]:
    """Delete each word or mark, swap each two words, move each word to each other place."""
    words = [match.span() for match in _WORD.finditer(text)]
    inner = _inner_words(text)
    deletions = [Span(start - (start > 0 and text[start - 1] == " "), stop, "") for start, stop in words]
    for deletion in deletions:
        yield (deletion,)
    for match in _MARK.finditer(text):
        yield (Span(*match.span(), ""),)
    for (i, a), (j, b) in combinations(enumerate(words), 2):
        yield Span(*a, inner[j]), Span(*b, inner[i])
    for i, deletion in enumerate(deletions):
        for place in range(len(words) + 1):
            moved = _inserted(text, words, inner[i], place)
            if place not in (i, i + 1) and disjoint((deletion,), moved):
                yield deletion, *moved


def endings(text: str, letters: Iterable[str]) -> Iterator[Edit]:
    """Drop, replace and add a last letter, for each word of three letters or more."""
    letters = list(letters)
    for match in _WORD.finditer(text):
        if len(match[0]) > 2:
            last, stop = match.end() - 1, match.end()
            yield (Span(last, stop, ""),)
            for letter in letters:
                yield (Span(stop, stop, letter),)
                if letter != text[last]:
                    yield (Span(last, stop, letter),)


def last_letters(texts: Iterable[str], limit: int) -> list[str]:
    """The `limit` most frequent last letters of the texts' words."""
    words = chain.from_iterable(map(_WORD.findall, texts))
    return [letter for letter, _ in Counter(word[-1] for word in words if len(word) > 2).most_common(limit)]


def borrowings(text: str, borrowed: Iterable[str]) -> Iterator[Edit]:
    """Put each borrowed word or mark in the place of each word or mark of the text, and between them."""
    words = [match.span() for match in _WORD.finditer(text)]
    for new in borrowed:
        if _WORD.match(new):
            for span in words:
                yield (Span(*span, new),)
            for place in range(len(words) + 1):
                yield _inserted(text, words, new, place)
        else:
            for match in _MARK.finditer(text):
                yield (Span(*match.span(), new),)
            for _, stop in words:
                yield (Span(stop, stop, new),)


def borrow(text: str, others: Iterable[str], limit: int) -> list[str]:
    """The first `limit` words and marks of other texts that the text lacks, as they look inside a sentence."""
    known = {word.lower() for word in _WORD.findall(text)} | set(_MARK.findall(text))
    out: list[str] = []
    for other in others:
        for word in [*_inner_words(other), *_MARK.findall(other)]:
            if word.lower() not in known:
                known.add(word.lower())
                out.append(word)
    return out[:limit]


def _inserted(text: str, words: list[tuple[int, int]], new: str, place: int) -> Edit:
    """Put a word before word number `place` of the text, or after the last one."""
    if place < len(words):
        start, stop = words[place]
        if place == 0:
            return (Span(start, stop, f"{new} {_inner_words(text)[0]}"),)
        return (Span(start, start, f"{new} "),)
    end = words[-1][1] if words else 0
    return (Span(end, end, f" {new}"),)


def _inner_words(text: str) -> list[str]:
    """The words of the text as they look inside a sentence: without the capital that starts it."""
    words = _WORD.findall(text)
    if words and (len(words[0]) == 1 or words[0][1:].islower()):
        words[0] = words[0].lower()
    return words
