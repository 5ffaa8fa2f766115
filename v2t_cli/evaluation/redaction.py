"""Masks for what the texts of a report say about persons: names, numbers and the like."""

from __future__ import annotations

from dataclasses import replace

from v2t_cli.decoding.candidates import SureWord
from v2t_cli.evaluation.audit import Findings
from v2t_cli.evaluation.entities import NEVER, EntityFinder
from v2t_cli.evaluation.evaluate import Evaluation, Sample
from v2t_cli.evaluation.leak import Example, Leak
from v2t_cli.models.lexicon import WORD, Lexicon

MASKS = {"names": "name", "numbers": "number", "dates": "date", "phone numbers": "phone", "addresses": "address"}
RARE_WORD, RARE = "rare word", 10  # occurrences in the training texts: a word with fewer is rare


class Redactor:
    """Masks the entities that EntityFinder finds, and words that may be names which it misses.

    These are the words of the names in the other text of the pair, words that the lexicon spells with a capital, and words that are
    rare in the training texts. Masks look like `[name 1]`. In a pair the same text has the same number, so that one sees what came back.
    """

    def __init__(self, lexicon: Lexicon):
        self._lexicon, self._finder = lexicon, EntityFinder(lexicon)

    def evaluation(self, evaluation: Evaluation) -> Evaluation:
        """With masked samples; without any if the checkpoint has no lexicon, since names cannot be found then."""
        return replace(evaluation, samples=self._samples(evaluation.samples))

    def findings(self, findings: Findings) -> Findings:
        """Like `evaluation`."""
        worst, median, best = map(self._samples, (findings.worst, findings.median, findings.best))
        return replace(findings, worst=worst, median=median, best=best)

    def leak(self, leak: Leak) -> Leak:
        """Like `evaluation`, with masked examples."""
        telling, plain, likely, unlikely = map(self._examples, (leak.telling, leak.plain, leak.likely, leak.unlikely))
        return replace(leak, telling=telling, plain=plain, likely=likely, unlikely=unlikely)

    def _samples(self, samples: list[Sample]) -> list[Sample]:
        return [self.sample(it) for it in samples] if len(self._lexicon) else []

    def sample(self, pair: Sample) -> Sample:
        """The pair with masks. A mask is as sure as the least sure word that it hides."""
        names = self._names(pair.source, pair.text)
        numbers: dict[tuple[str, str], int] = {}
        source, _ = self._mask(pair.source, [], names, numbers)
        text, words = self._mask(pair.text, pair.words or [], names, numbers)
        return replace(pair, source=source, text=text, words=None if pair.words is None else words)

    def _examples(self, examples: list[Example]) -> list[Example]:
        return [self.example(it) for it in examples] if len(self._lexicon) else []

    def example(self, example: Example) -> Example:
        """The row with masks, as sure as in `sample`, and without its id, which may be a name."""
        text, words = self._mask(example.text, example.words or [], self._names(example.text), {})
        return replace(example, id=None, text=text, words=None if example.words is None else words)

    def _names(self, *texts: str) -> set[str]:
        """The words of the names in the texts, in lower case."""
        entities = [it for text in texts for it in self._finder.find(text)]
        return {word.lower() for it in entities if it.kind == "names" for word in WORD.findall(it.text)}

    def _mask(self, text: str, words: list[SureWord], names: set[str], numbers: dict[tuple[str, str], int]) -> tuple[str, list[SureWord]]:
        """names: in lower case, masked wherever they stand; numbers: those of the masks, by kind and text."""
        matches = list(WORD.finditer(text))
        spans = [(it.start, it.end, MASKS[it.kind]) for it in self._finder.find(text)]
        for match in matches:
            word = match.group().lower()
            kind = "name" if word in names or self._is_capital(word) else RARE_WORD if self._is_rare(word) else None
            touching = [it for it in spans if it[0] < match.end() and match.start() < it[1]]
            if touching:  # what was found may be a part of the word
                whole = min(match.start(), *(it[0] for it in touching)), max(match.end(), *(it[1] for it in touching)), touching[0][2]
                spans = [it for it in spans if it not in touching] + [whole]
            elif kind:
                spans.append((*match.span(), kind))
        sure = {match.start(): word for match, word in zip(matches, words)}
        parts, of_parts, end = [], [], 0
        for start, stop, kind in sorted(spans):
            number = numbers.setdefault((kind, text[start:stop].lower()), 1 + sum(known == kind for known, _ in numbers))
            mask = f"[{kind} {number}]"
            least = min((it.probability for place, it in sure.items() if start <= place < stop), default=0.0)
            parts += [text[end:start], mask]
            of_parts += [it for place, it in sure.items() if end <= place < start]
            of_parts += [SureWord(word, least) for word in WORD.findall(mask)]
            end = stop
        of_parts += [it for place, it in sure.items() if place >= end]
        return "".join([*parts, text[end:]]), of_parts

    def _is_capital(self, word: str) -> bool:
        place = self._lexicon.place(word)
        return place is not None and not self._lexicon.words[place].islower() and word not in NEVER

    def _is_rare(self, word: str) -> bool:
        place = self._lexicon.place(word)
        return place is None or self._lexicon.counts[place] < RARE
