"""Language models, opened and built from scratch, and rows of tokens, packed and padded."""

import numpy as np
import pytest
import torch
from tiny import TEXTS, build_decoder, inverter, token_batch

from v2t_cli.core.config import DecoderConfig, ScratchConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.models.language_model import TokenRows, load_lm, pad, scratch_lm, set_dropout, tokenize

ROWS = [[5, 6, 7], [8], [], [9, 10]]


def lists(rows):
    return [row.tolist() for row in rows]


def test_rows_come_back():
    packed = TokenRows.of(iter(ROWS))
    assert len(packed) == 4 and lists(packed) == ROWS and packed.lengths.tolist() == [3, 1, 0, 2]
    assert lists(TokenRows.of([])) == []


def test_kept_rows_come_in_their_order():
    packed = TokenRows.of(ROWS)
    assert lists(packed.keep(np.array([3, 0, 3, 2]))) == [ROWS[3], ROWS[0], ROWS[3], []]
    assert lists(packed.keep(np.array([], dtype=np.int64))) == []


def test_padding():
    rows = TokenRows.of([[5, 6, 7], [8]])
    for given in (rows, lists(rows)):
        ids, lengths = pad(given, 1, torch.device("cpu"))
        assert ids.tolist() == [[5, 6, 7], [8, 1, 1]] and ids.dtype == torch.int64
        assert lengths.tolist() == [3, 1]


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
    with pytest.raises(RequestError, match="BertLMHeadModel is not causal"):
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


def test_dropout_reaches_the_decoder_only_in_training(decoder):
    model, tokenizer = inverter(decoder)
    set_dropout(model.lm, 0.3)
    arguments = token_batch(tokenizer)
    torch.testing.assert_close(model(*arguments), model(*arguments))
    model.train()
    assert not torch.allclose(model(*arguments), model(*arguments))
    set_dropout(model.lm, 0.0)
    torch.testing.assert_close(model(*arguments), model(*arguments))


def test_a_decoder_without_dropout_is_refused():
    with pytest.raises(RequestError, match="train.dropout: Linear has no dropout that can be set"):
        set_dropout(torch.nn.Linear(2, 2), 0.1)
