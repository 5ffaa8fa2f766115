"""Correction: from the best candidates of a vector to better ones, judged by re-embedding.

First the decoder writes again, with what its last text lacked added to its input. A best-first search follows: in each round the most
promising texts of each vector are edited. Words are replaced by words of the lexicon that the vector, the decoder, and the gradient of an
encoder that has one, call for, or by other forms of theirs; words are inserted, deleted and put in another order, as the decoder expects
them; marks, case and tokens change. The single edits are embedded; from what each does to the vector, the best sums of them are
predicted and embedded too. A text may be edited again, more thoroughly, when the others have become less promising. The search follows
the cosine, because the way to the right text leads through improbable ones. That way can also end among texts that nobody would write,
so where four texts or more are edited in a round, a quarter of them are chosen by the decoder's log-probability, too. The final ranking
uses it as well, and shuns words that do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from v2t_cli.core.similarity import unit_rows
from v2t_cli.decoding import orders
from v2t_cli.decoding.candidates import Candidate, Ranking, Row, embed_unique
from v2t_cli.decoding.casing import blindness, recase, without_blanks
from v2t_cli.decoding.certainty import EXPLORED, sure_words
from v2t_cli.decoding.edits import Edit, Parsed, apply
from v2t_cli.decoding.feedback import Feedback
from v2t_cli.decoding.proposals import NEAR, Effort, Gradients, Wanted, details, inflections, prior, rewordings, share
from v2t_cli.decoding.reading import Reader, Reading
from v2t_cli.decoding.search import FittedSearch
from v2t_cli.decoding.sums import sums
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.inverter import Inverter, log_likelihood
from v2t_cli.models.language_model import tokenize
from v2t_cli.models.words import Words

EFFORTS = (1, 4, 12)  # times decode.edits: when a text is edited for the first, second and third time
AGAIN = 0.1, 0.0005  # how much less promising a text is each time: this part of what it lacks to 1, and this much cosine
UNKNOWN_IN_SEARCH = 0.05  # cosine that an unknown word costs a text to edit: the way to the right text may lead through such words
SPELLED = 0.97  # cosine from which tokens may make words that nobody knows
PROBABLE = 0.001  # cosine that a nat of a text's log-probability is worth, when texts to edit are chosen
READ = 40  # new texts per vector and round, the nearest ones, whose log-probability may matter
KEPT = 12  # of these, by each promise
POOL = 40  # texts per vector, by each promise
CONCLUDED = 8  # texts whose log-probability decides in the end, at most


@dataclass
class _Search:
    """The search for one vector: its candidates, nearest first; the log-probability of new ones is nan until it is needed.

    explored: cosines and texts, the nearest of those that were embedded; edited: how often each text was edited; key: what the
    encoder sees of a text; seen: the keys of what was embedded.
    """

    candidates: list[Candidate]
    wanted: Wanted
    explored: list[tuple[float, str]]
    key: Callable[[str], str]
    seen: set[str]
    edited: dict[str, int] = field(default_factory=dict)
    calls: int = 0

    def take(self, text: str) -> bool:
        """Whether the encoder has not seen a text that looks like this one; from now on it has."""
        key = self.key(text)
        new = bool(text) and key not in self.seen
        self.seen.add(key)
        return new

    def fresh(self, text: str, edits: Iterable[Edit], limit: int) -> tuple[list[Edit], list[str]]:
        """The first `limit` edits whose texts are new, and these texts."""
        made = ((it, edited) for it in edits if self.take(edited := apply(text, it)))
        kept = list(islice(made, limit))
        return [it for it, _ in kept], [edited for _, edited in kept]

    def judge(self, texts: list[str], vectors: np.ndarray) -> list[Candidate]:
        """The nearest of newly embedded texts, the nearest first, at most READ.

        vectors: (len(texts), dim), of length 1.
        """
        cosines = vectors @ self.wanted.target
        self.explored += zip(cosines.tolist(), texts)
        # A copy, because a view would keep the vectors of all texts in memory.
        return [Candidate(texts[i], math.nan, float(cosines[i]), vectors[i].copy()) for i in np.argsort(-cosines)[:READ]]


class _Task(NamedTuple):
    """A text to edit, with its vector of length 1, and how thoroughly."""

    row: int
    text: Parsed
    own: np.ndarray
    cosine: float
    effort: Effort


class Corrector:
    """Improves candidates: lexicon and decoder propose, the encoder decides."""

    def __init__(self, inverter: Inverter, tokenizer: Any, encoder: Encoder, words: Words, search: FittedSearch):
        self.inverter, self.tokenizer, self.encoder, self.words, self.search = inverter, tokenizer, encoder, words, search
        self.ranking = Ranking(search.logprob_weight, search.until_cosine, words.lexicon)
        promising = Ranking(PROBABLE, search.until_cosine, words, UNKNOWN_IN_SEARCH)  # forms cost something only in the end
        self._promise = promising.by_cosine
        # What promises that a text leads to the right one, and how many texts are edited in a round for this promise.
        by_both = search.width // 4
        self._promises = [(self._promise, search.width - by_both), *([(promising.by_both, by_both)] if by_both else [])]
        self.reader = Reader(inverter, tokenizer)
        self.blind = blindness(encoder)
        self._nearly_there = search.until_cosine - encoder.draft_error

    def correct(self, rows: list[Row], vectors: np.ndarray) -> None:
        """Add better texts to the re-embedded candidates of each row, rank them again, and say how sure the words are.

        vectors: float32 (len(rows), dim). A row is finished when a candidate reaches search.until_cosine, when there is
        nothing left to edit, or after search.rounds rounds of edits, fewer if its text is long, or search.encoder_calls texts. Beside
        these, the few drafts that may win are embedded again.
        """
        targets = torch.from_numpy(vectors).to(self.inverter.device)
        state = self._begin(unit_rows(vectors), rows)
        if self.search.feedback:
            self._write_again(state, vectors, targets)
        for number in range(self.search.rounds if self.search.edits_texts else 0):
            tasks = [task for i, row in enumerate(state) if number < self._rounds(row) for task in self._choose(i, row)]
            if not tasks:
                break
            self._edit(tasks, state, targets, first=number == 0)
        self._conclude(rows, state, targets)
        for row, found in zip(rows, state):
            row.encoder_calls += found.calls
            if self.search.edits_texts:
                row.words = sure_words(row.best, sorted(found.explored, reverse=True), self.search.until_cosine)

    def _begin(self, unit: np.ndarray, rows: list[Row]) -> list[_Search]:
        out = []
        for target, row in zip(unit, rows):
            borrowed = {word.lower() for it in row.candidates for word in Parsed(it.text).words}
            places = sorted(place for place in map(self.words.place, borrowed) if place is not None)
            candidates = sorted(row.candidates, key=self._promise)
            explored = [(it.nearness, it.text) for it in candidates]
            wanted = Wanted(target, np.array(places, dtype=np.int64))
            out.append(_Search(candidates, wanted, explored, self._key, {self._key(it.text) for it in candidates}))
        return out

    def _write_again(self, state: list[_Search], vectors: np.ndarray, targets: Tensor) -> None:
        """Let the decoder write again, search.feedback times, for the vectors that are not finished."""
        feedback = Feedback(self.inverter, self.tokenizer, self.search, vectors)
        known = [{self._key(it.text): it.unit_vector for it in row.candidates} for row in state]
        last = [row.candidates[0].unit_vector for row in state]  # of the texts of the last pass, the nearest
        for _ in range(self.search.feedback):
            going = [i for i, row in enumerate(state) if not self._finished(row)]
            if not going:
                break
            written = feedback.write(going, np.stack([last[i] for i in going]))
            texts = [list(islice(filter(state[i].take, of_row), self._left(state[i]))) for i, of_row in zip(going, written)]
            found = {}
            for i, of_row, new, embedded in zip(going, written, texts, self._embed(texts)):
                found[i] = state[i].judge(new, embedded)
                state[i].calls += len(new)
                known[i].update(zip(map(self._key, new), embedded))
                of_pass = [vector for text in of_row if (vector := known[i].get(self._key(text))) is not None]
                last[i] = max(of_pass, key=state[i].wanted.target.dot, default=last[i])
            self._keep(state, found, targets)

    def _rounds(self, row: _Search) -> int:
        """How many rounds of edits a vector gets: fewer while its nearest text is long, because each takes longer then."""
        return max(1, round(self.search.rounds * share(len(Parsed(row.candidates[0].text)))))

    def _left(self, row: _Search) -> int:
        """Texts that may still be embedded for a vector."""
        return max(0, self.search.encoder_calls - row.calls)

    def _finished(self, row: _Search) -> bool:
        return row.candidates[0].nearness >= self.search.until_cosine or not self._left(row)

    def _key(self, text: str) -> str:
        """What the encoder sees of a text: texts that are equal in this need not be embedded twice."""
        if not self.blind.to_case:
            return text
        return without_blanks(text.lower()) if self.blind.to_blanks else text.lower()

    def _choose(self, number: int, row: _Search) -> list[_Task]:
        """The most promising texts of a vector that is not finished."""
        if self._finished(row):
            return []
        left = {it.text: it for it in row.candidates if row.edited.get(it.text, 0) < len(EFFORTS)}
        out = []
        for promise, count in self._promises:
            for it in nsmallest(count, left.values(), key=lambda it: promise(it) + self._tired(row, it)):
                del left[it.text]
                times = row.edited.get(it.text, 0)
                row.edited[it.text] = times + 1
                effort = Effort(self.search.edits * EFFORTS[times], thorough=times > 0)
                out.append(_Task(number, Parsed(it.text), it.unit_vector, it.nearness, effort))
        return out

    def _tired(self, row: _Search, candidate: Candidate) -> float:
        """How much less promising a text is, because it was edited."""
        return row.edited.get(candidate.text, 0) * (AGAIN[0] * (1 - candidate.nearness) + AGAIN[1])

    def _edit(self, tasks: list[_Task], state: list[_Search], targets: Tensor, first: bool) -> None:
        """Try single edits of each text, then the most promising sums of them; keep the nearest of what they make."""
        owners = torch.tensor([task.row for task in tasks], device=targets.device)
        shortlists = self.words.shortlists(
            np.stack([state[task.row].wanted.target for task in tasks]),
            np.stack([task.own for task in tasks]),
            np.array([1 / (len(task.text) + 1) for task in tasks], dtype=np.float32),
            np.array([prior(task.cosine, task.effort) for task in tasks], dtype=np.float32),
        )
        wanted = [state[task.row].wanted.places for task in tasks]
        places = [self.words.near(task.text.words, np.union1d(*of_task)) for task, *of_task in zip(tasks, shortlists, wanted)]
        spellings = [[self.words.spellings[place] for place in of_task] for of_task in places]
        readings = self.reader.read([task.text for task in tasks], targets[owners], spellings)
        parts = zip(places, readings, self._gradients(tasks, state))
        singles = [self._singles(task, state[task.row], *of_task, first) for task, of_task in zip(tasks, parts)]
        texts_of_singles = [texts for _, texts in singles]
        vectors = self._embed(texts_of_singles)
        combined = []
        for task, (edits, _), of_singles in zip(tasks, singles, vectors):
            row = state[task.row]
            likely = sums(edits, of_singles, task.own, row.wanted.target)
            combined.append(row.fresh(task.text.text, likely, min(task.effort.sums, self._left(row)))[1])
            row.calls += len(combined[-1])
        found: dict[int, list[Candidate]] = {}
        for texts, embedded in ((texts_of_singles, vectors), (combined, self._embed(combined))):
            for task, of_task, rows in zip(tasks, texts, embedded):
                found.setdefault(task.row, []).extend(state[task.row].judge(of_task, rows))
        self._keep(state, found, targets)

    def _keep(self, state: list[_Search], found: dict[int, list[Candidate]], targets: Tensor) -> None:
        """Add the most promising of the new texts of each row to its candidates."""
        self._confirm([(state[number], it) for number, new in found.items() for it in new if it.nearness >= self._nearly_there])
        nearest = {number: nsmallest(READ, new, key=self._promise) for number, new in found.items()}
        if len(self._promises) > 1:
            self._read(nearest, targets)
        for number, new in nearest.items():
            row = state[number]
            row.explored = nlargest(EXPLORED, row.explored)
            readable = [it for it in new if it.logprob != -math.inf]
            row.candidates = self._most_promising([*row.candidates, *self._most_promising(readable, KEPT)], POOL)

    def _most_promising(self, candidates: list[Candidate], count: int) -> list[Candidate]:
        """The first `count` by each promise, the nearest first."""
        out = {it.text: it for promise, _ in self._promises for it in nsmallest(count, candidates, key=promise)}
        return sorted(out.values(), key=self._promise)

    def _read(self, of_rows: dict[int, list[Candidate]], targets: Tensor) -> None:
        """Find out the log-probability of the candidates that have none: -inf if a text does not fit the decoder."""
        unread = [(number, it) for number, candidates in of_rows.items() for it in candidates if math.isnan(it.logprob)]
        owners = np.array([number for number, _ in unread], dtype=np.int64)
        ids = tokenize(self.tokenizer, [it.text for _, it in unread])
        logprobs = log_likelihood(self.inverter, targets, ids, owners, self.tokenizer.pad_token_id)
        for (_, it), logprob in zip(unread, logprobs.tolist()):
            it.logprob = logprob

    def _gradients(self, tasks: list[_Task], state: list[_Search]) -> list[Gradients | None]:
        """Of the cosine of each text by its words, if the encoder has gradients."""
        encoder = self.encoder.gradients
        if encoder is None:
            return [None] * len(tasks)
        targets = np.stack([state[task.row].wanted.target for task in tasks])
        found = encoder.of_words([task.text.text for task in tasks], targets, [task.text.spans for task in tasks])
        return [Gradients(of_words, encoder) for of_words in found]

    def _singles(
        self, task: _Task, row: _Search, places: np.ndarray, reading: Reading, gradients: Gradients | None, first: bool
    ) -> tuple[list[Edit], list[str]]:
        """The single edits to try, and their texts, which count as embedded."""
        text, effort = task.text, task.effort
        kinds: list[tuple[Iterable[Edit], int]] = [
            (details(text, task.cosine, self.words.lexicon.ends, effort, first), effort.details(len(text))),
            (map(text.reordered, orders.ranked(reading.junctions)), effort.orders(len(text))),
            (text.digits(), effort.edits),
            (rewordings(text, task.own, row.wanted, places, reading.context, self.words, effort, gradients), effort.edits),
            (self._spelled(task, reading.edits[: 3 * effort.tokens]), effort.tokens),
        ]
        if self.search.inflect and effort.thorough and task.cosine > NEAR:
            kinds.append((inflections(text, self.words), effort.edits))
        edits: list[Edit] = []
        texts: list[str] = []
        for of_kind, limit in kinds:
            new = row.fresh(text.text, of_kind, min(limit, self._left(row)))
            edits += new[0]
            texts += new[1]
            row.calls += len(new[1])
        return edits, texts

    def _spelled(self, task: _Task, of_tokens: list[Edit]) -> Iterable[Edit]:
        """Token edits without those that make words which are not known, unless the text is so near that one may be a name."""
        if task.cosine > SPELLED:
            return of_tokens
        unknown = len(self.words.unknown(task.text.text))
        return (it for it in of_tokens if len(self.words.unknown(apply(task.text.text, it))) <= unknown)

    def _embed(self, groups: list[list[str]]) -> list[np.ndarray]:
        """The vectors of each group of texts, of length 1, (texts, dim). All groups are embedded together."""
        vectors = unit_rows(embed_unique(self.encoder.draft, list(chain.from_iterable(groups))))
        return np.split(vectors, np.cumsum([len(group) for group in groups])[:-1])

    def _confirm(self, drafts: list[tuple[_Search, Candidate]]) -> None:
        """Replace vectors that were drafts by exact ones: these decide whether a text has arrived, and which text wins."""
        if not self.encoder.draft_error or not drafts:
            return
        exact = unit_rows(embed_unique(self.encoder.encode, [it.text for _, it in drafts]))
        for (row, it), vector in zip(drafts, exact):
            cosine = float(vector @ row.wanted.target)
            row.explored = [(cosine if text == it.text else other, text) for other, text in row.explored]
            it.cosine, it.vector = cosine, vector
            row.calls += 1

    def _conclude(self, rows: list[Row], state: list[_Search], targets: Tensor) -> None:
        """Add the best new texts to the old ones, with their log-probability, and rank them all."""
        limit = self.inverter.n_positions or np.inf
        best: dict[int, list[Candidate]] = {}
        for number, row in enumerate(state):
            old = {it.text for it in rows[number].candidates}
            found = [it for it in row.candidates if it.text not in old]
            if len(self._promises) > 1:
                self.ranking.sort(found)
            else:  # their log-probability is not known
                found.sort(key=self.ranking.by_cosine)
            tokens = tokenize(self.tokenizer, [it.text for it in found])
            arrived = sum(it.nearness >= self.search.until_cosine for it in row.candidates)
            fits = [it for it, of_text in zip(found, tokens) if len(of_text) <= limit]
            if fits:
                best[number] = fits[: max(arrived or CONCLUDED, self.search.candidates)]
        self._confirm([(state[number], it) for number, new in best.items() for it in new if it.nearness < self._nearly_there])
        self._read(best, targets)
        for number, new in best.items():
            rows[number].candidates += new
            self.ranking.sort(rows[number].candidates)
        if self.blind.to_case and (edited := sorted(best)):
            winners = [rows[number].best for number in edited]
            texts, lexicon = [it.text for it in winners], self.words.lexicon
            recased = recase(texts, targets[edited], self.inverter, self.tokenizer, lexicon, self.blind.to_blanks)
            for number, it, text, logprob in zip(edited, winners, *recased):
                if not math.isfinite(logprob):  # the text no longer fits the decoder
                    continue
                it.text, it.logprob = text, logprob
                rows[number].candidates = [other for other in rows[number].candidates if other is it or other.text != text]
