"""Entities: the names, numbers, dates, phone numbers and addresses in a text, which a leak of vectors should not give away.

The rules are the same for English and Russian. They find most entities, not all. A rule does not see what an earlier one found.

- **Addresses** are e-mail and web addresses: `anna@example.org`, `https://example.org/a`, `www.example.org`, `example.com`.
- **Phone numbers** have 7 to 15 digits: after a plus, in groups (`415-555-0134`, `+7 916 123-45-67`, `(415)555-0134`), or 10 or 11
  digits in one piece. `1 200 500` is a number, `1939-1945` are two.
- **Dates** are `2017-03-01`, `2017/03/01`, `12.05.2019`, `3/15/2019`, `12-05-2019`; a day with a month, or a month with a year or
  alone (`March 8th`, `8th of March`, `8 марта 2019`, `в марте`); a day of the week (`Friday`, `в среду`). `May`, `March` and `Марта`
  alone count only where they cannot be another word. A year alone is a number; `tomorrow` is none of these.
- **Numbers** are words with a digit, with their currency, per cent sign or ending: `5`, `1,200.50`, `1 200`, `$18.76`, `5 €`, `5:30`,
  `10th`, `14-го`, `5B`. A minus sign is left out, since it may be a dash. Number words (`five`) do not count. A house number is a
  number, not a part of the street's name.
- **Names** are words with a capital letter that the lexicon hardly knows in lower case, of people, places, companies, titles and
  others (`American`). The lexicon has each word in its most frequent spelling.
  - Inside a sentence, a word with a capital is a name unless the lexicon spells it in lower case and it is among the COMMON most
    frequent words.
  - The word that begins a sentence has a capital anyway. It is a name if the lexicon spells it with a capital, or knows neither it nor
    a word with the same stem.
  - Neighbours are one name (`Anna Smith`, `East Thomas Road`), even if they are common words (`Cool Girl`), unless one begins the
    sentence. Everything else between two names separates them: a comma, a number, `of`.
  - Never names: the words of NEVER, and single letters beside no name.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from v2t_cli.evaluation.metrics import Recall
from v2t_cli.models.lexicon import LAST, Lexicon, begins_sentence

KINDS = ("names", "numbers", "dates", "phone numbers", "addresses")
COMMON = 500
STEM = 4, 0.6  # letters at least, and the part of the letters, that words with the same stem share at their beginning
NEVER = {"i", "вы", "вас", "вам", "вами", "ваш", "ваша", "ваше", "ваши"}  # pronouns, written with a capital
NEVER |= {"вашего", "вашей", "вашему", "вашу", "вашим", "вашем", "ваших", "вашими"}
NEVER |= {"mr", "mrs", "ms", "dr", "prof", "ok", "tv", "am", "pm", "id"}

_DAY, _YEAR = r"\d{1,2}(?:st|nd|rd|th|-?го|-?е)?", r"(?:19|20)\d\d\b"
_FULL_MONTH = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december"
    r"|(?:январ|феврал|апрел|июн|июл|сентябр|октябр|ноябр|декабр)(?:[ьяюе]|[её]м)|(?:март|август)(?:[ауе]|ом)?|ма(?:[йяюе]|ем))\b"
)
_MONTH = rf"(?:{_FULL_MONTH}|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
_MONTH_ALONE = (
    rf"(?:(?!may\b|march\b|марта?\b|ма[йяюе]){_FULL_MONTH}"
    r"|(?-i:(?<=[\w,] )March\b|(?<=(?:[Ii]n|[Oo]f|[Bb]y) )May\b|(?<=(?:[Nn]ext|[Ll]ast|[Tt]his) )May\b|марта?\b|ма(?:[йяюе]|ем)\b))"
)
_WEEKDAY = (
    r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?|(?:понедельник|вторник|четверг)(?:[ауеи]|ом|ам|ах)?"
    r"|(?:пятниц|суббот)(?:[аыуе]|ей|ой|ам|ах)|воскресень(?:[еяю]|ем|ям|ях)|(?<=в )среду|(?<=по )средам)\b"
)
_RULES = (
    (
        "addresses",
        r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?i:https?://|www\.)[^\s<>\"»]*[\w/]"
        r"|(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?i:com|org|net|ru|io|gov|edu)\b",
    ),
    ("dates", rf"\b\d{{4}}([-/])\d{{1,2}}\1\d{{1,2}}\b|\b\d{{1,2}}([./])\d{{1,2}}\2(?:\d{{4}}|\d\d)\b|\b\d{{1,2}}-\d{{1,2}}-{_YEAR}"),
    (
        "phone numbers",
        rf"(?<![\w.,])(?:\+\d[\d\s().-]{{5,20}}\d|(?!{_YEAR}-{_YEAR}|\d{{1,3}}(?:\s\d{{3}})+\b(?![\s-]\d))"
        r"\(?\d{1,5}\)?(?:(?:[\s.-]{1,2}|(?<=\))|(?=\())\(?\d{2,5}\)?){1,5}|\d{10,11})(?![\w-]|[.,]\d)",
    ),
    (
        "dates",
        rf"(?i)\b{_DAY}(?:\s+of)?\s+{_MONTH}(?:,?\s+{_YEAR})?|\b{_MONTH}\s+(?:{_YEAR}|(?:the\s+)?{_DAY}\b(?![:.,]\d)(?:,?\s+{_YEAR})?)"
        rf"|\b{_WEEKDAY}|\b{_MONTH_ALONE}",
    ),
    (
        "numbers",
        r"(?:[$€£₽]\s?|(?<!\w))(?:\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\w)(?:[.,]\d+)?"
        r"|\w*\d\w*(?:[.,:/]\d+\w*)*(?:-(?:й|я|е|го|му|ти|х|м|ми)\b)?)(?:%|\s?[$€£₽](?!\d))?",
    ),
)
_PATTERNS = [(kind, re.compile(pattern)) for kind, pattern in _RULES]
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_FOUND = "\0"  # in place of each character that an earlier rule found


@dataclass(frozen=True, order=True)
class Entity:
    """What a text holds at start:end; kind: one of KINDS."""

    start: int
    end: int
    kind: str
    text: str


class EntityFinder:
    """Finds entities with the words of a lexicon. If it is empty, names are not found."""

    def __init__(self, lexicon: Lexicon):
        self.kinds = KINDS if len(lexicon) else KINDS[1:]
        self._lexicon = lexicon
        self._small = sorted(filter(str.islower, lexicon.words))

    def find(self, text: str) -> list[Entity]:
        """The entities of a text, in order; they do not overlap."""
        found: list[Entity] = []
        left = text
        for kind, pattern in _PATTERNS:

            def take(match: re.Match[str], kind: str = kind) -> str:
                if kind == "phone numbers" and not 7 <= sum(map(str.isdecimal, match.group())) <= 15:
                    return match.group()
                found.append(Entity(*match.span(), kind, match.group()))
                return _FOUND * len(match.group())

            left = pattern.sub(take, left)
        return sorted([*found, *self._names(left)])

    def recalls(self, sources: Sequence[str], texts: Sequence[str]) -> list[Recall]:
        """For each kind how many entities of the sources stand in the decoded texts, letter by letter, and as often."""
        total: Counter[str] = Counter()
        found: Counter[str] = Counter()
        for source, text in zip(sources, texts):
            entities = Counter((it.kind, it.text) for it in self.find(source))
            there = Counter((it.kind, it.text) for it in self.find(text)) if entities else Counter()
            left = text
            # A name may begin a sentence here and stand inside one there, or with more words: look for its letters, the longest first.
            for (kind, entity), count in sorted(entities.items(), key=lambda it: -len(it[0][1])):
                recovered = min(count, there[kind, entity])
                if kind == "names":
                    left, recovered = re.subn(rf"(?<![\w-]){re.escape(entity)}(?!-?\w)", _FOUND, left, count=count)
                total[kind] += count
                found[kind] += recovered
        return [Recall.of(kind, total[kind], found[kind]) for kind in self.kinds]

    def _names(self, text: str) -> Iterator[Entity]:
        if "names" not in self.kinds:
            return
        capitals_only = not any(map(str.islower, text))
        for run in _runs(text):
            begins = [capitals_only or begins_sentence(text, match.start()) for match in run]
            names = [self._is_name(match.group(), begin) for match, begin in zip(run, begins)]
            inside = [not begin and match.group().lower() not in NEVER for match, begin in zip(run, begins)]
            if any(names) or sum(inside) > 1:
                names = [name or other for name, other in zip(names, inside)]
            for is_name, group in groupby(zip(run, names), key=lambda it: it[1]):
                if is_name:
                    matches = [match for match, _ in group]
                    start, end = matches[0].start(), matches[-1].end()
                    end -= 2 * text[start:end].endswith(("'s", "’s"))
                    yield Entity(start, end, "names", text[start:end])

    def _is_name(self, word: str, begins: bool) -> bool:
        """Whether a word with a capital is a name for itself; what joins it to others is not looked at."""
        parts = re.split(r"[-'’]", word)
        part = next((part for part in parts if len(part) > 1 and part[0].isupper()), None)  # the second one of O'Hare
        if part is None or {parts[0].lower(), part.lower()} & NEVER:
            return False
        place = self._lexicon.place(part)
        if place is None:
            return not (begins and self._knows_stem(part.lower()))
        return not self._lexicon.words[place].islower() or (not begins and place >= COMMON)

    def _knows_stem(self, word: str) -> bool:
        """Whether the lexicon has another form of this word in lower case."""
        stem = word[: max(STEM[0], round(STEM[1] * len(word)))]
        longest = 2 * len(word) - len(stem) + 1
        alike = self._small[bisect_left(self._small, stem) : bisect_left(self._small, stem + LAST)]
        return any(len(other) <= longest for other in alike)


def _runs(text: str) -> list[list[re.Match[str]]]:
    """The words with a capital, those together between which nothing but blanks stands."""
    runs: list[list[re.Match[str]]] = []
    for match in _WORD.finditer(text):
        if match.group()[0].isupper():
            if runs and not text[runs[-1][-1].end() : match.start()].strip(" "):
                runs[-1].append(match)
            else:
                runs.append([match])
    return runs
