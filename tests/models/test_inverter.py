import copy

import numpy as np
import pytest
import torch
from conftest import DIM, TEXTS, WRONG, build_decoder, hypotheses, inverter, token_batch

from v2t_cli.core.config import DecoderConfig, ScratchConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.models.adapters import ADAPTERS, Linear, ZeroPad
from v2t_cli.models.inverter import Hypotheses, Inverter
from v2t_cli.models.language_model import load_lm, scratch_lm, set_dropout, tokenize


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_later_token_changes_no_earlier_logits(decoder, tokens):
    model, tokenizer = inverter(decoder, tokens=tokens)
    vectors, ids, lengths = token_batch(tokenizer, ["Где лодка?"])
    changed = ids.clone()
    changed[0, -2] = (changed[0, -2] + 1) % 200
    before, after = model.logits(vectors, ids), model.logits(vectors, changed)
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_every_prediction_sees_the_vector(decoder):
    model, tokenizer = inverter(decoder)
    vectors, ids, lengths = token_batch(tokenizer)
    difference = (model.logits(vectors, ids) - model.logits(-vectors, ids)).abs().amax(dim=2)
    assert (difference > 1e-4).all()


def test_padding_changes_nothing(decoder):
    model, tokenizer = inverter(decoder, tokens=2)
    vectors, ids, lengths = token_batch(tokenizer)
    together = model(vectors, ids, lengths)
    alone = [model(vectors[i : i + 1], ids[i : i + 1, : lengths[i]], lengths[i : i + 1])[0] for i in range(len(TEXTS))]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-5)


def test_loss_against_a_computation_by_hand(decoder):
    model, tokenizer = inverter(decoder)
    vectors, ids, lengths = token_batch(tokenizer, ["да"])
    embeddings = model.lm.get_input_embeddings()
    expected = 0.0
    for position in range(int(lengths[0])):  # one full pass a token, no padding, no shifting
        embeds = torch.cat([model.adapter(vectors), embeddings(ids[:, :position])], dim=1)
        logits = model.lm(inputs_embeds=embeds).logits[0, -1]
        expected -= torch.log_softmax(logits, dim=0)[ids[0, position]].item()
    assert ids[0, -1] == tokenizer.eos_token_id
    assert model(vectors, ids, lengths).item() == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_adapter_and_token_embeddings(decoder):
    model, tokenizer = inverter(decoder, tokens=2)
    model(*token_batch(tokenizer)).sum().backward()
    assert model.adapter.map.weight.grad.abs().sum() > 0
    used = sorted(set(tokenize(tokenizer, ["Где"])[0][:-1]))
    gradient = model.lm.get_input_embeddings().weight.grad
    assert (gradient[used].abs().sum(dim=1) > 0).all()


def test_zero_pad_is_the_vector_and_zeros():
    vectors = torch.randn(4, 6)
    prefix = ZeroPad(6, 10, 1)(vectors)
    assert prefix.shape == (4, 1, 10)
    torch.testing.assert_close(prefix[:, 0, :6], vectors)
    assert not prefix[:, 0, 6:].any() and not list(ZeroPad(6, 10, 1).parameters())


def test_zero_pad_refuses_a_wide_vector_with_both_numbers():
    with pytest.raises(RequestError, match="768 numbers, more than the decoder's hidden size 512; use linear or mlp"):
        ZeroPad(768, 512, 1)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_learned_adapters_standardise_and_match_the_embeddings(kind):
    torch.manual_seed(0)
    vectors = 5 + 0.01 * torch.randn(2000, 32)
    adapter = ADAPTERS[kind](32, 64, 3)
    adapter.set_statistics(vectors.mean(dim=0), vectors.std(dim=0))
    adapter.match_scale(0.02)
    prefix = adapter(vectors)
    assert prefix.shape == (2000, 3, 64)
    assert prefix.std().item() == pytest.approx(0.02, rel=0.15)


def test_a_constant_dimension_stays_finite():
    adapter = Linear(4, 8, 1)
    adapter.set_statistics(torch.ones(4), torch.zeros(4))
    assert torch.isfinite(adapter(torch.ones(2, 4))).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_missing_end_token_is_added(tmp_path, architecture):
    lm, tokenizer = load_lm(DecoderConfig(model=str(build_decoder(tmp_path, architecture, end_token=False))))
    assert tokenizer.eos_token == tokenizer.pad_token == "</s>"
    assert lm.get_input_embeddings().num_embeddings == len(tokenizer) == 257
    assert lm.generation_config.eos_token_id == tokenizer.eos_token_id == 256


def test_a_decoder_that_looks_ahead_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    build_decoder(tmp_path, "gpt2")  # for its tokenizer
    config = BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="BertLMHeadModel looks ahead"):
        load_lm(DecoderConfig(model=str(tmp_path)))


def test_sampling_settings_of_a_pretrained_model_do_not_leak(tmp_path):
    folder = build_decoder(tmp_path, "gpt2")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 9.0, "max_length": 3}')
    lm, _ = load_lm(DecoderConfig(model=str(folder)))
    assert not lm.generation_config.do_sample and lm.generation_config.temperature is None


def test_scratch_tokenizer_loses_nothing():
    lm, tokenizer = scratch_lm(ScratchConfig(n_layer=1, n_embd=16, n_head=2, vocab_size=300), TEXTS)
    odd = ["  двойные  пробелы ", "</s> это текст", "日本語 🙂 ё", ""]
    for text, ids in zip(odd, tokenize(tokenizer, odd)):
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in ids[:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert lm.config.vocab_size == len(tokenizer) <= 300


def test_positions_left_for_the_text(decoder):
    model, _ = inverter(decoder, tokens=3)
    assert model.n_positions == 96 - 3


def test_statistics_match_numpy():
    from v2t_cli.training.dataset import statistics

    vectors = np.random.default_rng(0).normal(3, 2, size=(9000, 5)).astype(np.float32)
    rows = np.arange(0, 9000, 2)
    mean, deviation = statistics(vectors, rows)
    np.testing.assert_allclose(mean, vectors[rows].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(deviation, vectors[rows].std(axis=0), rtol=1e-4)


def test_dropout_reaches_the_decoder_in_training_alone(decoder):
    model, tokenizer = inverter(decoder)
    set_dropout(model.lm, 0.3)
    arguments = token_batch(tokenizer)
    torch.testing.assert_close(model(*arguments), model(*arguments))
    model.train()
    assert not torch.allclose(model(*arguments), model(*arguments))
    set_dropout(model.lm, 0.0)
    torch.testing.assert_close(model(*arguments), model(*arguments))


def test_the_wrapped_decoder_keeps_its_config(decoder):
    lm, _ = load_lm(DecoderConfig(model=str(decoder)))
    before = copy.copy(lm.config._attn_implementation)
    Inverter(lm, Linear(DIM, lm.config.hidden_size, 1))
    assert lm.config._attn_implementation == before is not None


def test_what_is_written_follows_vector_and_hypothesis(corrector):
    model, tokenizer = corrector
    vectors, ids, lengths = token_batch(tokenizer)
    wrong = hypotheses(tokenizer, WRONG)
    logits = model.logits(vectors, ids, wrong)
    other_ids = wrong.ids.masked_scatter(wrong.ids != tokenizer.pad_token_id, wrong.ids[wrong.ids != tokenizer.pad_token_id].roll(1))
    others = [
        (-vectors, wrong),
        (vectors, wrong._replace(vectors=-wrong.vectors)),
        (vectors, wrong._replace(ids=other_ids)),
        (vectors, None),
    ]
    for target, read in others:
        assert ((model.logits(target, ids, read) - logits).abs().amax(dim=2) > 1e-4).all()


def test_padding_of_hypotheses_changes_nothing(corrector):
    model, tokenizer = corrector
    vectors, ids, lengths = token_batch(tokenizer)
    wrong = hypotheses(tokenizer, WRONG)
    together = model(vectors, ids, lengths, wrong)
    for i in range(len(TEXTS)):
        row = slice(i, i + 1)
        own = Hypotheses(wrong.vectors[row], wrong.ids[row, wrong.ids.shape[1] - wrong.lengths[i] :], wrong.lengths[row])
        alone = model(vectors[row], ids[row, : lengths[i]], lengths[row], own)
        torch.testing.assert_close(together[i], alone[0], atol=1e-4, rtol=1e-5)


def test_the_room_for_a_correction(corrector):
    model, _ = corrector
    assert (model.n_positions, model.n_correction_positions) == (94, 90)


def test_the_fused_activation_is_gpt2s():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    lm = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=DIM, n_layer=1, n_head=2, initializer_range=1.0)).eval()
    ids = torch.arange(8)[None]
    before = lm(input_ids=ids).logits
    activation = lm.transformer.h[0].mlp.act
    Inverter(lm, ADAPTERS["linear"](DIM, DIM, 1))
    assert lm.transformer.h[0].mlp.act is not activation
    torch.testing.assert_close(lm(input_ids=ids).logits, before, rtol=1e-5, atol=1e-5)
