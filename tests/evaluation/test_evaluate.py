import math

import numpy as np
import pytest
import torch
from conftest import SENTENCES

from v2t_cli.core.config import DecodeConfig, EncoderConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.search import resolve_search
from v2t_cli.evaluation.evaluate import evaluate, nearest_texts, token_losses
from v2t_cli.evaluation.metrics import ratio_interval, score_texts, token_f1
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.encoder import open_encoder
from v2t_cli.models.language_model import pad, tokenize


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_checkpoint(checkpoint, torch.device("cpu"))


@pytest.fixture(scope="module")
def encoder(labse):
    return open_encoder(EncoderConfig(model=str(labse)), "cpu")


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [("а б в", "а б в", 1), ("а б", "в г", 0), ("а а б", "а б б", 2 / 3), ("", "", 1), ("", "а", 0), ("а", "а б в", 0.5)],
)
def test_token_f1(generated, reference, expected):
    assert token_f1(generated, reference) == pytest.approx(expected)


def test_loss_weighs_tokens_not_texts(loaded, encoder):
    texts = [SENTENCES[0], "да", SENTENCES[7] + " " + SENTENCES[3]]
    vectors = encoder.encode(texts)
    total, count = 0.0, 0
    for row, vector in zip(tokenize(loaded.tokenizer, texts), vectors):
        ids, lengths = pad([row], 1, torch.device("cpu"))
        with torch.inference_mode():
            total += loaded.inverter(torch.from_numpy(vector[None]), ids, lengths).item()
        count += len(row)
    losses, lengths = token_losses(loaded, texts, vectors)
    assert lengths.sum() == count and losses.sum() == pytest.approx(total, rel=1e-4)
    result = evaluate(loaded, texts, vectors, resolve_search(DecodeConfig(quality="fast")), encoder)
    assert result.loss == pytest.approx(total / count, rel=1e-4)


def test_scores_of_texts_it_was_trained_on(loaded, encoder):
    texts = SENTENCES[:30]
    result = evaluate(loaded, texts, encoder.encode(texts), resolve_search(DecodeConfig()), encoder, samples=4)
    scores = result.scores
    assert scores.n == 30 and len(result.samples) == 4
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert 0.8 < scores.exact_match <= 1 and scores.exact_match <= scores.token_f1 <= 1
    assert 50 < scores.bleu <= 100.001 and 50 < scores.chrf <= 100.001 and 0.8 < scores.cosine <= 1.0001
    assert "version:" in scores.bleu_signature and "nc:6" in scores.chrf_signature
    assert {sample.source for sample in result.samples} < set(texts)
    assert result.nearest is None
    for parts in (result.by_length, result.confidence):  # each text is in one part
        assert sum(part.n for part in parts) == 30
        exact = sum(part.n * part.exact_match for part in parts if part.n)
        assert exact == pytest.approx(30 * scores.exact_match)


def test_json_has_the_scores_at_its_top(loaded, encoder):
    texts = SENTENCES[:4]
    out = evaluate(loaded, texts, encoder.encode(texts), resolve_search(DecodeConfig()), encoder).as_dict()
    assert {"n", "loss", "perplexity", "exact_match", "bleu", "chrf", "token_f1", "cosine", "quality", "samples"} <= out.keys()
    assert set(out["intervals"]) == {"loss", "exact_match", "bleu", "chrf", "token_f1", "cosine"}
    assert {"by_length", "confidence", "nearest"} <= out.keys()


def test_exact_texts_score_full_marks():
    scores = score_texts(SENTENCES[:5], SENTENCES[:5], np.ones(5))
    assert (scores.exact_match, scores.token_f1, scores.cosine) == (1, 1, 1)
    assert scores.bleu == pytest.approx(100) and scores.chrf == pytest.approx(100)
    assert scores.intervals["exact_match"] == (1, 1)


def test_interval_is_that_of_the_binomial():
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


def test_the_nearest_training_text(encoder, monkeypatch):
    from v2t_cli.core.console import silent

    monkeypatch.setattr("v2t_cli.models.encoder.CHUNK_TEXTS", 7)
    monkeypatch.setattr("v2t_cli.evaluation.evaluate.CHUNK_TEXTS", 7)
    texts = [SENTENCES[3], SENTENCES[33], "Где лодка?"]
    found = nearest_texts(encoder, SENTENCES, texts, 5 * encoder.encode(texts), silent)
    similarity = encoder.encode(texts) @ encoder.encode(SENTENCES).T
    expected = [SENTENCES[i] for i in similarity.argmax(axis=1)]
    assert found.exact_match == pytest.approx(2 / 3) and expected[:2] == texts[:2]
    assert found.cosine == pytest.approx(similarity.max(axis=1).mean(), abs=1e-4)


def test_texts_longer_than_the_decoder(loaded, encoder, caplog):
    texts = [SENTENCES[0], "очень длинно " * 40]
    result = evaluate(loaded, texts, encoder.encode(texts), resolve_search(DecodeConfig(quality="fast")), None)
    assert np.isfinite(result.loss) and result.scores.cosine is None and result.confidence == []
    assert "1 texts are longer than the decoder's 47 tokens" in caplog.text


def test_no_texts(loaded):
    with pytest.raises(RequestError, match="no texts"):
        evaluate(loaded, [], np.empty((0, 16), np.float32), resolve_search(DecodeConfig()), None)
