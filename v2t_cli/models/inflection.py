"""Forms of words that a lexicon lacks, made by analogy.

Endings stand for one another: where a word ends in "-ал", its language mostly has another in "-али". So a text that the encoder knows
may hold a form that no training text has, most often in a language with many forms, such as Russian. How often each ending comes with
each other one is counted in the lexicon itself, which needs no knowledge of the language.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import expm1, log1p
from pathlib import Path
from typing import NamedTuple

from v2t_cli.core.console import log
from v2t_cli.core.errors import V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.io.atomic import replacing
from v2t_cli.io.hashes import sealed, unsealed
from v2t_cli.io.texts import fingerprint
from v2t_cli.models.vector_cache import cache_folder

STEM = 3  # letters, at least, that forms share
ENDING = 4  # letters, at most, in which they differ
CONTEXT = 2  # letters before an ending that tell more about it
CROWD = 40  # endings of a stem, at most: with more it is no stem, but how many words begin
DOUBT = 3  # words that an ending would need to say as much as the same ending with one letter less of context
SUREST = 0.95  # probability that an ending comes with another, at most: no other word makes sure of a form
LIKELY = 0.01  # and at least
# For the forms of a whole lexicon:
SEEN = 3  # times that an ending must have come with another
USUAL = 0.05  # probability of that, at least
PROBABLE = 0.4  # probability of a form, at least
METHOD = 1  # changes whenever other forms are made of the same words


class Form(NamedTuple):
    """A word and the probability that there is such a word."""

    word: str
    probability: float


def cached_forms(words: list[str], folder: str | None) -> list[str]:
    """As `unseen_forms`, which takes seconds for a large lexicon: what it made is kept in a file, if that can be written.

    folder: as for `cache_folder`.
    """
    from filelock import FileLock

    forms = None
    try:
        path = cache_folder(folder) / f"{fingerprint(words).sha256[:32]}.forms.json"
        with FileLock(path.with_suffix(".lock")):  # lets the processes of a run make them only once
            if (forms := _read(path)) is None:
                log.info(f"making forms of {len(words):,} words")
                forms = unseen_forms(words)
                with replacing(path) as stream:
                    stream.write(sealed({"method": METHOD, "forms": forms}))
    except (V2TError, OSError) as error:  # should not keep anybody from decoding
        log.warning(f"{one_line(error)}; the next run will have to make forms of {len(words):,} words again")
    return unseen_forms(words) if forms is None else forms


def _read(path: Path) -> list[str] | None:
    """The forms in a file; None if there are none, or those of another method."""
    try:
        made = unsealed(path.read_bytes())
        return made["forms"] if made["method"] == METHOD else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        log.warning(f"{path}: damaged ({one_line(error)}); making the forms anew")
        return None


def unseen_forms(words: list[str]) -> list[str]:
    """Probable forms of these words that are not among them, whatever the case; the most probable first.

    A form keeps the capital of a name.
    """
    known = {word.lower() for word in words}
    out: dict[str, str] = {}
    for form, probability in Inflection(words, SEEN, USUAL).forms(words):
        if probability < PROBABLE:
            break
        if form.lower() not in known:
            out.setdefault(form.lower(), form)
    return list(out.values())


class Inflection:
    """How likely a word with one ending has another form with another ending, as the words of a lexicon show it."""

    def __init__(self, words: Iterable[str], seen: int = 1, likely: float = LIKELY):
        """seen: times that an ending must have come with another; likely: probability of that, at least."""
        self._seen, self._likely = seen, likely
        self._count: Counter[tuple[str, str]] = Counter()  # words with a context and an ending
        self._with: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)  # and of these, those that have another ending
        self._known: dict[tuple[str, str], dict[str, float]] = {}  # probabilities
        for stem, endings in _endings(words).items():
            for letters in range(CONTEXT + 1):
                context = stem[len(stem) - letters :]
                for ending in endings:
                    self._count[context, ending] += 1
                    if len(endings) > 1:
                        self._with[context, ending].update([other for other in endings if other[:1] != ending[:1]])

    def forms(self, words: Iterable[str]) -> list[Form]:
        """Forms that these words together make likely, some of which may be among them; the likeliest first."""
        against: defaultdict[str, float] = defaultdict(float)  # logarithm of the probability that there is no such word
        for stem, endings in _endings(words).items():
            for ending in endings:
                for other, probability in self._probabilities(stem[-CONTEXT:], ending).items():
                    if probability >= self._likely:
                        against[stem + other] += log1p(-min(SUREST, probability))
        ranked = sorted(against.items(), key=lambda it: (it[1], it[0]))
        return [Form(form, -expm1(doubt)) for form, doubt in ranked]

    def _probabilities(self, context: str, ending: str) -> dict[str, float]:
        """Of each other ending, that a word with this context and ending has another form with it."""
        if (found := self._known.get((context, ending))) is None:
            count, others = self._count[context, ending], self._with.get((context, ending), Counter())
            if context:
                shorter = self._probabilities(context[1:], ending)
                found = {other: (others[other] + DOUBT * it) / (count + DOUBT) for other, it in shorter.items()}
            else:
                found = {other: times / (count + DOUBT) for other, times in others.items() if times >= self._seen}
            self._known[context, ending] = found
        return found


def _endings(words: Iterable[str]) -> dict[str, list[str]]:
    """The endings that each stem has."""
    out: defaultdict[str, list[str]] = defaultdict(list)
    for word in words:
        if word.isalpha():
            for letters in range(min(ENDING, len(word) - STEM) + 1):
                stem = len(word) - letters
                out[word[:stem]].append(word[stem:])
    return {stem: endings for stem, endings in out.items() if len(endings) <= CROWD}
