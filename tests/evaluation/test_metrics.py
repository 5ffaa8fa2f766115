import math

import numpy as np
import pytest
from tiny import SENTENCES

from v2t_cli.evaluation.metrics import ratio_interval, score_texts, token_f1, wilson_interval


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [("а б в", "а б в", 1), ("а б", "в г", 0), ("а а б", "а б б", 2 / 3), ("", "", 1), ("", "а", 0), ("а", "а б в", 0.5)],
)
def test_token_f1(generated, reference, expected):
    assert token_f1(generated, reference) == pytest.approx(expected)


def test_exact_texts_score_full_marks():
    scores = score_texts(SENTENCES[:5], SENTENCES[:5], np.ones(5))
    assert (scores.exact_match, scores.token_f1, scores.cosine) == (1, 1, 1)
    assert scores.bleu == pytest.approx(100) and scores.chrf == pytest.approx(100)
    assert scores.intervals["exact_match"] == (1, 1)


def test_scores_without_cosines_and_without_intervals():
    scores = score_texts(SENTENCES[:5], SENTENCES[1:6], None)
    assert scores.cosine is None and set(scores.intervals) == {"exact_match", "same_words", "bleu", "chrf", "token_f1"}
    assert score_texts(SENTENCES[:5], SENTENCES[1:6], None, resamples=0).intervals == {}


def test_texts_that_differ_in_case_and_blanks_alone_are_counted():
    scores = score_texts(["да , ёлка", "Нет.", "Нет"], ["Да, Ёлка", "Нет.", "Нет."], None)
    assert (scores.exact_match, scores.same_words) == pytest.approx((1 / 3, 2 / 3))


def test_bleu_and_chrf_are_those_of_sacrebleu():
    import sacrebleu

    generated, references = [*SENTENCES[:20], *SENTENCES[40:60]], SENTENCES[:40]
    scores = score_texts(generated, references, None, resamples=0)
    assert scores.bleu == pytest.approx(sacrebleu.corpus_bleu(generated, [references]).score)
    assert scores.chrf == pytest.approx(sacrebleu.corpus_chrf(generated, [references]).score)


def test_a_bootstrap_interval_is_that_of_the_binomial():
    hits = np.zeros(400)
    hits[:100] = 1
    low, high = ratio_interval(hits, np.ones(400))
    deviation = math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - 1.96 * deviation, abs=0.01) and high == pytest.approx(0.25 + 1.96 * deviation, abs=0.01)


def test_intervals_hold_the_scores():
    generated = [*SENTENCES[:20], *SENTENCES[40:60]]
    scores = score_texts(generated, SENTENCES[:40], np.linspace(0, 1, 40))
    for name, (low, high) in scores.intervals.items():
        assert low < getattr(scores, name) < high, name


def test_the_interval_of_none_or_all_has_a_width():
    """Compared with the interval of Wilson 1927 as others compute it (R's prop.test without its correction)."""
    low, high = wilson_interval(0, 30)
    assert low == 0 and high == pytest.approx(0.1135, abs=1e-4)
    assert wilson_interval(30, 30) == pytest.approx((1 - high, 1)) and wilson_interval(15, 30) == pytest.approx((0.3315, 0.6685), abs=1e-4)


def test_blanks_at_the_ends_and_control_characters_do_not_count():
    """Decoded texts have none, so no decoder could write such a text."""
    scores = score_texts(["да", "нет же", "a"], [" да ", "нет\tже\x07", "b"], None, resamples=0)
    assert scores.exact_match == pytest.approx(2 / 3)


def test_short_texts_that_are_right_have_full_bleu():
    assert score_texts(["Да.", "Мы дома."], ["Да.", "Мы дома."], None, resamples=0).bleu == pytest.approx(100)
    assert score_texts(["Да.", "Мы тут."], ["Да.", "Мы дома."], None, resamples=0).bleu < 80
    assert "eff:no" in score_texts(["Мы давно уже дома."], ["Мы давно уже дома."], None).bleu_signature, "the usual BLEU elsewhere"
