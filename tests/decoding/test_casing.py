"""Upper and lower case where the encoder sees none."""

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES

from v2t_cli.core.config import DecodeConfig
from v2t_cli.decoding import casing
from v2t_cli.decoding.candidates import Candidate, Row, rerank
from v2t_cli.decoding.casing import _first_changes, _variants, blindness, recase, without_blanks
from v2t_cli.decoding.corrector import Corrector
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.inverter import log_likelihood
from v2t_cli.models.language_model import tokenize
from v2t_cli.models.lexicon import Lexicon


class SeesCase(Encoder):
    def __init__(self, identity):
        self.identity = identity

    def encode(self, texts):
        return np.array([[sum(map(ord, text)) % 97, *[1.0] * (DIM - 1)] for text in texts], dtype=np.float32)

    def count_truncated(self, texts):
        return 0


def test_what_encoders_do_not_see(encoder, monkeypatch):
    assert blindness(encoder) == (True, True), "the tiny LaBSE writes its texts in lower case first, and BERT's tokenizer splits marks off"
    assert blindness(SeesCase(encoder.identity)) == (False, False)
    monkeypatch.setattr(encoder, "encode", None)
    assert blindness(encoder).to_case, "asked once"


def test_blanks_before_marks_go_if_the_encoder_does_not_see_them(opened):
    text = next(text for text in SENTENCES if text.endswith("."))
    spaced, targets = text.replace(".", " ."), torch.from_numpy(opened.encoder.encode([text]))
    found = [
        recase([spaced], targets, opened.inverter, opened.tokenizer, Lexicon.of_texts(SENTENCES), blanks)[0] for blanks in (True, False)
    ]
    assert found == [[text], [spaced]]


def test_blanks_around_marks_do_not_change_what_is_seen():
    assert without_blanks("Да , нет.Что ? 10 : 30") == "Да,нет.Что?10:30"
    assert without_blanks("за $ 36 ( до обеда )") == without_blanks("за $36 (до обеда)")
    assert without_blanks("да 🙂 да _ да") == "да 🙂 да _ да"


def test_blanks_after_marks_come_back():
    variants = list(_variants("Он здесь?Я не знаю .", Lexicon([], [], []), blanks=True))
    assert {"Он здесь? Я не знаю .", "Он здесь?Я не знаю."} <= set(variants)
    assert "Он здесь?Я не знаю." in _variants("Он здесь? Я не знаю.", Lexicon([], [], []), blanks=True)
    assert "За $36 - всё" in _variants("За $ 36 - всё", Lexicon([], [], []), blanks=True), "one blank alone"
    assert "да - нет" in _variants("да-нет", Lexicon([], [], []), blanks=True), "two at once"
    assert "В 8:30, а?" in _variants("В 8:30,а?", Lexicon([], [], []), blanks=True), "a time stays whole"


@pytest.mark.parametrize("change", [str.lower, str.upper, lambda text: text[0].lower() + text[1:].title()])
def test_the_decoder_chooses_the_case(opened, change):
    texts = [text for text in SENTENCES[:20] if text.lower() != text]
    targets = torch.from_numpy(opened.encoder.encode(texts))
    lexicon = Lexicon.of_texts(SENTENCES)
    found, logprobs = recase([change(text) for text in texts], targets, opened.inverter, opened.tokenizer, lexicon)
    assert [text.lower() for text in found] == [text.lower() for text in texts], "nothing but case changes"
    assert np.mean([ours == text for ours, text in zip(found, texts)]) > 0.8
    ids = tokenize(opened.tokenizer, found)
    expected = log_likelihood(opened.inverter, targets, ids, np.arange(len(ids)), opened.tokenizer.pad_token_id)
    np.testing.assert_allclose(logprobs, expected, rtol=1e-4)


def test_no_texts_stay_none(opened):
    assert recase([], torch.empty(0, DIM), opened.inverter, opened.tokenizer, Lexicon([], [], [])) == ([], [])


def test_a_text_that_is_right_stays(opened):
    targets = torch.from_numpy(opened.encoder.encode(SENTENCES[:5]))
    assert recase(SENTENCES[:5], targets, opened.inverter, opened.tokenizer, Lexicon([], [], []))[0] == SENTENCES[:5]


def test_variants_with_an_improbable_first_change_are_not_scored(opened, monkeypatch):
    texts = [text.lower() for text in SENTENCES[:20]]
    targets, scored = torch.from_numpy(opened.encoder.encode(texts)), []

    def recorded(inverter, vectors, rows, *more):
        scored.append(len(rows))
        return log_likelihood(inverter, vectors, rows, *more)

    monkeypatch.setattr(casing, "log_likelihood", recorded)
    found = []
    for hopeless in (casing.HOPELESS, np.inf):
        monkeypatch.setattr(casing, "HOPELESS", hopeless)
        scored.clear()
        found.append((*recase(texts, targets, opened.inverter, opened.tokenizer, Lexicon.of_texts(SENTENCES)), scored[0]))
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4)
    assert found[0][2] < 0.7 * found[1][2]


def test_how_much_more_probable_a_first_change_is(opened):
    """Against the log-probability of the rows up to this change."""
    groups = [tokenize(opened.tokenizer, [text, text.lower(), text.upper(), text + "!"]) for text in SENTENCES[:4]]
    groups[2] = groups[2][:1]  # of which nothing else is asked
    groups[3][0] = groups[3][0] * 100  # longer than the decoder reads
    rows, sizes = [row for group in groups for row in group], [len(group) for group in groups]
    owners = np.repeat(np.arange(4), sizes)
    targets, pad_id = torch.from_numpy(opened.encoder.encode(SENTENCES[:4])), opened.tokenizer.pad_token_id
    found = _first_changes(opened.inverter, targets, rows, owners, sizes, pad_id)
    expected = []
    for owner, (first, *others) in enumerate(groups[:2]):
        expected.append(0.0)
        for other in others:
            place = next((i for i, (a, b) in enumerate(zip(first, other)) if a != b), 0)
            both = log_likelihood(opened.inverter, targets, [first[: place + 1], other[: place + 1]], np.array([owner, owner]), pad_id)
            expected.append(both[1] - both[0])
    np.testing.assert_allclose(found, [*expected, *[0.0] * 5], atol=1e-4)
    assert np.count_nonzero(found) >= 5


def test_corrected_texts_have_the_decoders_case(opened):
    opened.open_words(2**17)
    fitted = fit(opened, resolve_search(DecodeConfig(quality="balanced")))
    text = next(text for text in SENTENCES if len(text.split()) > 3)
    vectors = opened.encoder.encode([text])
    row = Row(0, [Candidate(text.lower().rstrip("."), -50.0)])  # one edit away
    rerank([row], vectors, opened.encoder, (corrector := Corrector(*of(opened), fitted)).ranking)
    corrector.correct([row], vectors)
    assert row.best.text == text and len({it.text for it in row.candidates}) == len(row.candidates)


def of(checkpoint):
    return checkpoint.inverter, checkpoint.tokenizer, checkpoint.encoder, checkpoint.words
