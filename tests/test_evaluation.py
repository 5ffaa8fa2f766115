import math

import numpy as np
import pytest
import torch
from conftest import SENTENCES

from v2t_cli.checkpoint import load_checkpoint
from v2t_cli.config import DecodeConfig, EncoderConfig
from v2t_cli.decoding import resolve_search
from v2t_cli.encoder import open_encoder
from v2t_cli.errors import RequestError
from v2t_cli.evaluation import evaluate, token_f1, token_loss
from v2t_cli.lm import tokenize
from v2t_cli.model import pad


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
    assert token_loss(loaded, texts, vectors) == pytest.approx(total / count, rel=1e-4)


def test_scores_of_texts_it_was_trained_on(loaded, encoder):
    texts = SENTENCES[:30]
    result = evaluate(loaded, texts, encoder.encode(texts), resolve_search(DecodeConfig()), encoder, samples=4)
    assert result.n == 30 and len(result.samples) == 4
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert 0.8 < result.exact_match <= 1 and result.exact_match <= result.token_f1 <= 1
    assert 50 < result.bleu <= 100 and 50 < result.chrf <= 100 and 0.8 < result.cosine <= 1.0001
    assert "version:" in result.bleu_signature and "nc:6" in result.chrf_signature
    assert {sample.source for sample in result.samples} < set(texts)


def test_exact_texts_score_full_marks(loaded, encoder, monkeypatch):
    from v2t_cli import evaluation
    from v2t_cli.decoding import Candidate, Row

    texts = SENTENCES[:5]
    monkeypatch.setattr(evaluation, "decode", lambda *a: [Row(i, [Candidate(text, 0.0, 1.0)]) for i, text in enumerate(texts)])
    result = evaluate(loaded, texts, encoder.encode(texts), resolve_search(DecodeConfig()), encoder)
    assert (result.exact_match, result.token_f1) == (1, 1)
    assert result.bleu == pytest.approx(100) and result.chrf == pytest.approx(100) and result.cosine == pytest.approx(1, abs=1e-5)


def test_texts_longer_than_the_decoder(loaded, encoder, caplog):
    texts = [SENTENCES[0], "очень длинно " * 40]
    result = evaluate(loaded, texts, encoder.encode(texts), resolve_search(DecodeConfig(quality="fast")), None)
    assert np.isfinite(result.loss) and result.cosine is None
    assert "1 texts are longer than the decoder's 47 tokens" in caplog.text


def test_no_texts(loaded):
    with pytest.raises(RequestError, match="no texts"):
        evaluate(loaded, [], np.empty((0, 16), np.float32), resolve_search(DecodeConfig()), None)
