"""Words to propose: those of the lexicon and forms that it lacks, each with the vector that the encoder gives to it alone.

The encoder knows which words a vector speaks of, even where the decoder does not: it moves a text's vector by nearly the same
amount to replace one word by another in any text, and about by the difference of the two words' vectors, divided by the
number of words. So a lexicon of 100,000 words can be ranked without embedding a text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from v2t_cli.core.similarity import unit_rows
from v2t_cli.models.inflection import Form, Inflection
from v2t_cli.models.lexicon import LAST, Lexicon

SHORTLIST = 1500, 500  # words for one text: near what it lacks to its vector, and the most frequent ones
ROWS = 32  # shortlists made at once: each takes a float32 for each word and form
SHARED = 3  # letters, at least, with which all forms of a word begin
LONGER = 4  # letters, at most, by which a form is longer than the word
TAUGHT = 35_000  # the most frequent words teach how endings, and beginnings, alternate
UNSEEN = -2.0  # nats: what counts as the logarithm of the frequency of a form that no training text has


class Words:
    """The most frequent words of a lexicon and forms that it lacks.

    spellings: of the words inside a sentence, and of the forms after them; vectors: (len(spellings), dim), of length 1;
    log_counts: float32 (len(spellings),).
    """

    def __init__(self, lexicon: Lexicon, vectors: np.ndarray, forms: Sequence[str] = ()):
        """vectors: (words, dim), of the words, and then of the forms."""
        self.lexicon, self._count = lexicon, len(vectors) - len(forms)
        self.vectors = unit_rows(vectors).astype(np.float32, copy=False)
        self.spellings = [*lexicon.words[: self._count], *forms]
        self.log_counts = np.log(lexicon.counts[: self._count], dtype=np.float32)
        self.log_counts = np.append(self.log_counts, np.full(len(forms), UNSEEN, dtype=np.float32))
        self._unseen = {form.lower(): place for place, form in enumerate(forms, self._count)}

    def __len__(self) -> int:
        return len(self.vectors)

    def place(self, word: str) -> int | None:
        """Where a word or a form stands among the vectors, whatever its case."""
        place = self.lexicon.place(word)
        return self._unseen.get(word.lower()) if place is None or place >= self._count else place

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are neither in the lexicon nor among the forms; none if the lexicon is empty."""
        return [word for word in self.lexicon.unknown(text) if word.lower() not in self._unseen]

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

    def alike(self, word: str) -> list[int]:
        """The places of words that begin alike: other forms of the same word, most of them."""
        word = word.lower()
        stem, (words, places) = _stem(word), self._alphabet
        if stem is None:
            return []
        alike = range(bisect_left(words, stem), bisect_left(words, stem + LAST))
        return sorted(places[i] for i in alike if len(words[i]) <= len(word) + LONGER)

    @cached_property
    def _alphabet(self) -> tuple[list[str], list[int]]:
        """The words in lower case and alphabetical order, and the place of each."""
        pairs = sorted((word.lower(), place) for place, word in enumerate(self.spellings))
        return [word for word, _ in pairs], [place for _, place in pairs]

    def inflected(self, word: str) -> list[str]:
        """More forms of a word, with endings or beginnings of others, that `spellings` lack; the likeliest first."""
        word = word.lower()
        found = self._endings.forms([word])
        found += [Form(form[::-1], probability) for form, probability in self._beginnings.forms([word[::-1]])]
        forms = dict.fromkeys(it.word for it in sorted(found, key=lambda it: -it.probability))
        return [form for form in forms if self.lexicon.place(form) is None and form not in self._unseen]

    @cached_property
    def _endings(self) -> Inflection:
        return Inflection(self._taught)

    @cached_property
    def _beginnings(self) -> Inflection:
        return Inflection([word[::-1] for word in self._taught])

    @property
    def _taught(self) -> list[str]:
        return [word.lower() for word in self.spellings[: min(TAUGHT, self._count)]]

    def near(self, words: Iterable[str], shortlist: np.ndarray) -> np.ndarray:
        """A shortlist with the forms of these words."""
        forms = [place for word in words for place in self.alike(word)]
        return np.union1d(shortlist, np.array(forms, dtype=np.int64)) if forms else shortlist


def _stem(word: str) -> str | None:
    return word[: max(SHARED, len(word) - 3)] if len(word) > SHARED else None
