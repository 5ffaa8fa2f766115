import copy

import numpy as np
import pytest
import torch
from tiny import DIM, TEXTS, inverter, token_batch

from v2t_cli.core.config import DecoderConfig
from v2t_cli.models.adapters import ADAPTERS, Linear
from v2t_cli.models.inverter import Inverter, log_likelihood, text_batches
from v2t_cli.models.language_model import load_lm, tokenize


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


def test_positions_left_for_the_text(decoder):
    model, _ = inverter(decoder, tokens=3)
    assert model.n_positions == 96 - 3


def test_the_wrapped_decoder_keeps_its_config(decoder):
    lm, _ = load_lm(DecoderConfig(model=str(decoder)))
    before = copy.copy(lm.config._attn_implementation)
    Inverter(lm, Linear(DIM, lm.config.hidden_size, 1))
    assert lm.config._attn_implementation == before is not None


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


@pytest.mark.parametrize("logits", [1, 20_000, 2**25])
def test_log_likelihood_is_the_negative_loss_of_each_row(decoder, monkeypatch, logits):
    """However many rows a batch may have."""
    monkeypatch.setattr("v2t_cli.models.inverter.MAX_LOGITS", logits)
    model, tokenizer = inverter(decoder)
    vectors, _, _ = token_batch(tokenizer)
    rows, owners = tokenize(tokenizer, [*TEXTS, "Привет, ты", "Где?", "Я бы ехал"]), np.array([0, 1, 2, 2, 1, 0])
    found = log_likelihood(model, vectors, rows, owners, tokenizer.pad_token_id)
    assert found.shape == (6,) and found.dtype == np.float64
    for value, row, owner in zip(found, rows, owners):
        loss = model(vectors[owner : owner + 1], torch.tensor([row]), torch.tensor([len(row)]))
        assert value == pytest.approx(-loss.item(), abs=1e-3)
    assert log_likelihood(model, vectors, [], np.array([], dtype=np.int64), tokenizer.pad_token_id).shape == (0,)


def test_batches_of_texts_are_bounded(decoder, monkeypatch):
    """Each holds at most MAX_LOGITS logits, except a text that alone has more; what does not fit the decoder is in none."""
    model, tokenizer = inverter(decoder)
    vocabulary = model.lm.get_input_embeddings().num_embeddings
    monkeypatch.setattr("v2t_cli.models.inverter.MAX_LOGITS", 30 * vocabulary)
    monkeypatch.setattr(Inverter, "n_positions", 40)
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, vocabulary, size=length).tolist() for length in rng.integers(1, 20, size=200)]
    rows[7], rows[8] = [1] * 40, [1] * 41
    vectors, owners = torch.randn(3, DIM), rng.integers(3, size=200)
    batches = list(text_batches(model, vectors, rows, owners, tokenizer.pad_token_id))
    assert sorted(np.concatenate([batch.which for batch in batches])) == [i for i in range(200) if i != 8]
    assert all(batch.ids.numel() <= 30 for batch in batches[:-1])
    assert batches[-1].which.tolist() == [7] and len(batches) < 120
    for batch in batches:
        torch.testing.assert_close(batch.vectors, vectors[owners[batch.which]])
        for i, ids, length in zip(batch.which, batch.ids.tolist(), batch.lengths.tolist()):
            assert ids == rows[i] + [tokenizer.pad_token_id] * (len(ids) - length)
    long = log_likelihood(model, vectors, rows[7:9], np.array([0, 0]), tokenizer.pad_token_id)
    assert np.isfinite(long[0]) and long[1] == -np.inf
