import numpy as np
import pytest
from tiny import SENTENCES, Counting

from v2t_cli.core.similarity import row_cosine
from v2t_cli.decoding.candidates import UNKNOWN_COST, Candidate, Ranking, Row, embed_unique, rerank
from v2t_cli.models.lexicon import Lexicon

LEXICON = Lexicon(["мама", "дома"], [2, 1], [(".", 3)])


def test_logprob_counts_unless_a_text_reaches_until_cosine():
    near, likely, there = Candidate("абв", -40.0, 0.95), Candidate("где", -5.0, 0.94), Candidate("тут", -90.0, 1.0)
    row = [near, likely, there]
    Ranking(0.001, 0.9999).sort(row)
    assert row == [there, likely, near]
    Ranking(0.0, 0.9999).sort(row)
    assert row == [there, near, likely]
    Ranking(0.001, 2.0).sort(row)
    assert row == [likely, there, near], "no text reaches that, so the log-probability of all counts"


def test_unknown_words_cost():
    base = 0.2
    known = Candidate("Мама дома 5.", -9.0, base)
    one = Candidate("Мамо дома.", -9.0, base + 0.5 * UNKNOWN_COST)
    two = Candidate("Мамо доме.", -9.0, base + 1.75 * UNKNOWN_COST)
    row = [two, one, known]
    ranking = Ranking(0.0, 0.9999, LEXICON)
    ranking.sort(row)
    assert row == [known, two, one]
    assert [ranking.by_cosine(it) for it in row] == pytest.approx([-base, 0.25 * UNKNOWN_COST - base, 0.5 * UNKNOWN_COST - base])
    cheaper = Ranking(0.0, 0.9999, LEXICON, unknown_cost=0.1 * UNKNOWN_COST)
    cheaper.sort(row)
    assert row == [two, one, known]
    row.reverse()
    for free in (Ranking(0.0, 0.9999), Ranking(0.0, 0.9999, Lexicon([], [], [])), Ranking(0.0, base, LEXICON)):
        free.sort(row)
        assert row == [two, one, known], "without a lexicon, and for texts that reach until_cosine, they cost nothing"


def test_the_nearest_come_first_whatever_their_log_probability():
    row = [Candidate("мама", -1.0, 0.5), Candidate("дома", float("nan"), 0.6), Candidate("мамо", -900.0, 0.55 + UNKNOWN_COST)]
    assert [it.text for it in sorted(row, key=Ranking(1.0, 0.9999, LEXICON).by_cosine)] == ["дома", "мамо", "мама"]


def test_reranked_candidates_carry_their_own_vectors(encoder):
    rows = [Row(i, [Candidate(text, -1.0) for text in texts]) for i, texts in enumerate((SENTENCES[:3], SENTENCES[2:4]))]
    target = encoder.encode([SENTENCES[1], SENTENCES[2]])
    rerank(rows, target, encoder, Ranking(0, 1))
    assert [row.best.text for row in rows] == SENTENCES[1:3] and [row.encoder_calls for row in rows] == [3, 2]
    for row, vector in zip(rows, target):
        expected = encoder.encode([candidate.text for candidate in row.candidates])
        np.testing.assert_allclose([candidate.vector for candidate in row.candidates], expected, atol=1e-5)
        cosines = [candidate.cosine for candidate in row.candidates]
        assert cosines == pytest.approx(row_cosine(expected, np.stack([vector] * len(cosines))).tolist(), abs=1e-5)
        assert cosines == sorted(cosines, reverse=True)


def test_equal_texts_are_embedded_once(encoder):
    counting = Counting(encoder)
    texts = [SENTENCES[0], SENTENCES[1], SENTENCES[0]]
    np.testing.assert_allclose(embed_unique(counting.encode, texts), encoder.encode(texts), atol=1e-5)
    assert counting.texts == SENTENCES[:2]
    assert embed_unique(counting.encode, []).shape == (0, encoder.identity.dim)


def test_the_best_candidate_is_the_first():
    assert Row(0, [Candidate("a", -2.0), Candidate("b", -1.0)]).best.text == "a"
