import json

import numpy as np
import pytest
import torch
from conftest import DIM, SENTENCES

from v2t_cli.core.config import DecodeConfig, EncoderConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.decode import check_vectors, decode
from v2t_cli.decoding.search import Candidate, Row, resolve_search
from v2t_cli.io.vectors import Block, grid
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.encoder import open_encoder, row_cosine
from v2t_cli.pipelines.formats import formatter


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_checkpoint(checkpoint, torch.device("cpu"))


@pytest.fixture(scope="module")
def encoder(labse):
    return open_encoder(EncoderConfig(model=str(labse)), "cpu")


@pytest.fixture(scope="module")
def target(encoder):
    return encoder.encode(SENTENCES[:12])


def search(**settings):
    return resolve_search(DecodeConfig(**{"quality": "fast", "max_new_tokens": 24, **settings}))


def test_it_learned_to_invert(loaded, encoder, target):
    rows = list(decode(loaded, [Block(0, target)], search(quality="balanced"), encoder))
    exact = np.mean([row.best.text == text for row, text in zip(rows, SENTENCES)])
    assert exact >= 0.8, [row.best.text for row in rows]


def test_rows_come_in_order_whatever_the_chunks_and_batches(loaded, target):
    whole = list(decode(loaded, [Block(0, target)], search()))
    pieces = list(decode(loaded, [Block(rows.start, target[rows.start : rows.stop]) for rows in grid(12, 5)], search(batch_size=2)))
    assert [row.index for row in pieces] == list(range(12))
    assert [row.best.text for row in pieces] == [row.best.text for row in whole]
    np.testing.assert_allclose([r.best.logprob for r in pieces], [r.best.logprob for r in whole], atol=1e-3)


def test_one_beam_is_greedy(loaded, target):
    greedy = [row.best.text for row in decode(loaded, [Block(0, target)], search())]
    assert greedy == [row.best.text for row in decode(loaded, [Block(0, target)], search(strategy="beam", beams=1))]


def test_beams_find_texts_at_least_as_likely(loaded, target):
    greedy = [row.best.logprob for row in decode(loaded, [Block(0, target)], search())]
    beam = [row.best.logprob for row in decode(loaded, [Block(0, target)], search(strategy="beam", beams=6))]
    assert all(b >= g - 1e-3 for b, g in zip(beam, greedy)) and sum(beam) > sum(greedy) - 1e-3


def test_logprob_is_that_of_the_loss(loaded, target):
    from v2t_cli.models.language_model import pad, tokenize

    rows = list(decode(loaded, [Block(0, target)], search()))
    texts = [row.best.text for row in rows]
    ids, lengths = pad(tokenize(loaded.tokenizer, texts), loaded.tokenizer.pad_token_id, torch.device("cpu"))
    with torch.inference_mode():
        expected = -loaded.inverter(torch.from_numpy(target), ids, lengths)
    whole = [i for i, row in enumerate(rows) if lengths[i] < 24]
    np.testing.assert_allclose([rows[i].best.logprob for i in whole], expected[whole], atol=1e-3)


def test_rerank_sorts_by_the_cosine_of_the_printed_text(loaded, encoder, target):
    rows = list(decode(loaded, [Block(0, target)], search(quality="balanced", candidates=4, logprob_weight=0), encoder))
    for i, row in enumerate(rows):
        cosines = [candidate.cosine for candidate in row.candidates]
        assert cosines == sorted(cosines, reverse=True) and 1 <= len(cosines) <= 4
        again = row_cosine(encoder.encode([row.best.text]), target[i : i + 1])[0]
        assert again == pytest.approx(row.best.cosine, abs=1e-4)
        assert len({candidate.text for candidate in row.candidates}) == len(row.candidates)


def test_rerank_is_no_worse_than_log_probability(loaded, encoder, target):
    plain = [row.best.text for row in decode(loaded, [Block(0, target)], search(strategy="beam", beams=8))]
    reranked = [row.best.text for row in decode(loaded, [Block(0, target)], search(quality="balanced", logprob_weight=0), encoder)]
    assert (row_cosine(encoder.encode(reranked), target) >= row_cosine(encoder.encode(plain), target) - 1e-5).all()


def test_without_an_encoder_there_is_no_cosine(loaded, target):
    rows = list(decode(loaded, [Block(0, target)], search(quality="balanced")))
    assert all(row.best.cosine is None for row in rows)


def test_sampling_follows_the_seed(loaded, target):
    def draw(seed):
        return [
            c.text
            for row in decode(loaded, [Block(0, target)], search(strategy="sample", candidates=3, top_p=1.0), seed=seed)
            for c in row.candidates
        ]

    assert draw(1) == draw(1) != draw(2)


def test_no_vectors_no_rows(loaded):
    assert list(decode(loaded, [Block(0, np.empty((0, DIM), np.float32))], search())) == []
    assert list(decode(loaded, [], search())) == []


def test_vectors_of_zeros_are_told(loaded, vectors, caplog):
    list(decode(loaded, [Block(0, np.vstack([vectors[:3], np.zeros((2, DIM), np.float32)]))], search()))
    assert "2 of 5 vectors are all zeros" in caplog.text


def test_the_positions_of_the_decoder_are_a_limit(loaded, target):
    rows = list(decode(loaded, [Block(0, target)], search(max_new_tokens=10_000)))
    assert len(rows) == 12


def test_out_of_memory_halves_the_batch(loaded, target, monkeypatch, caplog):
    expected = [row.best.text for row in decode(loaded, [Block(0, target)], search())]
    real = type(loaded.inverter).prefix

    def short_of_memory(self, vectors, hypotheses=None):
        if len(vectors) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, vectors, hypotheses)

    monkeypatch.setattr(type(loaded.inverter), "prefix", short_of_memory)
    assert [row.best.text for row in decode(loaded, [Block(0, target)], search())] == expected
    assert "going on with" in caplog.text


def test_foreign_vectors_are_noticed(loaded, target, caplog):
    list(decode(loaded, [Block(0, target)], search()))
    assert "do not look like" not in caplog.text
    list(decode(loaded, [Block(0, target * 30)], search()))
    assert "do not look like" in caplog.text


def test_another_width_is_refused_with_both_numbers(loaded):
    with pytest.raises(RequestError, match=f"v.npy: vectors of 768 numbers, but the checkpoint .* reads {DIM}"):
        check_vectors(loaded, 768, "v.npy")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("beam", 8, True)),
        ({"quality": "fast"}, ("greedy", 1, False)),
        ({"quality": "fast", "candidates": 5}, ("beam", 5, False)),
        ({"quality": "fast", "strategy": "sample"}, ("sample", 1, False)),
        ({"strategy": "sample", "beams": 32}, ("sample", 32, True)),
        ({"beams": 3, "rerank": False}, ("beam", 3, False)),
        ({"candidates": 20}, ("beam", 20, True)),
    ],
)
def test_a_key_beside_the_preset_wins(settings, expected):
    resolved = resolve_search(DecodeConfig(**settings))
    assert (resolved.strategy, resolved.beams, resolved.rerank) == expected


def test_contradictions_are_refused():
    with pytest.raises(RequestError, match="greedy gives one text a vector, not 5"):
        resolve_search(DecodeConfig(strategy="greedy", candidates=5))
    with pytest.raises(RequestError, match="beams is 4, fewer than the 5 candidates"):
        resolve_search(DecodeConfig(beams=4, candidates=5))


def test_row_formats():
    row = Row(3, [Candidate('он сказал: "да"', -1.25, 0.5), Candidate("нет", -2.0, 0.25)])
    assert formatter("text", 1)(row) == 'он сказал: "да"'
    assert formatter("tsv", 1)(row) == '3\tон сказал: "да"\t-1.2500\t0.500000'
    assert json.loads(formatter("jsonl", 1)(row)) == {"index": 3, "text": 'он сказал: "да"', "logprob": -1.25, "cosine": 0.5}
    both = json.loads(formatter("jsonl", 2)(row))
    assert list(both) == ["index", "text", "logprob", "cosine", "candidates"]
    assert both["candidates"][1] == {"text": "нет", "logprob": -2.0, "cosine": 0.25}
    assert formatter("tsv", 1)(Row(0, [Candidate("а", -1.0)])) == "0\tа\t-1.0000\t"
    assert json.loads(formatter("jsonl", 1)(Row(0, [Candidate("а", -1.0)])))["cosine"] is None
