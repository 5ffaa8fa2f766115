import numpy as np
import pytest
import torch
from conftest import SENTENCES

from v2t_cli.core.config import DecodeConfig, EncoderConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.corrector import Corrector, _Hypothesis, _pairs
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.edits import Span
from v2t_cli.decoding.search import Candidate, rank, rerank, resolve_search
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.encoder import open_encoder
from v2t_cli.models.language_model import tokenize

TRUTH = "Мой брат ищет ключи в саду."


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_checkpoint(checkpoint, torch.device("cpu"))


class Counting:
    """An encoder that counts what it is asked."""

    def __init__(self, encoder):
        self.encoder, self.identity, self.texts = encoder, encoder.identity, []

    def encode(self, texts):
        self.texts += texts
        return self.encoder.encode(texts)


@pytest.fixture
def encoder(labse):
    return Counting(open_encoder(EncoderConfig(model=str(labse)), "cpu"))


def corrected(loaded, encoder, start, **settings):
    # To the tiny random encoder some different texts look very much alike.
    search = resolve_search(DecodeConfig(quality="best", until_cosine=0.999999, **settings))
    target = encoder.encode([TRUTH])
    rows = [[Candidate(text, -10.0) for text in start]]
    rerank(rows, target, encoder, search.logprob_weight, search.until_cosine)
    before, encoder.texts = rows[0][0].cosine, []
    calls = Corrector(loaded.inverter, loaded.tokenizer, encoder, search).correct(target, rows)
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
def test_it_finds_the_text(loaded, encoder, start):
    row, calls, before = corrected(loaded, encoder, start)
    assert (row[0].text, before < 0.999999 <= row[0].cosine) == (TRUTH, True)
    assert len({candidate.text for candidate in row}) == len(row)
    assert calls == len(encoder.texts), "what it reports is what it asked"


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 100])
def test_encoder_calls_are_bounded(loaded, encoder, limit):
    row, calls, before = corrected(loaded, encoder, ["Кот спит.", "Дом.", "Нет"], encoder_calls=limit, logprob_weight=0)
    assert len(encoder.texts) == calls <= limit
    assert (calls > 0) == (limit > 0)
    assert row[0].cosine >= before


def test_it_stops_where_nothing_is_left_to_do(loaded, encoder):
    row, calls, _ = corrected(loaded, encoder, [TRUTH, "Мама дома."])
    assert (row[0].text, calls) == (TRUTH, 0)
    assert corrected(loaded, encoder, ["Мама дома."], rounds=0)[1] == 0


@pytest.mark.parametrize("text", ["", " ", "?", "🙂", "ab"])
def test_odd_hypotheses_are_corrected_too(loaded, encoder, text):
    row, calls, before = corrected(loaded, encoder, [text], rounds=2, logprob_weight=0)
    assert calls > 2 and row[0].cosine > before


def test_texts_that_outgrow_the_decoder_are_dropped(loaded, encoder):
    """The checkpoint has 48 positions: of the hypotheses some are too long already, of their edits some become so."""
    long = "Мой брат ищет ключи" + " в саду" * 30
    limit = loaded.inverter.n_positions
    full = next(text for text in (long[:i] for i in range(len(long), 0, -1)) if len(tokenize(loaded.tokenizer, [text])[0]) == limit)
    row, calls, _ = corrected(loaded, encoder, [long, full], rounds=2)
    assert calls > 2
    assert max(len(ids) for ids in tokenize(loaded.tokenizer, [it.text for it in row if it.text != long])) <= limit


def test_tokens_are_found_in_the_text_whatever_the_tokenizer(loaded, encoder):
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
    search = resolve_search(DecodeConfig(quality="best"))
    for each in (metaspace, blank):
        corrector = Corrector(loaded.inverter, each, encoder, search)
        assert corrector._surface(4) == " ест"
        assert corrector._places([1, 2, 3, 0], text) == [0, 1, 6, 11]
        assert corrector._places([1, 2, 0], "Нечто другое") == []
    corrector = Corrector(loaded.inverter, loaded.tokenizer, encoder, search)
    places = corrector._places(tokenize(loaded.tokenizer, ["🙂 да"])[0], "🙂 да")
    assert places[:3] == [0, None, None] and places[-1] == 4, "a token may be a piece of a character"
    assert [corrector._surface(loaded.tokenizer.eos_token_id), corrector._surface(loaded.tokenizer.encode("🙂")[0])] == ["", ""]


def test_best_is_at_least_as_near_as_balanced(loaded, encoder, caplog):
    """On texts of other words than the model knows, so that there is something to correct."""
    target = encoder.encode(["Дядя читает письма в саду.", "Тётя пьёт чай на даче.", *SENTENCES[:2]])
    balanced = list(decode(loaded, [Block(0, target)], resolve_search(DecodeConfig(beams=8)), encoder))
    caplog.set_level("DEBUG", "v2t")
    best = list(decode(loaded, [Block(0, target)], resolve_search(DecodeConfig(quality="best", beams=8, logprob_weight=0)), encoder))
    assert all(b.best.cosine >= a.best.cosine - 1e-6 for a, b in zip(balanced, best))
    assert sum(b.best.cosine for b in best) > sum(a.best.cosine for a in balanced)
    mean = np.mean([row.encoder_calls for row in best])
    assert f"{mean:,.0f} texts re-embedded a vector" in caplog.text


def test_best_without_an_encoder_goes_by_logprob(loaded, encoder):
    target = encoder.encode(SENTENCES[:3])
    rows = list(decode(loaded, [Block(0, target)], resolve_search(DecodeConfig(quality="best", beams=4))))
    assert [row.best.cosine for row in rows] == [None] * 3
    with pytest.raises(RequestError, match=r"decode.rounds is 3, but without decode.rerank"):
        resolve_search(DecodeConfig(quality="fast", rounds=3))


def test_the_decoder_has_a_say_but_not_against_a_text_that_arrived():
    near, likely, there = Candidate("абв", -40.0, 0.95), Candidate("где", -5.0, 0.94), Candidate("тут", -90.0, 1.0)
    row = [near, likely, there]
    rank(row, 0.001, 0.9999)
    assert row == [there, likely, near]
    rank(row, 0.0, 0.9999)
    assert row == [there, near, likely]


def test_the_climb_goes_by_the_cosine_and_the_ranking_does_not(loaded, encoder):
    """However much log-probability counts in the end, the text is found; and then it wins, since it arrived."""
    start = ["Мой ключи ищет брат в саду."]
    row, _, before = corrected(loaded, encoder, start, logprob_weight=1.0)
    assert row[0].text == TRUTH and row[0].cosine > before
    row, _, before = corrected(loaded, encoder, ["Мама пьёт чай."], logprob_weight=100.0, rounds=1, edits=20)
    assert all(not np.isnan(candidate.logprob) for candidate in row)
    assert row[0].cosine < 0.999999 and row[0].logprob == max(candidate.logprob for candidate in row)


def test_pairs_come_by_the_sum_of_their_moves():
    edits = [(Span(0, 1, "a"),), (Span(3, 4, "b"),), (Span(6, 7, "c"),), (Span(1, 2, "d"),)]
    own, target = np.array([1.0, 0, 0]), np.array([0.6, 0.8, 0.0])
    vectors = np.array([[0.9, 0.4, 0.1], [0.9, 0.4, -0.1], [0.9, 0.0, 0.4], [0.95, 0.3, 0.0]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = list(_pairs(edits, vectors, vectors @ target, own, target))
    assert pairs[0] in (edits[0] + edits[1], edits[1] + edits[0]), "what they do beside the way cancels out"
    assert len(pairs) == 5, "all of the six but the two that touch"


def test_a_checkpoint_that_learned_to_correct_rewrites(correcting, checkpoint, encoder):
    """With no edits at all, other texts become those of the vectors, and more often than before it learned."""
    texts = SENTENCES[:20]
    target = encoder.encode(texts)
    search = resolve_search(DecodeConfig(quality="best", rounds=4, edits=0, logprob_weight=0))

    def rewritten(checkpoint) -> int:
        corrector = Corrector(checkpoint.inverter, checkpoint.tokenizer, encoder, search)
        rows = [[Candidate(text, -10.0)] for text in [*texts[7:], *texts[:7]]]
        rerank(rows, target, encoder, 0, 1)
        encoder.texts = []
        calls = corrector.correct(target, rows)
        assert sum(calls) >= len(encoder.texts) > 0, "a text of two rows is embedded once"
        return sum(row[0].text == text for row, text in zip(rows, texts))

    learned, before = (load_checkpoint(folder, torch.device("cpu")) for folder in (correcting, checkpoint))
    before.inverter.difference = learned.inverter.difference
    assert rewritten(learned) >= max(rewritten(before) + 3, 14)


def test_hypotheses_without_room_for_a_correction_are_not_rewritten(correcting, encoder):
    """And what becomes of one text does not hang on those beside it."""
    checkpoint = load_checkpoint(correcting, torch.device("cpu"))
    corrector = Corrector(checkpoint.inverter, checkpoint.tokenizer, encoder, resolve_search(DecodeConfig(quality="best")))
    half = checkpoint.inverter.n_correction_positions // 2
    texts = ["Мой брат", "Мой брат ищет ключи в саду.", "Мой брат ищет ключи" + " в саду" * 30, "Мой" + " брат" * 40]
    while len(tokenize(checkpoint.tokenizer, texts[3:])[0]) > half:
        texts[3] = texts[3].removesuffix(" брат")
    vectors = encoder.encode(texts)
    hypotheses = [_Hypothesis(i, Candidate(text, 0.0, 0.0, vectors[i])) for i, text in enumerate(texts)]
    together = corrector._rewritten(hypotheses, torch.from_numpy(vectors))
    assert not together[2] and together[0] and together[1] and together[3]
    for i, hypothesis in enumerate(hypotheses):
        (alone,) = corrector._rewritten([hypothesis._replace(row=0)], torch.from_numpy(vectors[i : i + 1]))
        assert alone == together[i]
