"""Generation against transformers' own, against all possible texts, and against itself."""

import itertools

import numpy as np
import pytest
import torch
from tiny import DIM, inverter, token_batch
from transformers import AutoModelForCausalLM, MambaConfig, xLSTMConfig

from v2t_cli.core.config import DecodeConfig
from v2t_cli.decoding.generate import Reader, _draw, _most_probable, _search, generate
from v2t_cli.decoding.search import resolve_search
from v2t_cli.models.adapters import Linear
from v2t_cli.models.inverter import Inverter


def settings(**keys):
    return resolve_search(DecodeConfig(**{"strategy": "greedy", "max_new_tokens": 12, **keys}))


def by_transformers(model, vectors, **arguments):
    prefix = model.prefix(vectors)
    return model.lm.generate(inputs_embeds=prefix, attention_mask=torch.ones(prefix.shape[:2]), do_sample=False, **arguments)


def test_greedy_is_that_of_transformers(decoder):
    """Token by token."""
    model, tokenizer = inverter(decoder, tokens=2)
    vectors, _, _ = token_batch(tokenizer)
    expected = by_transformers(model, vectors, max_new_tokens=12).tolist()
    for (written,), row in zip(generate(model, tokenizer, vectors, settings()), expected):
        assert written.ids == row[: len(written.ids)]
        assert len(written.ids) == 12 or written.ids[-1] == tokenizer.eos_token_id


def test_the_most_probable_beam_is_that_of_transformers(decoder):
    """Where no text ends before the limit the two searches are the same."""
    model, tokenizer = inverter(decoder)
    vectors, _, _ = token_batch(tokenizer)
    arguments = {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 4, "length_penalty": 0.0}
    expected = by_transformers(model, vectors, **arguments).view(len(vectors), 4, -1).tolist()
    found = generate(model, tokenizer, vectors, settings(strategy="beam", beams=4, max_new_tokens=8))
    ended = [any(tokenizer.eos_token_id in ids for ids in beam) for beam in expected]
    assert not all(ended)
    for written, beam in (pair for pair, early in zip(zip(found, expected), ended) if not early):
        assert [it.ids for it in written] == beam


@pytest.fixture
def positions(monkeypatch):
    """How many positions the decoder reads at each step."""
    read, next_logits = [], Inverter.next_logits

    def recorded(self, embeds, cache):
        read.append(embeds.shape[1])
        return next_logits(self, embeds, cache)

    monkeypatch.setattr(Inverter, "next_logits", recorded)
    return read


def test_each_step_reads_only_what_is_new(decoder, positions):
    model, tokenizer = inverter(decoder, tokens=2)
    generate(model, tokenizer, token_batch(tokenizer)[0], settings(strategy="beam", beams=3))
    assert positions[0] == 2 and set(positions[1:]) == {1}


@pytest.mark.parametrize("name", ["cache", "past_key_values", None])
def test_the_cache_goes_by_the_name_that_the_decoder_gives_it(decoder, positions, monkeypatch, name):
    """It changed in transformers 5.24; code that comes with a model may keep the old one."""
    model, tokenizer = inverter(decoder)
    vectors, _, _ = token_batch(tokenizer)
    expected = [it.ids for it, *_ in generate(model, tokenizer, vectors, settings())]
    own, forward = model._cache_name, model.lm.forward

    def new(inputs_embeds, use_cache, cache):
        return forward(inputs_embeds=inputs_embeds, use_cache=use_cache, **{own: cache})

    def old(inputs_embeds, use_cache, past_key_values):
        return new(inputs_embeds, use_cache, past_key_values)

    def none(inputs_embeds, use_cache):
        return forward(inputs_embeds=inputs_embeds, use_cache=use_cache)

    monkeypatch.setattr(model.lm, "forward", {"cache": new, "past_key_values": old, None: none}[name])
    positions.clear()
    assert [it.ids for it, *_ in generate(Inverter(model.lm, model.adapter).eval(), tokenizer, vectors, settings())] == expected
    assert positions == (list(range(1, len(positions) + 1)) if name is None else [1] * len(positions))


def test_texts_are_the_same_without_a_cache(decoder, monkeypatch):
    model, tokenizer = inverter(decoder, tokens=2)
    vectors, _, _ = token_batch(tokenizer)
    search = settings(strategy="beam", beams=5)
    with_cache = generate(model, tokenizer, vectors, search)
    monkeypatch.setattr(Inverter, "new_cache", lambda self: None)
    without = generate(model, tokenizer, vectors, search)
    assert [[it.ids for it in beam] for beam in with_cache] == [[it.ids for it in beam] for beam in without]


def test_log_probabilities_are_those_of_the_teacher_forced_pass(decoder):
    model, tokenizer = inverter(decoder, tokens=2)
    vectors, _, _ = token_batch(tokenizer)
    for keys in ({}, {"strategy": "beam", "beams": 5}, {"strategy": "sample", "beams": 5, "temperature": 2.0}):
        for i, written in enumerate(generate(model, tokenizer, vectors, settings(**keys))):
            for _, ids, logprob in written:
                loss = model(vectors[i : i + 1], torch.tensor([ids]), torch.tensor([len(ids)]))
                assert logprob == pytest.approx(-loss.item(), abs=1e-3)


def test_a_row_does_not_depend_on_its_batch(decoder):
    model, tokenizer = inverter(decoder)
    vectors, _, _ = token_batch(tokenizer)
    together = generate(model, tokenizer, vectors, settings(strategy="beam", beams=3))
    for i, beam in enumerate(together):
        alone = generate(model, tokenizer, vectors[i : i + 1], settings(strategy="beam", beams=3))[0]
        assert [it.ids for it in beam] == [it.ids for it in alone]


class Table:
    """Stands for a reader: the next token's logits depend on the last token only, as in a table."""

    def __init__(self, table: torch.Tensor, rows: int):
        self.table, self.sizes = table, []
        self.last, self.unread = torch.zeros(rows, dtype=torch.long), torch.zeros(rows, 1, 1)

    def logits(self):
        self.sizes.append(len(self.last))
        return self.table[self.last]

    def advance(self, rows, tokens):
        assert (rows < len(self.last)).all()
        self.last = tokens


def test_a_wide_beam_finds_all_texts():
    """A beam as wide as the number of possible texts gives each of them, with its probability."""
    torch.manual_seed(0)
    end, limit, vocabulary = 0, 3, 4
    table = torch.randn(vocabulary, vocabulary)
    (beam,) = _search(Table(table, 1), 1, 64, _most_probable(64), end, limit)
    logprobs = table.log_softmax(dim=1)
    expected = {}
    for length in range(1, limit + 1):
        for ids in itertools.product(range(vocabulary), repeat=length):
            if end in ids[:-1] or (length < limit and ids[-1] != end):
                continue
            expected[ids] = sum(logprobs[a, b].item() for a, b in zip((0, *ids), ids))
    assert {tuple(ids) for ids, _ in beam} == set(expected)
    assert [value for _, value in beam] == sorted((value for _, value in beam), reverse=True)
    for ids, value in beam:
        assert value == pytest.approx(expected[tuple(ids)], abs=1e-5)


def test_texts_that_have_ended_leave_the_batch():
    table = torch.full((4, 4), -30.0)
    table[0, 1], table[0, 2] = 0.0, -1.0  # from the start to 1 or 2
    table[1, 0] = table[2, 3] = table[3, 0] = 0.0  # 1 ends, 2 continues with 3, which ends
    reader = Table(table, 2)
    beams = _search(reader, 2, 2, _most_probable(2), 0, 10)
    assert [[ids for ids, _ in beam] for beam in beams] == [[[1, 0], [2, 3, 0]]] * 2
    assert reader.sizes == [2, 4, 2]


def test_draws_follow_the_distribution():
    torch.manual_seed(0)
    table = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(4, 4)
    drawn = _search(Table(table, 4000), 4000, 1, _draw(settings(strategy="sample", top_p=1.0, temperature=2.0), None), 0, 1)
    share = np.bincount([beam[0][0][0] for beam in drawn], minlength=4) / 4000
    np.testing.assert_allclose(share, (table[0] / 2).softmax(dim=0), atol=0.03)
    few = _search(Table(table, 200), 200, 1, _draw(settings(strategy="sample", top_p=1.0, top_k=2), None), 0, 1)
    assert {beam[0][0][0] for beam in few} == {2, 3}
    few = _search(Table(table, 200), 200, 1, _draw(settings(strategy="sample", top_p=0.6), None), 0, 1)
    assert {beam[0][0][0] for beam in few} == {3}


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4),
        xLSTMConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_heads=2, chunk_size=16),
    ],
    ids=lambda config: config.model_type,
)
def test_a_decoder_without_such_a_cache_is_read_whole(config):
    """These keep a state, no keys and values."""
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config)
    model = Inverter(lm, Linear(DIM, config.hidden_size, 1)).eval()
    assert model.new_cache() is None
    prefix = model.prefix(torch.randn(3, DIM))
    with torch.inference_mode():
        found = _search(Reader(model, prefix), 3, 1, _most_probable(1), 49, 6)
        for row, ((ids, _),) in enumerate(found):
            embeds = prefix[row : row + 1]
            for token in ids:
                assert lm(inputs_embeds=embeds, use_cache=False).logits[0, -1].argmax() == token
                embeds = torch.cat([embeds, lm.get_input_embeddings()(torch.tensor([[token]]))], dim=1)
