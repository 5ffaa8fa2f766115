"""Correction: hill climbing from the best candidates of a vector, judged by re-embedding.

In each round, a decoder that learned to correct rewrites the best hypotheses. Texts that this did not improve are edited:
words are moved, get other endings or are replaced by words of other candidates, and tokens by others that the decoder finds
probable. Two edits move a text's vector by nearly the sum of what each does alone, so the best pairs are predicted from single
edits before any pair is embedded. The search follows the cosine alone, because the way to the right text leads through
improbable ones; the final ranking also uses the decoder's log-probability.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, repeat, zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from v2t_cli.core.similarity import unit_rows
from v2t_cli.decoding.candidates import Candidate, embed_unique, rank
from v2t_cli.decoding.edits import Edit, Span, apply, borrow, borrowings, disjoint, endings, last_letters, rearrangements
from v2t_cli.decoding.generate import generate
from v2t_cli.decoding.search import FittedSearch
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.inverter import Hypotheses, Inverter, log_likelihood, logit_batches
from v2t_cli.models.language_model import pad, tokenize

TOP_TOKENS = 12  # of the decoder at each place, to replace the token there or to precede it
LENDERS = 24  # other candidates whose words are tried
BORROWED = 12  # words of other candidates to try, at most
SINGLES_PER_PAIR = 4  # single edits for each pair that is embedded
LETTERS = 8  # word endings to try
KEPT = 8  # new texts per vector and round
PAIRED = 24  # the best single edits, which are combined into pairs


@dataclass
class _Pool:
    """The search for one vector. rewritten, edited: texts that were already rewritten or edited."""

    candidates: list[Candidate]  # nearest first; the log-probability of new ones is nan until the end
    seen: set[str]
    rewritten: set[str] = field(default_factory=set)
    edited: set[str] = field(default_factory=set)
    calls: int = 0

    def unseen(self, texts: Iterable[str], limit: int) -> list[str]:
        """The first `limit` texts that are new; from now on they are seen."""
        new = [text for text in dict.fromkeys(texts) if text and text not in self.seen][: max(0, limit)]
        self.seen.update(new)
        return new

    def new(self, text: str, edits: Iterable[Edit], limit: int) -> tuple[list[Edit], list[str]]:
        """The first `limit` edits whose texts are new, and these texts."""
        kept: list[Edit] = []
        texts: list[str] = []
        for edit in edits:
            if len(texts) >= limit:
                break
            edited = apply(text, edit)
            if edited and edited not in self.seen:
                self.seen.add(edited)
                kept.append(edit)
                texts.append(edited)
        return kept, texts


class _Hypothesis(NamedTuple):
    """A text to correct, and the row of its vector."""

    row: int
    candidate: Candidate


def _by_cosine(candidate: Candidate) -> float:
    return -candidate.nearness


_Found = tuple[int, float, str, np.ndarray]  # row of the vector, cosine, text, its own vector


class Corrector:
    """Improves candidates: the decoder proposes, the encoder decides."""

    def __init__(self, inverter: Inverter, tokenizer: Any, encoder: Encoder, search: FittedSearch):
        self.inverter, self.tokenizer, self.encoder, self.search = inverter, tokenizer, encoder, search
        self.rewrites = search.rewrites if inverter.difference is not None else 0
        self._surfaces: dict[int, str] = {}
        # Some tokenizers drop the blank before a first token, so tokens are decoded after this one.
        self._anchor = tokenize(tokenizer, ["a"])[0][:-1]

    def correct(self, vectors: np.ndarray, rows: list[list[Candidate]]) -> list[int]:
        """Add better texts to the re-embedded candidates of each vector, and rank them again.

        vectors: float32 (len(rows), dim). A vector is finished when a candidate reaches search.until_cosine, when its best
        search.width candidates have all been corrected, or after search.rounds rounds or search.encoder_calls texts.
        Returns how many texts were embedded for each vector.
        """
        search = self.search
        unit = unit_rows(vectors)
        target = torch.from_numpy(vectors).to(self.inverter.device)
        pools = [_Pool(sorted(row, key=_by_cosine), {candidate.text for candidate in row}) for row in rows]
        for _ in range(search.rounds):
            best = {row: pool.candidates[0] for row, pool in enumerate(pools) if pool.candidates[0].nearness < search.until_cosine}
            rewriting = self._choose(pools, best, lambda pool: pool.rewritten) if self.rewrites else []
            _add(self._rewrite(rewriting, target, unit, pools), pools)
            # Edits cost many more texts than rewrites, so they are for vectors that rewriting did not improve.
            stuck = [row for row, candidate in best.items() if pools[row].candidates[0] is candidate]
            editing = self._choose(pools, stuck, lambda pool: pool.edited) if search.edits else []
            _add(self._edit(editing, target, unit, pools), pools)
            if not rewriting and not editing:
                break
        self._conclude(rows, pools, target)
        return [pool.calls for pool in pools]

    def _choose(self, pools: list[_Pool], rows: Iterable[int], done: Callable[[_Pool], set[str]]) -> list[_Hypothesis]:
        """The best candidates of these rows that were not corrected yet, within the number of texts left to embed."""
        chosen = []
        for row in rows:
            pool = pools[row]
            for candidate in pool.candidates[: max(0, min(self.search.width, self.search.encoder_calls - pool.calls))]:
                if candidate.text not in done(pool):
                    done(pool).add(candidate.text)
                    chosen.append(_Hypothesis(row, candidate))
        return chosen

    def _budgets(self, hypotheses: list[_Hypothesis], pools: list[_Pool]) -> dict[int, int]:
        """For each row: how many texts may still be embedded for each of its hypotheses."""
        counts = Counter(hypothesis.row for hypothesis in hypotheses)
        return {row: (self.search.encoder_calls - pools[row].calls) // count for row, count in counts.items()}

    def _vectors(self, groups: list[list[str]]) -> list[np.ndarray]:
        """The vectors of each group of texts, (texts, dim). All groups are embedded together."""
        vectors = embed_unique(self.encoder, list(chain.from_iterable(groups)))
        return np.split(vectors, np.cumsum([len(group) for group in groups])[:-1])

    def _rewrite(self, hypotheses: list[_Hypothesis], target: Tensor, unit: np.ndarray, pools: list[_Pool]) -> list[_Found]:
        """Rewrite each hypothesis with a decoder that learned to correct."""
        budget = self._budgets(hypotheses, pools)
        groups = [
            pools[hypothesis.row].unseen(texts, budget[hypothesis.row])
            for hypothesis, texts in zip(hypotheses, self._rewritten(hypotheses, target))
        ]
        found: list[_Found] = []
        for (row, _), texts, vectors in zip(hypotheses, groups, self._vectors(groups)):
            pools[row].calls += len(texts)
            found += zip(repeat(row), (unit_rows(vectors) @ unit[row]).tolist(), texts, vectors)
        return found

    def _rewritten(self, hypotheses: list[_Hypothesis], target: Tensor) -> list[list[str]]:
        """What the decoder writes after each hypothesis, the most probable first; nothing if it does not fit."""
        out: list[list[str]] = [[] for _ in hypotheses]
        rows = tokenize(self.tokenizer, [candidate.text for _, candidate in hypotheses])
        # Half of the positions for the hypothesis, half for its correction: the result must not depend on the batch.
        limit = self.inverter.n_correction_positions
        room = self.search.max_new_tokens if limit is None else min(self.search.max_new_tokens, limit // 2)
        fits = [i for i, row in enumerate(rows) if limit is None or len(row) <= limit - room]
        if not (fits and room):
            return out
        device = target.device
        vectors = torch.from_numpy(np.array([hypotheses[i].candidate.vector for i in fits])).to(device)
        read = Hypotheses(vectors, *pad([rows[i] for i in fits], self.tokenizer.pad_token_id, device, left=True))
        search = self.search.model_copy(update={"strategy": "beam", "beams": self.rewrites, "max_new_tokens": room})
        owners = torch.tensor([hypotheses[i].row for i in fits], device=device)
        for i, found in zip(fits, generate(self.inverter, self.tokenizer, target[owners], search, read)):
            out[i] = [written.text for written in found]
        return out

    def _edit(self, hypotheses: list[_Hypothesis], target: Tensor, unit: np.ndarray, pools: list[_Pool]) -> list[_Found]:
        """Try single edits of each hypothesis, then the most promising pairs of them."""
        budget = self._budgets(hypotheses, pools)
        singles = []
        for (row, candidate), of_tokens in zip(hypotheses, self._token_edits(hypotheses, target)):
            # Take turns. Moved words get two turns, because they are right most often.
            others = [other.text for other in pools[row].candidates[:LENDERS]]
            borrowed, letters = borrow(candidate.text, others, BORROWED), last_letters(others, LETTERS)
            reordered = rearrangements(candidate.text)
            others_words = chain.from_iterable(zip_longest(endings(candidate.text, letters), borrowings(candidate.text, borrowed)))
            turns = zip_longest(reordered, of_tokens, reordered, others_words)
            mixed = (edit for turn in turns for edit in turn if edit is not None)
            singles.append(pools[row].new(candidate.text, mixed, min(self.search.edits, budget[row])))
        found: list[_Found] = []
        pairs = []
        for (row, candidate), (edits, texts), vectors in zip(hypotheses, singles, self._vectors([texts for _, texts in singles])):
            cosines = unit_rows(vectors) @ unit[row]
            found += zip(repeat(row), cosines.tolist(), texts, vectors)
            assert candidate.vector is not None  # re-embedded
            promising = _pairs(edits, vectors, cosines, candidate.vector, unit[row])
            pairs.append(pools[row].new(candidate.text, promising, min(self.search.edits // SINGLES_PER_PAIR, budget[row] - len(texts)))[1])
            pools[row].calls += len(texts) + len(pairs[-1])
        for (row, _), texts, vectors in zip(hypotheses, pairs, self._vectors(pairs)):
            found += zip(repeat(row), (unit_rows(vectors) @ unit[row]).tolist(), texts, vectors)
        return found

    def _conclude(self, rows: list[list[Candidate]], pools: list[_Pool], target: Tensor) -> None:
        """Add the best new texts to the old ones, with their log-probability, and rank them all."""
        limit = self.inverter.n_positions or np.inf
        owners: list[int] = []
        new: list[Candidate] = []
        ids: list[list[int]] = []
        for number, pool in enumerate(pools):
            found = [candidate for candidate in pool.candidates if math.isnan(candidate.logprob)]
            rows_of_ids = tokenize(self.tokenizer, [candidate.text for candidate in found])
            fits = [i for i, row in enumerate(rows_of_ids) if len(row) <= limit]
            arrived = pool.candidates[0].nearness >= self.search.until_cosine
            fits = fits[: max(1 if arrived else 2 * (self.search.width + 1), self.search.candidates)]
            owners += [number] * len(fits)
            new += [found[i] for i in fits]
            ids += [rows_of_ids[i] for i in fits]
        logprobs = log_likelihood(self.inverter, target, ids, np.array(owners, dtype=np.int64), self.tokenizer.pad_token_id)
        for number, candidate, logprob in zip(owners, new, logprobs.tolist()):
            rows[number].append(replace(candidate, logprob=logprob))
        for number in set(owners):
            rank(rows[number], self.search.logprob_weight, self.search.until_cosine)

    def _token_edits(self, hypotheses: list[_Hypothesis], target: Tensor) -> list[list[Edit]]:
        """Replace, insert and delete tokens of each hypothesis, the best edits first.

        An edit is judged by the log-probability of the new token minus that of the old one, from one teacher-forced pass.
        """
        rows = tokenize(self.tokenizer, [hypothesis.candidate.text for hypothesis in hypotheses])
        limit = self.inverter.n_positions or np.inf
        fits = np.array([i for i, row in enumerate(rows) if len(row) <= limit], dtype=np.int64)
        out: list[list[Edit]] = [[] for _ in rows]
        for batch in logit_batches(self.inverter, np.array([len(rows[i]) for i in fits], dtype=np.int64)):
            with torch.inference_mode():
                ids, _ = pad([rows[i] for i in fits[batch]], self.tokenizer.pad_token_id, self.inverter.device)
                owners = torch.tensor([hypotheses[i].row for i in fits[batch]], device=target.device)
                logprobs = self.inverter.logits(target[owners], ids).log_softmax(dim=-1)  # (batch, time, vocabulary)
                own = logprobs.gather(-1, ids[..., None])[..., 0].tolist()
                following = logprobs.gather(-1, ids.roll(-1, dims=1)[..., None])[..., 0].tolist()
                values, tokens = (top.tolist() for top in logprobs.topk(min(TOP_TOKENS, logprobs.shape[-1]), dim=-1))
            for j, i in enumerate(fits[batch]):
                row, places = rows[i], self._places(rows[i], hypotheses[i].candidate.text)
                ranked: list[tuple[float, Edit]] = []
                for time, place in enumerate(places):
                    if place is None:
                        continue
                    end = places[time + 1] if time + 1 < len(places) else None
                    for value, token in zip(values[j][time], tokens[j][time]):
                        new = self._surface(token)
                        if token == row[time] or not new:
                            continue
                        ranked.append((value, (Span(place, place, new),)))
                        if end is not None:
                            ranked.append((value - own[j][time], (Span(place, end, new),)))
                    if end is not None:
                        ranked.append((following[j][time] - own[j][time], (Span(place, end, ""),)))
                ranked.sort(key=lambda it: -it[0])
                out[i] = [edit for _, edit in ranked]
        return out

    def _places(self, row: list[int], text: str) -> list[int | None]:
        """Where each token of the row, end-of-text included, begins in the text; None inside a character.

        Empty if decoding the tokens does not give the text back, except for a blank before it.
        """
        parts = [self.tokenizer.decode(row[:time], skip_special_tokens=True) for time in range(len(row))]
        shift = 0 if parts[-1] == text else 1
        if parts[-1][shift:] != text:
            return []
        return [None if part.endswith("\ufffd") else max(0, len(part) - shift) for part in parts]

    def _surface(self, token: int) -> str:
        """The token as it looks after another one; empty for special tokens, blanks and parts of a character."""
        if token not in self._surfaces:
            before, both = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in (self._anchor, [*self._anchor, token]))
            new = both[len(before) :]
            self._surfaces[token] = new if new.isprintable() and new.strip() and "\ufffd" not in new else ""
        return self._surfaces[token]


def _add(found: list[_Found], pools: list[_Pool]) -> None:
    """Add the nearest texts of each vector to its candidates; their log-probability is not known yet."""
    nearest: dict[int, list[_Found]] = {}
    for it in sorted(found, key=lambda it: -it[1]):
        if len(nearest.setdefault(it[0], [])) < KEPT:
            nearest[it[0]].append(it)
    for number, best in nearest.items():
        # A copy, because the view would keep the vectors of all found texts in memory.
        pools[number].candidates += [Candidate(text, math.nan, cosine, vector.copy()) for _, cosine, text, vector in best]
        pools[number].candidates.sort(key=_by_cosine)


def _pairs(edits: list[Edit], vectors: np.ndarray, cosines: np.ndarray, own: np.ndarray, target: np.ndarray) -> Iterator[Edit]:
    """Pairs of edits, by their expected cosine: as if each moved the text's vector as it does alone.

    vectors, cosines: (n, dim) and (n,), of the edited texts; own: (dim,), of the text itself; target: (dim,), of length 1.
    """
    best = np.argsort(-cosines)[:PAIRED]
    if len(best) < 2:
        return
    moves = vectors[best] - own
    sums = own + moves[:, None] + moves[None]  # (n, n, dim)
    expected = sums @ target / np.maximum(np.linalg.norm(sums, axis=-1), 1e-12)
    left, right = np.triu_indices(len(best), 1)
    for i in np.argsort(-expected[left, right]):
        one, other = edits[best[left[i]]], edits[best[right[i]]]
        if disjoint(one, other):
            yield one + other
