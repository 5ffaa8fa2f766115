from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES, Counting

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.similarity import unit_rows
from v2t_cli.decoding import feedback as module
from v2t_cli.decoding.candidates import Candidate, Row, rerank
from v2t_cli.decoding.corrector import Corrector
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.feedback import BEAMS, STEP, Feedback
from v2t_cli.decoding.generate import candidates_of
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.vectors import Block


def search(checkpoint, **settings):
    return fit(checkpoint, resolve_search(DecodeConfig(**{"quality": "balanced", "rounds": 0, "feedback": 3, **settings})))


@pytest.fixture
def searches():
    """The settings of each pass."""
    return []


@pytest.fixture
def given(monkeypatch, searches):
    """What the decoder is given at each pass: (rows, dim)."""
    passes = []

    def recorded(inverter, tokenizer, vectors, search):
        assert vectors.dtype == torch.float32
        passes.append(vectors.numpy().copy())
        searches.append(search)
        return candidates_of(inverter, tokenizer, vectors, search)

    monkeypatch.setattr(module, "candidates_of", recorded)
    return passes


def test_errors_add_up(opened, encoder, given):
    vectors = 3 * unit_rows(encoder.encode(SENTENCES[:3]))
    before = vectors.copy()
    first, second = unit_rows(encoder.encode(SENTENCES[3:6])), unit_rows(encoder.encode(SENTENCES[6:8]))
    feedback = Feedback(opened.inverter, opened.tokenizer, search(opened), vectors)
    texts = feedback.write([0, 1, 2], first)
    feedback.write([2, 0], 7 * second)  # whatever their length, it is that of the wanted vectors
    moved = vectors + STEP * (vectors - 3 * first)
    np.testing.assert_allclose(given[0], moved, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(given[1], moved[[2, 0]] + STEP * (vectors[[2, 0]] - 3 * second), rtol=1e-5, atol=1e-6)
    assert np.array_equal(vectors, before), "what is wanted stays"
    assert [1 <= len(set(of_row)) == len(of_row) <= BEAMS for of_row in texts] == [True] * 3


def test_what_the_encoder_reads_as_wanted_is_written_again_for_the_same_vector(opened, encoder, given):
    vectors = encoder.encode(SENTENCES[:1])
    Feedback(opened.inverter, opened.tokenizer, search(opened), vectors).write([0], vectors)
    np.testing.assert_allclose(given[0], vectors, rtol=1e-5, atol=1e-6)


def corrected(checkpoint, start, truth, **settings):
    """The row of a vector after correction, the texts that were embedded for it, and the best cosine at the start."""
    fitted, encoder = search(checkpoint, **settings), Counting(checkpoint.encoder)
    checkpoint.open_words(2**17)
    row, target = Row(0, [Candidate(text, -10.0) for text in start]), encoder.encode([truth])
    corrector = Corrector(checkpoint.inverter, checkpoint.tokenizer, encoder, checkpoint.words, fitted)
    rerank([row], target, encoder, corrector.ranking)
    before, encoder.texts = row.best.cosine, []
    corrector.correct([row], target)
    assert row.encoder_calls - len(start) == len(encoder.texts)
    return row, encoder.texts, before


def test_the_decoder_improves_on_what_it_wrote(opened, given):
    """From its own texts, and without edits: so nothing is said about words. The log-probabilities are those for the wanted vector."""
    truth = "Кот спит."
    target = torch.from_numpy(opened.encoder.encode([truth]))
    start = [it.text for it in candidates_of(opened.inverter, opened.tokenizer, target, search(opened))[0]]
    row, texts, before = corrected(opened, start, truth, feedback=6, logprob_weight=0)
    assert len(given) == 6 and before < row.best.cosine and row.best.text in texts
    assert row.words is None and all(np.isfinite(it.logprob) for it in row.candidates)
    (alone,) = (it for it in corrected(opened, [row.best.text], truth, feedback=0)[0].candidates)
    assert alone.cosine == pytest.approx(row.best.cosine, abs=1e-6)


def test_each_pass_is_told_of_the_nearest_text_of_the_last(opened, given, monkeypatch):
    """Whether that is new or not."""
    truth, near, far, start = SENTENCES[0], SENTENCES[1], "Да", "Кот спит."
    passes = iter([[near, far], [far], [near, far], [near]])

    def written(inverter, tokenizer, vectors, search):
        given.append(vectors.numpy().copy())
        return [[Candidate(text, -1.0) for text in next(passes)]]

    monkeypatch.setattr(module, "candidates_of", written)
    _, texts, _ = corrected(opened, [start], truth, feedback=4, until_cosine=1.0)
    assert texts == [near, far]
    target, of_near, of_far, of_start = opened.encoder.encode([truth, near, far, start])
    assert unit_rows(of_near[None]) @ target > unit_rows(of_far[None]) @ target
    expected = target.copy()
    for vectors, error in zip(given, (of_start, of_near, of_far, of_near), strict=True):
        expected += STEP * (target - np.linalg.norm(target) * error / np.linalg.norm(error))
        np.testing.assert_allclose(vectors[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"beams": 2}, {"beams": 8}, {"beams": 32}, {"beams": 8, "strategy": "sample"}])
@pytest.mark.usefixtures("given")
def test_it_takes_no_more_sequences_than_the_batch_allows(opened, encoder, searches, settings):
    list(decode(opened, [Block(0, encoder.encode(["Совсем другой текст."]))], search(opened, until_cosine=1.0, **settings)))
    assert {(it.strategy, it.beams) for it in searches} == {("beam", min(settings["beams"], BEAMS))}


def test_no_text_is_embedded_twice_and_no_more_than_allowed(opened):
    start = ["Кот спит.", "Дом."]
    _, texts, _ = corrected(opened, start, SENTENCES[0], feedback=6, until_cosine=1.0)
    assert len(texts) == len({*texts, *start}) - len(start) > BEAMS // 2
    for limit in (0, 1, 3):
        assert len(corrected(opened, start, SENTENCES[0], feedback=6, until_cosine=1.0, encoder_calls=limit)[1]) == limit


def test_finished_vectors_are_left_alone(opened, given):
    row, texts, _ = corrected(opened, [SENTENCES[0]], SENTENCES[0], until_cosine=0.999)
    assert row.best.text == SENTENCES[0] and not texts and not given


def test_rows_do_not_depend_on_those_beside_them(opened, encoder):
    """Whether these are finished sooner or not; a vector of zeros does no harm."""
    vectors = np.concatenate([encoder.encode([*SENTENCES[:6], "Совсем другой текст, длинный и странный."]), np.zeros((1, DIM), np.float32)])
    fitted = search(opened)
    together = [row.best.text for row in decode(opened, [Block(0, vectors)], fitted)]
    alone = [row.best.text for i in range(len(vectors)) for row in decode(opened, [Block(i, vectors[i : i + 1])], fitted)]
    assert together == alone


def test_without_an_encoder_nothing_is_written_again(loaded, encoder, given):
    bare = replace(loaded, encoder=None)
    assert [row.best.cosine for row in decode(bare, [Block(0, encoder.encode(SENTENCES[:2]))], search(bare))] == [None, None]
    assert not given
