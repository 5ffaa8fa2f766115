"""Words to propose: those of the lexicon, each with the vector that the encoder gives to it alone.

The encoder knows which words a vector speaks of, even where the decoder does not: it moves a text's vector by nearly the same
amount to replace one word by another in any text, and about by the difference of the two words' vectors, divided by the
number of words. So a lexicon of 100,000 words can be ranked without embedding a text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cached_property
from os.path import commonprefix

import numpy as np

from v2t_cli.core.similarity import unit_rows
from v2t_cli.models.lexicon import LAST, Lexicon

SHORTLIST = 1500, 500  # words for one text: near what it lacks to its vector, and the most frequent ones
ROWS = 32  # shortlists made at once: each takes a float32 for each word of the lexicon
STEM = 3  # letters, at least, that the forms of a word share
ENDING = 4  # letters, at most, by which an ending differs from another
TAUGHT = 35_000  # the most frequent words teach how endings, and beginnings, alternate
NEIGHBOURS = 20  # the next words of the alphabet, compared with each
ALTERNATIVES = 80  # endings for one ending, at most


class Words:
    """A lexicon with its vectors. vectors: (words, dim), of length 1; log_counts: float32 (words,)."""

    def __init__(self, lexicon: Lexicon, vectors: np.ndarray):
        self.lexicon, self.vectors = lexicon, unit_rows(vectors).astype(np.float32, copy=False)
        self.log_counts = np.log(lexicon.counts[: len(vectors)]).astype(np.float32)

    def __len__(self) -> int:
        return len(self.vectors)

    def place(self, word: str) -> int | None:
        """Where a word stands among the vectors, whatever its case."""
        place = self.lexicon.place(word)
        return None if place is None or place >= len(self) else place

    def shortlists(self, targets: np.ndarray, owns: np.ndarray, parts: np.ndarray, priors: np.ndarray) -> list[np.ndarray]:
        """For each text the words that may bring it nearer to its vector: int64, ascending.

        targets, owns: (texts, dim), of length 1, of the vectors and of the texts themselves. parts: (texts,), how much of a word's
        vector one more word adds. priors: (texts,), cosine that a nat of a word's frequency is worth.
        """
        lacking, frequent = SHORTLIST
        if len(self) <= sum(SHORTLIST):
            return [np.arange(len(self))] * len(targets)
        cosines = np.einsum("ij,ij->i", targets, owns)[:, None]
        lacked = targets - cosines * owns  # to the first order, a word adds its dot product with this, times its part
        out = []
        for start in range(0, len(targets), ROWS):
            rows = slice(start, start + ROWS)
            scores = lacked[rows] @ self.vectors.T + (priors[rows] / parts[rows])[:, None] * self.log_counts
            best = np.argpartition(-scores, lacking, axis=1)[:, :lacking]
            out += [np.union1d(row, np.arange(frequent)) for row in best]
        return out

    def forms(self, word: str) -> list[int]:
        """The places of words that begin alike: other forms of the same word, most of them."""
        word = word.lower()
        stem, (words, places) = _stem(word), self._alphabet
        if stem is None:
            return []
        alike = range(bisect_left(words, stem), bisect_left(words, stem + LAST))
        return sorted(places[i] for i in alike if len(words[i]) <= len(word) + ENDING)

    @cached_property
    def _alphabet(self) -> tuple[list[str], list[int]]:
        """The words in lower case and alphabetical order, and the place of each."""
        pairs = sorted((word.lower(), place) for place, word in enumerate(self.lexicon.words[: len(self)]))
        return [word for word, _ in pairs], [place for _, place in pairs]

    def unseen_forms(self, word: str) -> list[str]:
        """Forms of a word that are not in the lexicon, with endings or beginnings of others; the likeliest first."""
        word = word.lower()
        found = self._endings.forms(word)
        found.update({form[::-1]: count for form, count in self._beginnings.forms(word[::-1]).items()})
        return [form for form, _ in found.most_common() if self.lexicon.place(form) is None]

    @cached_property
    def _endings(self) -> _Alternations:
        return _Alternations(self._taught)

    @cached_property
    def _beginnings(self) -> _Alternations:
        return _Alternations([word[::-1] for word in self._taught])

    @property
    def _taught(self) -> list[str]:
        return [word.lower() for word in self.lexicon.words[: min(TAUGHT, len(self))]]

    def near(self, words: Iterable[str], shortlist: np.ndarray) -> np.ndarray:
        """A shortlist with the forms of these words."""
        forms = [place for word in words for place in self.forms(word)]
        return np.union1d(shortlist, np.array(forms, dtype=np.int64)) if forms else shortlist


def _stem(word: str) -> str | None:
    return word[: max(STEM, len(word) - 3)] if len(word) > STEM else None


class _Alternations:
    """Which endings stand for which others in words that begin alike."""

    def __init__(self, words: list[str]):
        found: defaultdict[str, Counter[str]] = defaultdict(Counter)
        words = sorted(words)
        for place, one in enumerate(words):
            for other in words[place + 1 : place + 1 + NEIGHBOURS]:
                shared = len(commonprefix([one, other]))
                if shared < STEM:
                    break
                if max(len(one), len(other)) <= shared + ENDING:
                    found[one[shared:]][other[shared:]] += 1
                    found[other[shared:]][one[shared:]] += 1
        self._others = {ending: others.most_common(ALTERNATIVES) for ending, others in found.items()}

    def forms(self, word: str) -> Counter[str]:
        """The word with each other ending, and how often that stands for its own in other words; more for a longer ending."""
        out: Counter[str] = Counter()
        for length in range(min(ENDING, len(word) - STEM) + 1):
            stem, ending = word[: len(word) - length], word[len(word) - length :]
            for other, count in self._others.get(ending, []):
                out[stem + other] += count * (1 + length)
        return out
