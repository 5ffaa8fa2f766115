"""Proposals: the single edits of a text that are worth embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np

from v2t_cli.decoding.edits import Edit, Parsed
from v2t_cli.models.gradients import TokenGradients
from v2t_cli.models.words import Words

# A nat of a word's log-probability is worth this much cosine: the first for any text, the second times what the text lacks to 1.
PRIOR = 0.001, 0.012
RARER = 0.3  # part of that when a text is edited again: it may lack a rare word
# The same for a replacement beside the encoder's gradient, in standard deviations of the expected cosines of a word's replacements.
# Measured by frequency alone, with MiniLM in English, on texts with one or two wrong words: the right word was the most promising of
# 8,000 for every place in 55 % and 50 % of the texts, without the gradient in 35 % and 24 %, by the gradient alone in 21 % and 24 %.
FREQUENCY = 0.6
CONTEXT = 0.5  # share of a word's log-probability in its place; the rest is that of its frequency
BORROWED = 2.0  # nats that the logarithm of a word's frequency gains by being in a candidate of the decoder
NEAR = 0.9  # cosine from which little things are tried: other ends at every round and, with decode.inflect, forms that are not known
PER_FORM = 25  # edits for one form of each word, and for one inserted word
SENTENCE = 6  # words up to which a text gets all rounds, details and orders; a longer one gets fewer, in proportion


class Effort(NamedTuple):
    """How many edits of a text to try. edits: with words of the lexicon; thorough: whether also what seldom helps."""

    edits: int
    thorough: bool

    @property
    def few(self) -> int:
        """Forms of each word, and words to insert at each place, on average."""
        return max(1, self.edits // PER_FORM)

    def details(self, words: int) -> int:
        """Edits as of `details`, of a text of so many words: a longer one has more of them, but each takes longer to embed."""
        return (20 + 2 * self.edits) * SENTENCE // max(SENTENCE, words)

    def orders(self, words: int) -> int:
        """Other orders of so many words."""
        return (15 + self.edits // 5) * SENTENCE // max(SENTENCE, words)

    @property
    def tokens(self) -> int:
        """Edits of single tokens."""
        return 3 * self.edits // 10

    @property
    def sums(self) -> int:
        """Sums of edits. Of 25 that `balanced` found, 23 were the most promising of their text, and all among the first six."""
        return 4 * self.edits // 10


class Wanted(NamedTuple):
    """What the words of a text should add up to.

    target: (dim,), of length 1; places: in the lexicon, of the words of the decoder's first candidates, int64.
    """

    target: np.ndarray
    places: np.ndarray


def share(words: int) -> float:
    """Part of the rounds of edits that a text of so many words gets."""
    return SENTENCE / max(SENTENCE, words)


def prior(cosine: float, effort: Effort) -> float:
    """Cosine that a nat of a word's log-probability is worth, for a text with this cosine."""
    return (PRIOR[0] + PRIOR[1] * (1 - cosine)) * (RARER if effort.thorough else 1)


def details(text: Parsed, cosine: float, ends: list[str], effort: Effort, first: bool) -> Iterator[Edit]:
    """Edits that need no new word: deletions, marks, case and the order of sentences, in turns. first: whether it is the first round."""
    marks = text.marks(ends[: max(3, effort.edits // 8)] if first or cosine > NEAR else [])
    kinds = [text.deletions(), marks, text.cases(), text.sentence_moves()]
    if effort.thorough:
        kinds.append(text.other_marks())
    return _in_turns(*kinds)


class Gradients(NamedTuple):
    """of_words: (words, width), of a text's cosine by the embedding of each of its words; encoder: gives the embeddings of others."""

    of_words: np.ndarray
    encoder: TokenGradients


def rewordings(
    text: Parsed,
    own: np.ndarray,
    wanted: Wanted,
    places: np.ndarray,
    context: np.ndarray | None,
    words: Words,
    effort: Effort,
    gradients: Gradients | None = None,
) -> Iterator[Edit]:
    """Edits with words of the lexicon: forms of the text's words, insertions and replacements, each the most promising first.

    own: (dim,), of length 1, of the text; places: of the words to try, int64; context: of these words, as in a Reading; gradients: if
    the encoder has some.
    """
    if not len(places):
        return iter(())
    vectors, count = words.vectors[places], max(1, len(text))
    worth = prior(float(own @ wanted.target), effort)
    usual = words.log_counts[places] + BORROWED * np.isin(places, wanted.places)
    nats = np.tile(usual, (len(text) + 1, 1)) if context is None else (1 - CONTEXT) * usual + CONTEXT * context
    ours = [words.place(word) for word in text.words]
    without = np.repeat(own[None], len(ours), axis=0)
    for number, place in enumerate(ours):
        if place is not None:
            without[number] -= words.vectors[place] / count
    expected = _cosines(without, vectors, 1 / count, wanted.target)
    if gradients:
        embeddings = gradients.encoder.embeddings(words.spellings[place] for place in places)
        promised = _standard(gradients.of_words @ embeddings.T) + FREQUENCY * (nats - nats.mean(axis=1, keepdims=True))[:-1]
        expected += expected.std(axis=1, keepdims=True) * promised
    else:
        expected += worth * nats[:-1]
    forms = _forms(text, expected, places, ours, words, effort)
    added = _cosines(own[None], vectors, 1 / (count + 1), wanted.target) + worth * nats
    insertions = (text.insertion(number, words.spellings[places[it]]) for number, it in _best(added, effort.few * len(added)))
    best = _best(expected, 2 * effort.edits)
    replacements = (text.replacement(number, words.spellings[places[it]]) for number, it in best if places[it] != ours[number])
    return _in_turns(forms, insertions, replacements)


def _best(scores: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """Row and column of the highest scores, the highest first."""
    return (divmod(int(flat), scores.shape[1]) for flat in np.argsort(-scores, axis=None, kind="stable")[:count])


def _forms(text: Parsed, expected: np.ndarray, places: np.ndarray, ours: list[int | None], words: Words, effort: Effort) -> Iterator[Edit]:
    """The best other forms of each word, the most promising first.

    expected: (words of the text, len(places)), how promising each replacement is; ours: the places of the text's words.
    """
    best: list[tuple[float, int, int]] = []
    for number, word in enumerate(text.words):
        forms = np.flatnonzero(np.isin(places, words.alike(word)) & (places != ours[number]))
        forms = forms[np.argsort(-expected[number, forms])][: effort.few]
        best += ((-expected[number, it], number, places[it]) for it in forms)
    return (text.replacement(number, words.spellings[place]) for _, number, place in sorted(best))


def _cosines(bases: np.ndarray, vectors: np.ndarray, part: float, target: np.ndarray) -> np.ndarray:
    """Cosine with the target (dim,) of each of bases (n, dim) plus `part` of each of vectors (m, dim): (n, m)."""
    squares = np.square(bases).sum(axis=1)[:, None] + part**2 + 2 * part * bases @ vectors.T
    return ((bases @ target)[:, None] + part * (vectors @ target)) / np.sqrt(np.maximum(squares, 1e-6))


def _standard(scores: np.ndarray) -> np.ndarray:
    """Each row with mean 0 and standard deviation 1."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    return centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-12)


def inflections(text: Parsed, words: Words) -> Iterator[Edit]:
    """Words replaced by forms of theirs that are not known, in turns."""
    return _in_turns(
        *([text.replacement(number, _like(word, form)) for form in words.inflected(word)] for number, word in enumerate(text.words))
    )


def _in_turns(*kinds: Iterable[Edit]) -> Iterator[Edit]:
    """The first edit of each kind, then the second ones, and so on: a long text has more edits of each than are tried."""
    return (it for it in chain.from_iterable(zip_longest(*kinds)) if it is not None)


def _like(word: str, form: str) -> str:
    """A form in lower case, with a capital if the word has one."""
    return form[0].upper() + form[1:] if word[0].isupper() else form
