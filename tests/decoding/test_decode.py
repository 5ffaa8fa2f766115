from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.errors import V2TError
from v2t_cli.core.similarity import row_cosine
from v2t_cli.decoding.decode import HalvingBatches, decode, search_settings, to_scale
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.vectors import Block, grid


@pytest.fixture(scope="module")
def target(encoder):
    return encoder.encode(SENTENCES[:12])


def search(checkpoint, **settings):
    plain = {} if "quality" in settings else {"strategy": "greedy", "rerank": False}
    return fit(checkpoint, resolve_search(DecodeConfig(**{"max_new_tokens": 24, **plain, **settings})))


def decoded(checkpoint, vectors, seed=0, **settings):
    """The rows of one block of vectors."""
    return list(decode(checkpoint, [Block(0, vectors)], search(checkpoint, **settings), seed))


def test_it_learned_to_invert(opened, target):
    rows = decoded(opened, target, quality="balanced")
    exact = np.mean([row.best.text == text for row, text in zip(rows, SENTENCES)])
    assert exact >= 0.8, [row.best.text for row in rows]


def test_rows_come_in_order_whatever_the_blocks_and_batches(loaded, target):
    whole = decoded(loaded, target)
    blocks = [Block(rows.start, target[rows.start : rows.stop]) for rows in grid(12, 5)]
    pieces = list(decode(loaded, blocks, search(loaded, batch_size=2)))
    assert [row.index for row in pieces] == list(range(12))
    assert [row.best.text for row in pieces] == [row.best.text for row in whole]
    np.testing.assert_allclose([r.best.logprob for r in pieces], [r.best.logprob for r in whole], atol=1e-3)


def test_a_decoder_that_computes_no_numbers(loaded, target):
    """Its log-probabilities would be NaN, which JSON does not have."""
    gain = loaded.inverter.adapter.gain
    kept = gain.clone()
    try:
        gain.fill_(1e38)
        with pytest.raises(V2TError, match="row 0: the decoder computes NaN or infinity; decode.precision float32 may help"):
            decoded(loaded, target)
    finally:
        gain.copy_(kept)


def test_one_beam_is_greedy(loaded, target):
    greedy = [row.best.text for row in decoded(loaded, target)]
    assert greedy == [row.best.text for row in decoded(loaded, target, strategy="beam", beams=1)]


def test_beams_find_texts_at_least_as_probable(loaded):
    vectors = np.random.default_rng(0).normal(size=(12, DIM)).astype(np.float32)  # of no text: the decoder is unsure
    greedy = [row.best.logprob for row in decoded(loaded, vectors)]
    beam = [row.best.logprob for row in decoded(loaded, vectors, strategy="beam", beams=6)]
    assert all(b >= g - 1e-3 for b, g in zip(beam, greedy)) and sum(beam) > sum(greedy) + 1


def test_logprob_is_that_of_the_loss(loaded, target):
    from v2t_cli.models.language_model import pad, tokenize

    rows = decoded(loaded, target)
    texts = [row.best.text for row in rows]
    ids, lengths = pad(tokenize(loaded.tokenizer, texts), loaded.tokenizer.pad_token_id, torch.device("cpu"))
    with torch.inference_mode():
        expected = -loaded.inverter(torch.from_numpy(target), ids, lengths)
    whole = [i for i, row in enumerate(rows) if lengths[i] < 24]
    assert whole
    np.testing.assert_allclose([rows[i].best.logprob for i in whole], expected[whole], atol=1e-3)


def test_re_ranking_sorts_by_the_cosine_of_the_printed_text(opened, encoder, target):
    rows = decoded(opened, target, quality="balanced", candidates=4, logprob_weight=0)
    for i, row in enumerate(rows):
        cosines = [candidate.cosine for candidate in row.candidates]
        assert cosines == sorted(cosines, reverse=True) and 1 <= len(cosines) <= 4
        again = row_cosine(encoder.encode([row.best.text]), target[i : i + 1])[0]
        assert again == pytest.approx(row.best.cosine, abs=1e-4)
        assert len({candidate.text for candidate in row.candidates}) == len(row.candidates)


def test_re_ranking_is_no_worse_than_log_probability(opened, encoder, target):
    plain = [row.best.text for row in decoded(opened, target, strategy="beam", beams=8)]
    reranked = [row.best.text for row in decoded(opened, target, quality="balanced", logprob_weight=0)]
    assert (row_cosine(encoder.encode(reranked), target) >= row_cosine(encoder.encode(plain), target) - 1e-5).all()


def test_without_an_encoder_there_is_no_cosine(loaded, target):
    rows = decoded(loaded, target, quality="balanced")
    assert len(rows) == 12 and all((row.best.cosine, row.encoder_calls) == (None, 0) for row in rows)


def test_rows_keep_no_vectors(opened, target):
    """Each would be a view that keeps those of the whole batch in memory."""
    rows = decoded(opened, target, quality="balanced", candidates=3)
    assert all(row.encoder_calls for row in rows)
    assert all(candidate.vector is None for row in rows for candidate in row.candidates)


def test_sampling_follows_the_seed(loaded, target):
    def draw(seed):
        rows = decoded(loaded, target, seed, strategy="sample", candidates=3, top_p=1.0)
        return [candidate.text for row in rows for candidate in row.candidates]

    assert draw(1) == draw(1) != draw(2)


def test_samples_of_a_block_do_not_depend_on_the_blocks_before_it(loaded, target):
    """So that another process, or a resumed run, draws the same."""
    blocks = [Block(rows.start, target[rows.start : rows.stop]) for rows in grid(12, 4)]
    settings = search(loaded, strategy="sample", candidates=3, top_p=1.0)
    whole, last = list(decode(loaded, blocks, settings, 5)), list(decode(loaded, blocks[2:], settings, 5))
    assert [row.candidates for row in whole[8:]] == [row.candidates for row in last]


def test_no_vectors_no_rows(loaded):
    assert decoded(loaded, np.empty((0, DIM), np.float32)) == []
    assert list(decode(loaded, [], search(loaded))) == []


def test_vectors_of_zeros_are_reported(loaded, vectors, caplog):
    decoded(loaded, np.vstack([vectors[:3], np.zeros((2, DIM), np.float32)]))
    assert "2 of 5 vectors are all zeros; the texts for these rows are meaningless" in caplog.text


def test_texts_are_as_long_as_the_decoders_positions_at_most(loaded, target, monkeypatch):
    real, end = type(loaded.inverter).next_logits, loaded.tokenizer.eos_token_id

    def endless(self, *arguments):
        logits = real(self, *arguments)
        logits[:, end] = -torch.inf
        return logits

    monkeypatch.setattr(type(loaded.inverter), "next_logits", endless)
    blocks, fitted = [Block(0, target)], search(loaded, max_new_tokens=10_000)
    assert len(list(decode(loaded, blocks, fitted))) == 12
    with pytest.raises(IndexError):
        list(decode(loaded, blocks, fitted.model_copy(update={"max_new_tokens": 10_000})))


def test_out_of_memory_halves_the_batch(loaded, target, monkeypatch, caplog):
    expected = [row.best.text for row in decoded(loaded, target)]
    real = type(loaded.inverter).prefix

    def short_of_memory(self, vectors):
        if len(vectors) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, vectors)

    monkeypatch.setattr(type(loaded.inverter), "prefix", short_of_memory)
    assert [row.best.text for row in decoded(loaded, target, batch_size=12)] == expected
    assert "out of memory: continuing with 6 rows at a time" in caplog.text
    assert "out of memory: continuing with 3 rows at a time" in caplog.text


def test_foreign_vectors_are_reported(loaded, target, caplog):
    decoded(loaded, target)
    assert "do not look like" not in caplog.text
    decoded(loaded, target[:, ::-1] * np.float32(1.5))
    assert "these vectors do not look like those the checkpoint was trained on (distance from the training mean: " in caplog.text


@pytest.mark.parametrize("factor", [100, 0.001, 1e30])
def test_vectors_of_another_length_are_brought_to_scale(opened, target, caplog, factor):
    expected = [row.best.text for row in decoded(opened, target, quality="balanced")]
    assert "WARNING" not in caplog.text
    caplog.clear()  # whoever needs the words first embeds them, and says so
    scaled = (target.astype(np.float64) * factor).astype(np.float32)
    blocks = [Block(rows.start, scaled[rows.start : rows.stop]) for rows in grid(12, 5)]
    rows = list(decode(opened, blocks, search(opened, quality="balanced")))
    assert [row.best.text for row in rows] == expected
    note = f"5 of 5 vectors read together have length {np.float32(factor):.3g}, the training's had 1; they are brought to that length"
    assert caplog.messages == [note], "once"


def test_only_rows_of_a_strange_length_are_scaled(loaded, target):
    mixed = np.vstack([target[:2], target[2:4] * 100, target.mean(axis=0, keepdims=True) / 5, np.zeros((1, DIM), np.float32)])
    scaled = to_scale(loaded, mixed)
    np.testing.assert_array_equal(scaled[[0, 1, 4, 5]], mixed[[0, 1, 4, 5]])  # averages are shorter by right
    np.testing.assert_allclose(scaled[2:4], target[2:4], atol=1e-4)
    assert scaled.dtype == np.float32 and to_scale(loaded, target) is target


def test_the_length_of_the_training_vectors(loaded, encoder):
    lengths = np.linalg.norm(encoder.encode(SENTENCES), axis=1)
    assert loaded.inverter.adapter.training_length == pytest.approx(np.sqrt((lengths**2).mean()), rel=0.01)


def test_warnings_can_be_turned_off(loaded, target, caplog):
    vectors = np.vstack([target * 30, np.zeros((1, DIM), np.float32)])
    assert len(list(decode(loaded, [Block(0, vectors)], search(loaded), warn=False))) == 13
    assert not caplog.text


def test_the_signature_holds_what_the_texts_depend_on(opened, loaded, tmp_path):
    (tmp_path / "v2t.json").write_text("{}")
    one = search_settings(opened, search(opened, quality="best"))
    assert one == search_settings(opened, search(opened, quality="best", batch_size=3)), "not the batch size"
    rounded = replace(opened, inverter=deepcopy(opened.inverter).bfloat16())
    assert search_settings(rounded, search(opened, quality="best")) == one | {"dtype": "bfloat16"}, "which the machine chose"
    others = (
        search_settings(opened, search(opened, quality="best", beams=5)),
        search_settings(loaded, search(loaded, quality="best")),
        search_settings(replace(opened, folder=tmp_path), search(opened, quality="best")),
    )
    assert all(other != one for other in others)


@pytest.fixture
def without_collection(monkeypatch):
    """Collecting garbage takes a second where torch is loaded."""
    monkeypatch.setattr("v2t_cli.decoding.decode.free_memory", lambda: None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nmore"),
    ],
)
def test_batches_halve_when_memory_runs_out_and_lose_no_row(error, without_collection):
    tried = []

    def run(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if part.stop - part.start > 3:
            raise error
        return list(range(part.start, part.stop))

    batches = HalvingBatches(16)
    assert list(batches.map(run, 10)) == list(range(10))
    assert tried[:4] == [10, 8, 4, 2] and batches.size == 2
    assert list(batches.map(run, 2)) == [0, 1]


def test_batches_give_up_at_one_row_and_pass_other_errors_on(without_collection):
    def full(part):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(V2TError, match="out of memory with a single row; use fewer decode.beams"):
        list(HalvingBatches(4).map(full, 4))

    def broken(part):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(HalvingBatches(4).map(broken, 4))


def test_progress_is_told_by_the_batch(loaded, target):
    """Told row by row, the first row of a batch would seem to have taken all its time: a log then promises an hour for a minute."""
    told = []
    rows = decode(loaded, [Block(0, target[:11])], search(loaded, quality="fast", batch_size=4), advance=told.append)
    assert next(rows).index == 0 and told == [4]
    assert len(list(rows)) == 10 and told == [4, 4, 3]
