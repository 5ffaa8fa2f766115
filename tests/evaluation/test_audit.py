"""What an audit measures."""

from contextlib import contextmanager

import numpy as np
import pytest
from tiny import SENTENCES

from v2t_cli.core.config import DecodeConfig
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.audit import audit, decode_with_noise, neighbours_kept, outcomes, trust, word_recalls
from v2t_cli.evaluation.entities import KINDS
from v2t_cli.evaluation.evaluate import Sample, evaluate

PAIRS = [
    Sample("Анна купила 3 яблока.", "Анна купила 3 яблока.", 1.0),
    Sample("Вчера Пётр уехал в Москву.", "вчера Пётр уехал в Москву", 0.97),
    Sample("Он пьёт чай. Она пьёт кофе.", "Они пьют напитки", 0.92),
    Sample("The train leaves at 10:45.", "Кот спит.", 0.1),
]


def test_each_text_counts_once():
    found = {it.how: (it.count, it.fraction) for it in outcomes(PAIRS)}
    assert found == {"exactly": (1, 0.25), "nearly": (1, 0.25), "in meaning": (1, 0.25), "not": (1, 0.25)}
    blind = [Sample(pair.source, pair.text, None) for pair in PAIRS]
    assert {it.how: it.count for it in outcomes(blind)} == {"exactly": 1, "nearly": 1, "in meaning": 0, "not": 2}


def test_texts_without_words_are_not_nearly_the_same():
    found = {it.how: it.count for it in outcomes([Sample("???", "!!!", 0.2), Sample("😀", "", 0.95)])}
    assert found == {"exactly": 0, "nearly": 0, "in meaning": 1, "not": 1}


def test_recall_by_kind():
    found = {recall.kind: (recall.recovered, recall.n) for recall in word_recalls(PAIRS)}
    assert found["all words"] == (4 + 5, 4 + 5 + 6 + 6)
    known = {recall.kind: recall.n for recall in word_recalls(PAIRS, known=["в москву в москву в москву"])}
    assert known["rare words"] == found["rare words"][1] - 2, "words of the training texts are not rare"


def test_an_occurrence_is_recovered_once():
    (words, *_) = word_recalls([Sample("да да да", "да", 0.5)])
    assert (words.recovered, words.n) == (1, 3)


def test_trust_counts_the_rows_at_or_above_a_cosine():
    found = {it.cosine: (it.exact, it.rows) for it in trust(PAIRS)}
    assert found == {0.999: (1, 1), 0.99: (1, 1), 0.95: (1, 2), 0.9: (1, 3), 0.8: (1, 3)}


def test_noise_makes_decoding_and_search_worse(opened, encoder):
    vectors, search = encoder.encode(SENTENCES[:30]), fit(opened, resolve_search(DecodeConfig(beams=2, feedback=0, rounds=0)))
    evaluation = evaluate(opened, SENTENCES[:30], vectors, search)
    steps, totals = [], []

    @contextmanager
    def track(description, total):
        totals.append(total)
        yield steps.append

    first, *_, last = found = decode_with_noise(opened, evaluation.pairs, vectors, search, track=track)
    assert sum(steps) == 4 * 30 and totals == [4 * 30]
    assert first.noise == 0 and first.exact_match == pytest.approx(evaluation.scores.exact_match) and first.texts == 30
    assert first.interval[0] < first.exact_match <= first.interval[1]
    assert last.exact_match < first.exact_match and last.cosine < first.cosine and last.neighbours < first.neighbours == 1
    again = decode_with_noise(opened, evaluation.pairs, vectors, search)
    assert again == found, "the noise follows the seed"


def test_the_best_and_the_worst(opened, encoder):
    vectors, search = encoder.encode(SENTENCES[:30]), fit(opened, resolve_search(DecodeConfig(beams=2, feedback=0, rounds=0)))
    findings = audit(evaluate(opened, SENTENCES[:30], vectors, search))
    assert findings.noise is None, "not measured"
    assert [pair.cosine for pair in findings.worst] == sorted(pair.cosine for pair in findings.worst)
    assert findings.best[0].cosine >= findings.median[0].cosine >= findings.worst[0].cosine
    assert [it.kind for it in findings.recalls] == [*KINDS, "all words", "rare words"]


def test_an_audit_without_an_encoder(loaded, encoder):
    vectors, search = encoder.encode(SENTENCES[:8]), fit(loaded, resolve_search(DecodeConfig()))
    evaluation = evaluate(loaded, SENTENCES[:8], vectors, search)
    findings, noise = audit(evaluation), decode_with_noise(loaded, evaluation.pairs, vectors, search)
    assert findings.trust == [] and [it.cosine for it in noise] == [None] * len(noise)
    assert sum(it.count for it in findings.outcomes) == 8


def test_neighbours_that_are_still_found():
    rng = np.random.default_rng(0)
    vectors, noise = rng.normal(size=(40, 64)).astype(np.float32), rng.normal(size=(40, 64))
    assert neighbours_kept(vectors, 2 * vectors) == 1 and neighbours_kept(vectors[:1], vectors[:1]) is None
    found = [neighbours_kept(vectors, vectors + length * noise) for length in (0.3, 3.0, 1e6)]
    assert found[0] > found[1] > found[2] == pytest.approx(10 / 39, abs=0.08), "in the end the ten are any ten of the 39 others"


def test_blanks_at_the_end_of_a_text_leave_it_exact():
    pairs = [Sample("да ", "да", 1.0), Sample("нет", "да", 0.1)]
    assert [(it.how, it.count) for it in outcomes(pairs)][0] == ("exactly", 1) and trust(pairs)[0].exact == 1
