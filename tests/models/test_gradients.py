from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import SENTENCES

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.similarity import row_cosine
from v2t_cli.decoding.edits import Parsed
from v2t_cli.models.encoder import open_encoder
from v2t_cli.models.gradients import TokenGradients


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_they_tell_how_the_cosine_grows(labse, prompt, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.gradients.PART", 2)
    encoder = open_encoder(EncoderConfig(model=str(labse), prompt=prompt), "cpu")
    model, texts = encoder._model, SENTENCES[:3]
    targets, spans = encoder.encode(SENTENCES[3:6]), [Parsed(text).spans for text in texts]
    found = encoder.gradients.of_words(texts, targets, spans)
    assert [len(of_text) for of_text in found] == [len(words) for words in spans]
    rng, shift = np.random.default_rng(0), len(prompt or "")
    for number, (text, of_text) in enumerate(zip(texts, found)):
        offsets = model.tokenizer((prompt or "") + text, return_offsets_mapping=True)["offset_mapping"]
        for i, (start, stop) in enumerate(spans[number]):
            positions = [place for place, (begin, end) in enumerate(offsets) if start + shift <= begin < end <= stop + shift]
            step = 1e-2 * torch.from_numpy(rng.normal(size=of_text.shape[1])).float()

            def cosine(step, text=text, number=number, positions=positions):
                def nudge(module, inputs, output):
                    output[:, positions] += step
                    return output

                handle = model[0].auto_model.get_input_embeddings().register_forward_hook(nudge)
                try:
                    return float(row_cosine(encoder.encode([text]), targets[number : number + 1])[0])
                finally:
                    handle.remove()

            assert (cosine(step) - cosine(-step)) / 2 == pytest.approx(float(of_text[i] @ step.numpy()), rel=0.05, abs=1e-6)
            assert np.abs(of_text[i]).max() > 1e-5


def test_the_embedding_of_a_word_is_that_of_its_tokens(labse):
    encoder = open_encoder(EncoderConfig(model=str(labse)), "cpu")
    words = ["сад", "ключи", "сад", "🙂"]
    table = encoder._model[0].auto_model.get_input_embeddings().weight.detach().numpy()
    expected = [table[encoder._model.tokenizer(word, add_special_tokens=False)["input_ids"]].mean(axis=0) for word in words]
    np.testing.assert_allclose(encoder.gradients.embeddings(words), np.stack(expected), atol=1e-6)


def test_words_that_the_encoder_does_not_read_have_none(labse):
    encoder = open_encoder(EncoderConfig(model=str(labse)), "cpu")
    text = "слово " * 60  # the tiny encoder reads 32 tokens
    (found,) = encoder.gradients.of_words([text], encoder.encode(["Да"]), [Parsed(text).spans])
    assert len(found) == 60 and found[0].any() and not found[-1].any()
    assert encoder.gradients.of_words(["?"], encoder.encode(["Да"]), [[]])[0].shape[0] == 0


def test_an_encoder_that_is_no_transformer_has_none():
    assert TokenGradients.of([SimpleNamespace()], None) is None


def test_they_are_nearly_the_same_in_bfloat16(labse, encoder, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.encoder.has_fast_bfloat16", lambda device: True)
    rough = open_encoder(EncoderConfig(model=str(labse)), "cpu")
    targets, spans = encoder.encode(SENTENCES[10:20]), [Parsed(text).spans for text in SENTENCES[:10]]
    exact, found = (it.gradients.of_words(SENTENCES[:10], targets, spans) for it in (encoder, rough))
    for one, other in zip(exact, found, strict=True):
        assert other.dtype == np.float32 and not np.array_equal(one, other)
        np.testing.assert_allclose(row_cosine(one, other), 1, atol=0.02)
