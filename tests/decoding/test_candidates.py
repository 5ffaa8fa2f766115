import numpy as np
import pytest
from tiny import SENTENCES, Counting

from v2t_cli.core.similarity import row_cosine
from v2t_cli.decoding.candidates import Candidate, Row, embed_unique, rank, rerank


def test_logprob_counts_unless_a_text_reaches_until_cosine():
    near, likely, there = Candidate("абв", -40.0, 0.95), Candidate("где", -5.0, 0.94), Candidate("тут", -90.0, 1.0)
    row = [near, likely, there]
    rank(row, 0.001, 0.9999)
    assert row == [there, likely, near]
    rank(row, 0.0, 0.9999)
    assert row == [there, near, likely]
    rank(row, 0.001, 2.0)
    assert row == [likely, there, near], "no text reaches that, so the log-probability of all counts"


def test_reranked_candidates_carry_their_own_vectors(encoder):
    rows = [[Candidate(text, -1.0) for text in texts] for texts in (SENTENCES[:3], SENTENCES[2:4])]
    target = encoder.encode([SENTENCES[1], SENTENCES[2]])
    rerank(rows, target, encoder, 0, 1)
    assert [row[0].text for row in rows] == SENTENCES[1:3]
    for row, vector in zip(rows, target):
        expected = encoder.encode([candidate.text for candidate in row])
        np.testing.assert_allclose([candidate.vector for candidate in row], expected, atol=1e-5)
        cosines = [candidate.cosine for candidate in row]
        assert cosines == pytest.approx(row_cosine(expected, np.stack([vector] * len(row))).tolist(), abs=1e-5)
        assert cosines == sorted(cosines, reverse=True)


def test_equal_texts_are_embedded_once(encoder):
    counting = Counting(encoder)
    texts = [SENTENCES[0], SENTENCES[1], SENTENCES[0]]
    np.testing.assert_allclose(embed_unique(counting, texts), encoder.encode(texts), atol=1e-5)
    assert counting.texts == SENTENCES[:2]


def test_the_best_candidate_is_the_first():
    assert Row(0, [Candidate("a", -2.0), Candidate("b", -1.0)]).best.text == "a"
