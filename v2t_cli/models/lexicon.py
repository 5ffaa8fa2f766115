"""The lexicon of a checkpoint: the words of its training texts, and how texts end, with how often each occurs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from v2t_cli.core.errors import RequestError
from v2t_cli.io.texts import read_lines

WORD = re.compile(r"\w+")
MAX_WORDS = 2**17  # the most frequent ones are kept
MAX_LETTERS = 40  # of a word; what is longer is text in a script without blanks, or no word
MAX_ENDS = 12
LAST = "\U0010ffff"  # comes after every letter
SENTENCE_ENDS = tuple(".!?…:;")
OPENINGS = " \t\xa0-–—\"'«“„‘([*•"  # what may stand between them and the next word


def text_end(text: str) -> str:
    """What follows the last word, such as "?!" or nothing."""
    return text[max((match.end() for match in WORD.finditer(text)), default=0) :]


def begins_sentence(text: str, start: int) -> bool:
    """Whether the word at `start` begins a sentence, or what follows a colon. There a capital letter tells nothing."""
    before = text[max(0, start - 8) : start].rstrip(OPENINGS)
    return not before or before.endswith(SENTENCE_ENDS)


def inner_words(text: str) -> list[str]:
    """The words of a text as they look inside a sentence: without the capital that starts it."""
    words = WORD.findall(text)
    return [_without_capital(words[0]), *words[1:]] if words else []


def _without_capital(word: str) -> str:
    """As inside a sentence; an abbreviation in capitals stays."""
    small = word.lower() if len(word) == 1 or word[1:].islower() else word
    return small if WORD.fullmatch(small) else word  # a small "İ" is two characters, of which one is no letter


class Lexicon:
    """Words, the most frequent first, each in its most frequent spelling inside sentences; no two differ only by case.

    words, counts: how often each occurs, int64; ends: what follows the last word of a text, the most frequent first.
    """

    def __init__(self, words: list[str], counts: list[int], ends: list[tuple[str, int]]):
        self.words, self.counts, self._counted_ends = words, np.array(counts, dtype=np.int64), ends
        self._place = {word.lower(): place for place, word in enumerate(words)}

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Lexicon:
        spellings: Counter[str] = Counter()
        totals: Counter[str] = Counter()
        ends: Counter[str] = Counter()
        for text in texts:
            for match in WORD.finditer(text):
                word = inner = match.group()
                if len(word) > MAX_LETTERS:
                    continue
                if begins_sentence(text, match.start()):
                    inner = _without_capital(word)
                spellings[inner] += inner == word  # a capital that was taken away leaves no evidence
                totals[word.lower()] += 1
            ends[text_end(text).rstrip()] += 1  # a line of the file cannot end with "\r"
        by_word: defaultdict[str, list[str]] = defaultdict(list)
        for spelling in spellings:
            by_word[spelling.lower()].append(spelling)
        kept = totals.most_common(MAX_WORDS)
        words = [max(by_word[word], key=spellings.__getitem__) for word, _ in kept]
        return cls(words, [count for _, count in kept], ends.most_common(MAX_ENDS))

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Raises RequestError, naming the file and the line, for what `write` did not write."""
        words: list[str] = []
        counts: list[int] = []
        ends: list[tuple[str, int]] = []
        for number, line in enumerate(read_lines(str(path)), 1):
            count, tab, entry = line.partition("\t")
            if not (tab and count.isdecimal() and len(count) < 19 and int(count)):
                raise RequestError(f"{path}, line {number}: damaged: expected a count, a tab and a word")
            if WORD.fullmatch(entry):
                words.append(entry)
                counts.append(int(count))
            else:
                ends.append((entry, int(count)))
        return cls(words, counts, ends)

    def write(self, path: Path) -> None:
        """One word or end a line, after its count and a tab."""
        entries = [*zip(self.words, self.counts.tolist()), *self._counted_ends]
        path.write_text("".join(f"{count}\t{entry}\n" for entry, count in entries), encoding="utf-8")

    def with_those_of(self, other: Lexicon) -> Lexicon:
        """The words and ends of both, each with the spelling and the count of the one in which it is more frequent."""
        words: dict[str, tuple[int, str]] = {}
        ends: dict[str, int] = {}
        for lexicon in (self, other):
            for word, count in zip(lexicon.words, lexicon.counts.tolist()):
                words[word.lower()] = max(words.get(word.lower(), (0, "")), (count, word))
            for end, count in lexicon._counted_ends:
                ends[end] = max(ends.get(end, 0), count)
        kept = sorted(words.values(), key=lambda it: -it[0])[:MAX_WORDS]
        most = sorted(ends.items(), key=lambda it: -it[1])[:MAX_ENDS]
        return Lexicon([word for _, word in kept], [count for count, _ in kept], most)

    @property
    def ends(self) -> list[str]:
        return [end for end, _ in self._counted_ends]

    def __len__(self) -> int:
        return len(self.words)

    def place(self, word: str) -> int | None:
        """Where the word stands in `words`, whatever its case."""
        return self._place.get(word.lower())

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are not in the lexicon; none if that is empty, for then nobody can tell. A number is no word."""
        return [] if not self.words else [word for word in WORD.findall(text) if word.lower() not in self._place and not word.isdecimal()]
