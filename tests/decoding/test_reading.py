import itertools

import numpy as np
import pytest
import torch
from tiny import SENTENCES, disjoint

from v2t_cli.decoding.edits import Edit, Parsed, Span, apply, edit
from v2t_cli.decoding.reading import IMPROBABLE, TOP_TOKENS, Reader
from v2t_cli.models.language_model import tokenize

TRUTH = "Мой брат ищет ключи в саду."


@pytest.fixture(scope="module")
def reader(loaded) -> Reader:
    return Reader(loaded.inverter, loaded.tokenizer)


@pytest.fixture(scope="module")
def target(encoder) -> torch.Tensor:
    """The vector of TRUTH: (1, dim)."""
    return torch.from_numpy(encoder.encode([TRUTH]))


def edits_of(reader, target, *texts) -> list[list[Edit]]:
    """The edits of each text, all for the same vector."""
    return read(reader, texts, target.expand(len(texts), -1))


def read(reader, texts, targets) -> list[list[Edit]]:
    return [it.edits for it in reader.read([Parsed(text) for text in texts], targets, [[]] * len(texts))]


@pytest.mark.parametrize(
    "text",
    [
        "Мой брат ждёт ключи в саду.",  # a token to replace
        "Мой брат ищет ключи саду.",  # one to insert
        "Мой брат ищет ключи в саду",  # at the end
        "Мой брат ищет ключи в в саду.",  # one to delete
    ],
)
def test_the_right_token_is_among_the_best(reader, target, text):
    (edits,) = edits_of(reader, target, text)
    assert TRUTH in [apply(text, it) for it in edits[: len(edits) // 8]]


def test_edits_follow_the_vector(reader, encoder):
    """The same text, for vectors of three others: to each of them its own edit comes first of the three."""
    texts = [f"Мой брат ищет ключи {where}." for where in ("дома", "на даче", "утром")]
    text = "Мой брат ищет ключи."
    for wanted, edits in zip(texts, read(reader, [text] * 3, torch.from_numpy(encoder.encode(texts)))):
        firsts = [word for it in edits for word in (" дома", " на", " утром") if it == edit(Span(19, 19, word))]
        assert len(firsts) == 3 and firsts[0] in wanted


@pytest.mark.parametrize("text", [TRUTH, "Мой брат ждёт ключи саду в саду.", "Мама", "?"])
def test_the_best_come_first(reader, target, text):
    """By the log-probability of what stands at a place after the edit, less that of what stands there before."""
    (row,) = tokenize(reader.tokenizer, [text])
    logprobs = reader.inverter.logits(target, torch.tensor([row])).log_softmax(dim=-1)[0].tolist()
    tokens = {reader._surface(token): token for token in range(len(reader.tokenizer))}
    places = {place: time for time, place in enumerate(reader._places(row, text))}
    values = []
    for ((start, stop, new),), _ in edits_of(reader, target, text)[0]:
        time = places[start]
        after = tokens[new] if new else row[time + 1]
        values.append(logprobs[time][after] - (logprobs[time][row[time]] if stop > start else 0.0))
    assert values == pytest.approx(sorted(values, reverse=True), abs=1e-4)


def first_token(reader, target, before: str, word: str) -> float:
    """Log-probability of the first token of a word after these words, for the vector."""
    rest, whole = (tokenize(reader.tokenizer, [text])[0][:-1] for text in (before, f"{before} {word}" if before else word))
    assert whole[: len(rest)] == rest
    logits = reader.inverter.logits(target, torch.tensor([whole])).detach()
    return float(logits.log_softmax(dim=-1)[0, len(rest), whole[len(rest)]])


@pytest.mark.parametrize(("dash", "text"), [("", "Мой брат ищет ключи, мама."), ("— ", "— Мой брат ищет ключи, мама.")])
def test_words_are_read_in_their_context(reader, target, monkeypatch, dash, text):
    monkeypatch.setattr("v2t_cli.decoding.reading.IMPROBABLE", -100.0)
    words = ["брат", "саду", "в", "Иван"]
    (reading,) = reader.read([Parsed(text)], target, [words])
    befores = [dash.strip(), *(dash + before for before in ("Мой", "Мой брат", "Мой брат ищет", "Мой брат ищет ключи,"))]
    befores.append(text[:-1])

    def expected(place: int, word: str) -> float:
        return first_token(reader, target, befores[place], word if place else word.capitalize())

    places = range(len(befores))
    np.testing.assert_allclose(reading.context, [[expected(place, word) for word in words] for place in places], rtol=1e-3)
    ours = Parsed(text).words
    (row,) = tokenize(reader.tokenizer, [text])
    logprobs = reader.inverter.logits(target, torch.tensor([row])).detach().log_softmax(dim=-1)[0]
    starts = [len(tokenize(reader.tokenizer, [before])[0]) - 1 for before in befores]
    nats = [
        [*(expected(place, word) for word in ours), float(logprobs[starts[place], row[-2]])] for place in places
    ]  # row[-2]: the full stop
    np.testing.assert_allclose(reading.junctions, np.array(nats) - np.diagonal(nats)[:, None], atol=1e-3)
    assert not reading.junctions.diagonal().any()


def test_a_small_first_letter_and_words_that_nobody_expects(reader, target):
    (small,) = reader.read([Parsed("мой брат")], target, [["мой"]])
    assert small.context[0, 0] == pytest.approx(max(first_token(reader, target, "", "мой"), IMPROBABLE), rel=1e-3)
    (reading,) = reader.read([Parsed(TRUTH)], target, [SENTENCES[5].split()])
    assert reading.context.min() == IMPROBABLE < reading.context.max()


@pytest.mark.parametrize("text", ["", "🙂", "— Что?", "🙂 да 🙂", TRUTH * 30])
def test_the_context_of_odd_texts(reader, target, text):
    (reading,) = reader.read([Parsed(text)], target, [["да", "Иван"]])
    words = len(Parsed(text))
    assert reading.junctions.shape == (words + 1, words + 1)
    assert (reading.context is None) == (len(text) > 100), "what does not fit the decoder is not read"
    assert reading.context is None or reading.context.shape == (words + 1, 2)


def test_a_text_that_its_tokens_do_not_give_back_is_not_read(reader, target, monkeypatch):
    monkeypatch.setattr(reader, "_places", lambda row, text: [])
    (lost,) = reader.read([Parsed(TRUTH)], target, [["дома"]])
    assert not lost.edits and not lost.junctions.any() and lost.context is None


def test_edits_do_not_depend_on_the_texts_beside_it(reader, encoder, monkeypatch):
    texts = ["Мой брат ждёт ключи в саду.", "Иван", "", TRUTH + " " + TRUTH, "🙂?"]
    targets = torch.from_numpy(encoder.encode(SENTENCES[::20]))
    together = read(reader, texts, targets)
    for i, edits in enumerate(together):
        (alone,) = read(reader, texts[i : i + 1], targets[i : i + 1])
        assert set(alone) == set(edits) and alone[:3] == edits[:3]
    monkeypatch.setattr("v2t_cli.models.inverter.MAX_LOGITS", 1)
    assert [set(edits) for edits in read(reader, texts, targets)] == [set(edits) for edits in together]


def test_what_does_not_fit_the_decoder_has_no_edits(reader, target):
    limit, long = reader.inverter.n_positions, "Мой брат ищет ключи" + " в саду" * 30
    full = next(text for text in (long[:i] for i in range(len(long), 0, -1)) if len(tokenize(reader.tokenizer, [text])[0]) == limit)
    nothing, some, short = edits_of(reader, target, long, full, "Иван")
    assert not nothing and some and short
    assert edits_of(reader, target, long) == [[]] and edits_of(reader, target) == []


@pytest.mark.parametrize("text", ["", " ", "?", "🙂", "— Что?", "a  b", " а ", "</s>", "🙂 да 🙂", "e\u0301", SENTENCES[0]])
def test_edits_of_odd_texts(reader, target, text):
    (edits,) = edits_of(reader, target, text)
    assert edits
    for change in edits:
        assert len(change.spans) == 1 and not change.flip
        ((start, stop, new),) = change.spans
        assert 0 <= start <= stop <= len(text) and new.isprintable() and "\ufffd" not in new and (new.strip() or start < stop)
    tokens = len(tokenize(reader.tokenizer, [text])[0])
    assert len(edits) <= tokens * (2 * TOP_TOKENS + 1)


def test_edits_of_different_places_can_be_made_at_once(reader, target):
    (edits,) = edits_of(reader, target, TRUTH)
    replaced = {it.spans[0][:2]: it for it in edits if it.spans[0].stop > it.spans[0].start}
    assert len(replaced) == len(tokenize(reader.tokenizer, [TRUTH])[0]) - 1
    assert all(disjoint(one, two) for one, two in itertools.combinations(replaced.values(), 2))


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
    for each in (metaspace, blank):
        reader = Reader(opened.inverter, each)
        assert reader._surface(4) == " ест"
        assert reader._places([1, 2, 3, 0], text) == [0, 1, 6, 11]
        assert reader._places([1, 2, 0], "Нечто другое") == []
    reader = Reader(opened.inverter, opened.tokenizer)
    places = reader._places(tokenize(opened.tokenizer, ["🙂 да"])[0], "🙂 да")
    assert places[:3] == [0, None, None] and places[-1] == 4, "a token may be a piece of a character"
    assert [reader._surface(opened.tokenizer.eos_token_id), reader._surface(opened.tokenizer.encode("🙂")[0])] == ["", ""]
