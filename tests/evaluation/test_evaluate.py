import math
import re

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.candidates import SureWord
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.evaluate import Sample, _unknown_words, _word_confidence, evaluate, token_losses
from v2t_cli.evaluation.html_report import report_facts
from v2t_cli.evaluation.tables import evaluation_tables
from v2t_cli.models.language_model import pad, tokenize
from v2t_cli.models.lexicon import Lexicon


def search(checkpoint, **settings):
    return fit(checkpoint, resolve_search(DecodeConfig(**settings)))


def test_loss_weighs_tokens_not_texts(loaded, opened, encoder):
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
    for checkpoint in (loaded, opened):
        assert evaluate(checkpoint, texts, vectors, search(checkpoint, quality="fast")).loss == pytest.approx(total / count, rel=1e-4)


def test_scores_of_texts_it_was_trained_on(opened, encoder):
    texts = SENTENCES[:30]
    result = evaluate(opened, texts, encoder.encode(texts), search(opened), samples=4)
    scores = result.scores
    assert scores.n == 30 and len(result.samples) == 4 and len(result.pairs) == 30
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert 0.8 < scores.exact_match <= 1 and scores.exact_match <= scores.token_f1 <= 1
    assert 50 < scores.bleu <= 100 and 50 < scores.chrf <= 100 and 0.8 < scores.cosine <= 1.0001
    assert "version:" in scores.bleu_signature and "nc:6" in scores.chrf_signature
    assert {sample.source for sample in result.samples} < set(texts)
    assert result.nearest is None and result.encoder_calls >= 1
    assert (result.quality, result.strategy) == ("balanced", "beam, 8 per vector, re-ranked and corrected")
    for parts in (result.by_length, result.by_words, result.confidence):  # each text is in one part
        assert sum(part.n for part in parts) == 30
        exact = sum(part.n * part.exact_match for part in parts if part.n)
        assert exact == pytest.approx(30 * scores.exact_match)


def test_cosines_are_those_of_the_decoded_texts_also_where_nothing_is_re_ranked(opened, encoder):
    texts = SENTENCES[:5]
    vectors = encoder.encode(texts)
    result = evaluate(opened, texts, vectors, search(opened, rerank=False))
    expected = (encoder.encode([pair.text for pair in result.pairs]) * vectors).sum(axis=1)
    assert [pair.cosine for pair in result.pairs] == pytest.approx(expected.tolist(), abs=1e-5)
    assert result.encoder_calls == 0 and "re-ranked" not in result.strategy


def test_without_an_encoder_nothing_is_re_ranked_and_there_is_no_cosine(loaded, encoder):
    texts = SENTENCES[:5]
    result = evaluate(loaded, texts, encoder.encode(texts), search(loaded))
    assert result.scores.cosine is None and result.confidence == [] and result.encoder_calls == 0
    assert [pair.cosine for pair in result.pairs] == [None] * 5 and "re-ranked" not in result.strategy
    assert "cosine" not in result.scores.intervals and all(part.cosine is None for part in result.by_length)


def test_json_has_the_scores_at_its_top_level(opened, encoder):
    texts = SENTENCES[:4]
    out = evaluate(opened, texts, encoder.encode(texts), search(opened)).as_dict()
    assert {"n", "loss", "perplexity", "exact_match", "bleu", "chrf", "token_f1", "cosine", "quality", "samples"} <= out.keys()
    assert set(out["intervals"]) == {"loss", "exact_match", "same_words", "bleu", "chrf", "token_f1", "cosine"}
    assert {"by_length", "confidence", "nearest"} <= out.keys() and "pairs" not in out


def test_lengths_are_in_tokens_and_in_words(opened, encoder):
    texts = ["Мама, привет!", "Мама пьёт чай, мой брат ищет ключи дома"]
    out = evaluate(opened, texts, encoder.encode(texts), search(opened, rounds=1)).as_dict()
    assert [(row["words"], row["n"]) for row in out["by_words"]] == [("1-3", 1), ("8+", 1)]
    assert sum(row["n"] for row in out["by_length"]) == 2 and "tokens" in out["by_length"][0] and "words" not in out["by_length"][0]


def test_unknown_words_are_counted_in_wrong_texts_alone():
    lexicon = Lexicon(["мама", "спит"], [2, 1], [])
    assert _unknown_words(lexicon, ["Мама пруит.", "Мама вжик"], ["Мама спит.", "Мама вжик"]) == 0.5
    assert _unknown_words(lexicon, ["Мама спит"], ["Мама спит"]) is None
    assert _unknown_words(Lexicon([], [], []), ["Мама"], ["Папа"]) is None


def test_words_are_as_sure_as_they_should_be():
    pairs = [
        Sample("Мама спит.", "мама пьёт", 0.9, [SureWord("мама", 0.97), SureWord("пьёт", 0.5)]),
        Sample("Да", "Да", 1.0, [SureWord("Да", 0.95)]),
        Sample("Нет", "Нет", None, None),
    ]
    found = {band.probability: (band.n, band.right) for band in _word_confidence(pairs)}
    assert found == {">= 0.95": (2, 1.0), "0.8-0.95": (0, None), "0.6-0.8": (0, None), "0.4-0.6": (1, 0.0), "< 0.4": (0, None)}
    assert _word_confidence(pairs[2:]) == []


def test_texts_longer_than_the_decoder(loaded, encoder, caplog):
    texts = [SENTENCES[0], "очень длинно " * 40]
    result = evaluate(loaded, texts, encoder.encode(texts), search(loaded, quality="fast"))
    assert np.isfinite(result.loss) and result.scores.cosine is None and result.confidence == []
    assert "1 texts are longer than the decoder's 47 tokens; only their beginning is scored" in caplog.text


def test_texts_longer_than_the_encoder(opened, encoder):
    texts = [SENTENCES[0], "очень длинно " * 40]
    result = evaluate(opened, texts, encoder.encode(texts), search(opened, quality="fast"))
    assert result.cut_texts == result.as_dict()["cut_texts"] == 1
    assert re.search(r"texts cut by the encoder +│ +1 ", evaluation_tables(result))
    facts = report_facts(result, encoder.encode(texts), opened.folder, opened.info, 47)
    assert facts["texts"].startswith("2, of which the encoder read 1 only in part")


def test_no_texts(loaded):
    with pytest.raises(RequestError, match="no texts to evaluate"):
        evaluate(loaded, [], np.empty((0, DIM), np.float32), search(loaded))


def test_a_blank_at_the_end_of_a_text_costs_nothing(opened, encoder):
    plain = SENTENCES[:20]
    texts, vectors, settings = [f"{text} " for text in plain], encoder.encode(plain), search(opened, quality="fast")
    result, expected = evaluate(opened, texts, vectors, settings), evaluate(opened, plain, vectors, settings)
    assert result.scores == expected.scores and result.scores.exact_match > 0.5
    assert result.confidence == expected.confidence and result.unknown_words == expected.unknown_words
    assert [pair.exact for pair in result.pairs] == [pair.exact for pair in expected.pairs]
    assert result.pairs[0].source == texts[0], "shown as it was given"


def test_vectors_of_another_length_score_the_same(opened, encoder):
    texts = SENTENCES[:20]
    vectors = encoder.encode(texts)
    one, other = (evaluate(opened, texts, given, search(opened, quality="fast")) for given in (vectors, vectors * 100))
    assert other.loss == pytest.approx(one.loss, rel=1e-3) and other.scores.exact_match == one.scores.exact_match
