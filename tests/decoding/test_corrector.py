from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import SENTENCES, Counting

from v2t_cli.core.config import DecodeConfig
from v2t_cli.decoding.candidates import Candidate, rerank
from v2t_cli.decoding.corrector import Corrector, _Hypothesis, _pairs
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.edits import Span
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.language_model import tokenize

TRUTH = "Мой брат ищет ключи в саду."


@pytest.fixture
def counting(loaded, encoder):
    """The trained checkpoint, with an encoder that counts."""
    return replace(loaded, encoder=Counting(encoder))


@pytest.fixture(scope="module")
def taught(correcting):
    """The checkpoint that learned to correct, without its encoder."""
    return load_checkpoint(correcting, torch.device("cpu"))


def search(checkpoint, **settings):
    return fit(checkpoint, resolve_search(DecodeConfig(**{"quality": "best", **settings})))


def decoded(checkpoint, vectors, **settings):
    return list(decode(checkpoint, [Block(0, vectors)], search(checkpoint, **settings)))


def corrector_of(checkpoint, fitted, tokenizer=None):
    return Corrector(checkpoint.inverter, tokenizer or checkpoint.tokenizer, checkpoint.encoder, fitted)


def corrected(checkpoint, start, **settings):
    """The candidates of the vector of TRUTH after correction, the texts embedded for it, and the best cosine at the start."""
    # To the tiny random encoder some different texts look very much alike.
    fitted, encoder = search(checkpoint, until_cosine=0.999999, **settings), checkpoint.encoder
    target = encoder.encode([TRUTH])
    rows = [[Candidate(text, -10.0) for text in start]]
    rerank(rows, target, encoder, fitted.logprob_weight, fitted.until_cosine)
    before, encoder.texts = rows[0][0].cosine, []
    calls = corrector_of(checkpoint, fitted).correct(target, rows)
    return rows[0], calls[0], before


@pytest.mark.parametrize(
    "start",
    [
        ["Мой брат ждёт ключи в саду.", "Мама ищет газету дома."],  # a word to borrow
        ["Мой ключи ищет брат в саду."],  # two to swap
        ["Мой брат ищет ключи дома в саду."],  # one too many
        ["Мой брат ищет в саду!", "Иван ищет ключи."],  # two edits at once
    ],
)
def test_it_finds_the_text(counting, start):
    row, calls, before = corrected(counting, start)
    assert (row[0].text, before < 0.999999 <= row[0].cosine) == (TRUTH, True)
    assert len({candidate.text for candidate in row}) == len(row)
    assert calls == len(counting.encoder.texts), "what it reports is what it asked"


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 100])
def test_encoder_calls_are_bounded(counting, limit):
    row, calls, before = corrected(counting, ["Кот спит.", "Дом.", "Нет"], encoder_calls=limit, logprob_weight=0)
    assert len(counting.encoder.texts) == calls <= limit
    assert (calls > 0) == (limit > 0)
    assert row[0].cosine >= before


def test_it_stops_when_nothing_is_left_to_do(counting):
    row, calls, _ = corrected(counting, [TRUTH, "Мама дома."])
    assert (row[0].text, calls) == (TRUTH, 0)
    assert corrected(counting, ["Мама дома."], rounds=0)[1] == 0


@pytest.mark.parametrize("text", ["", " ", "?", "🙂", "ab"])
def test_odd_hypotheses_are_corrected_too(counting, text):
    row, calls, before = corrected(counting, [text], rounds=2, logprob_weight=0)
    assert calls > 2 and row[0].cosine > before


def test_texts_that_outgrow_the_decoder_are_dropped(counting):
    """The checkpoint has 48 positions: some of the hypotheses are too long already, some of their edits become too long."""
    long = "Мой брат ищет ключи" + " в саду" * 30
    limit, tokenizer = counting.inverter.n_positions, counting.tokenizer
    full = next(text for text in (long[:i] for i in range(len(long), 0, -1)) if len(tokenize(tokenizer, [text])[0]) == limit)
    row, calls, _ = corrected(counting, [long, full], rounds=2)
    assert calls > 2
    assert max(len(ids) for ids in tokenize(tokenizer, [it.text for it in row if it.text != long])) <= limit


def test_tokens_are_found_in_the_text_whatever_the_tokenizer(opened):
    """SentencePiece drops the blank of the first token, some byte-level tokenizers add one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def tokenizer(pieces, before, decoder):
        model = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(["</s>", *pieces])}, unk_token="</s>"))
        model.pre_tokenizer, model.decoder = before, decoder
        return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>")

    text = "a мама пьёт"
    metaspace = tokenizer(["▁a", "▁мама", "▁пьёт", "▁ест"], pre_tokenizers.Metaspace(), decoders.Metaspace())
    blank = tokenizer(
        [
            "".join(pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(f" {word}")[0][0])
            for word in ("a", "мама", "пьёт", "ест")
        ],
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        decoders.ByteLevel(),
    )
    fitted = search(opened)
    for each in (metaspace, blank):
        corrector = corrector_of(opened, fitted, each)
        assert corrector._surface(4) == " ест"
        assert corrector._places([1, 2, 3, 0], text) == [0, 1, 6, 11]
        assert corrector._places([1, 2, 0], "Нечто другое") == []
    corrector = corrector_of(opened, fitted)
    places = corrector._places(tokenize(opened.tokenizer, ["🙂 да"])[0], "🙂 да")
    assert places[:3] == [0, None, None] and places[-1] == 4, "a token may be a piece of a character"
    assert [corrector._surface(opened.tokenizer.eos_token_id), corrector._surface(opened.tokenizer.encode("🙂")[0])] == ["", ""]


def test_best_is_at_least_as_near_as_balanced(opened, encoder, caplog):
    """On texts of other words than the model knows, so that there is something to correct."""
    target = encoder.encode(["Дядя читает письма в саду.", "Тётя пьёт чай на даче.", *SENTENCES[:2]])
    balanced = decoded(opened, target, quality="balanced", beams=8)
    caplog.set_level("DEBUG", "v2t")
    best = decoded(opened, target, beams=8, logprob_weight=0)
    assert all(b.best.cosine >= a.best.cosine - 1e-6 for a, b in zip(balanced, best))
    assert sum(b.best.cosine for b in best) > sum(a.best.cosine for a in balanced)
    mean = np.mean([row.encoder_calls for row in best])
    assert f"{mean:,.0f} texts re-embedded per vector" in caplog.text


def test_best_without_an_encoder_chooses_by_log_probability(loaded, encoder):
    rows = decoded(loaded, encoder.encode(SENTENCES[:3]), beams=4, candidates=4)
    assert [row.best.cosine for row in rows] == [None] * 3
    for row in rows:
        logprobs = [candidate.logprob for candidate in row.candidates]
        assert len(logprobs) > 1 and logprobs == sorted(logprobs, reverse=True)


def test_the_search_follows_the_cosine_but_the_ranking_also_the_log_probability(counting):
    """However much log-probability counts in the end, the text is found; and then it wins, since it reaches until_cosine."""
    row, _, before = corrected(counting, ["Мой ключи ищет брат в саду."], logprob_weight=1.0)
    assert row[0].text == TRUTH and row[0].cosine > before
    row, _, before = corrected(counting, ["Мама пьёт чай."], logprob_weight=100.0, rounds=1, edits=20)
    assert all(not np.isnan(candidate.logprob) for candidate in row)
    assert row[0].cosine < 0.999999 and row[0].logprob == max(candidate.logprob for candidate in row)


def test_pairs_are_ranked_by_the_sum_of_their_moves():
    edits = [(Span(0, 1, "a"),), (Span(3, 4, "b"),), (Span(6, 7, "c"),), (Span(1, 2, "d"),)]
    own, target = np.array([1.0, 0, 0]), np.array([0.6, 0.8, 0.0])
    vectors = np.array([[0.9, 0.4, 0.1], [0.9, 0.4, -0.1], [0.9, 0.0, 0.4], [0.95, 0.3, 0.0]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = list(_pairs(edits, vectors, vectors @ target, own, target))
    assert pairs[0] in (edits[0] + edits[1], edits[1] + edits[0]), "their sideways moves cancel out"
    assert len(pairs) == 5, "all six pairs but the one whose edits touch"


def test_a_checkpoint_that_learned_to_correct_rewrites(taught, checkpoint, encoder):
    """With no edits at all, other texts become those of the vectors, and more often than before it learned."""
    texts = SENTENCES[:20]
    target = encoder.encode(texts)

    def rewritten(loaded) -> int:
        counting = replace(loaded, encoder=Counting(encoder))
        corrector = corrector_of(counting, search(counting, rounds=4, edits=0, logprob_weight=0))
        rows = [[Candidate(text, -10.0)] for text in [*texts[7:], *texts[:7]]]
        rerank(rows, target, encoder, 0, 1)
        calls = corrector.correct(target, rows)
        assert sum(calls) >= len(counting.encoder.texts) > 0, "a text of two rows is embedded once"
        return sum(row[0].text == text for row, text in zip(rows, texts))

    before = load_checkpoint(checkpoint, torch.device("cpu"))
    before.inverter.difference = taught.inverter.difference
    assert rewritten(taught) >= max(rewritten(before) + 3, 14)


def test_hypotheses_without_room_for_a_correction_are_not_rewritten(taught, encoder):
    """And the correction of a text does not depend on those beside it."""
    loaded = replace(taught, encoder=encoder)
    corrector = corrector_of(loaded, search(loaded))
    half = loaded.inverter.n_correction_positions // 2
    texts = ["Мой брат", "Мой брат ищет ключи в саду.", "Мой брат ищет ключи" + " в саду" * 30, "Мой" + " брат" * 40]
    while len(tokenize(loaded.tokenizer, texts[3:])[0]) > half:
        texts[3] = texts[3].removesuffix(" брат")
    vectors = encoder.encode(texts)
    hypotheses = [_Hypothesis(i, Candidate(text, 0.0, 0.0, vectors[i])) for i, text in enumerate(texts)]
    together = corrector._rewritten(hypotheses, torch.from_numpy(vectors))
    assert not together[2] and together[0] and together[1] and together[3]
    for i, hypothesis in enumerate(hypotheses):
        (alone,) = corrector._rewritten([hypothesis._replace(row=0)], torch.from_numpy(vectors[i : i + 1]))
        assert alone == together[i]
