"""What --redact masks."""

import pytest

from v2t_cli.decoding.candidates import SureWord
from v2t_cli.evaluation.evaluate import Sample
from v2t_cli.evaluation.redaction import Redactor
from v2t_cli.models.lexicon import WORD, Lexicon

LEXICON = Lexicon(["где", "Анна", "лена", "и", "в", "ждёт", "тебя", "арбуз"], [99, 99, 20, 99, 99, 99, 99, 3], ["."])


@pytest.mark.parametrize(
    ("source", "text", "masked"),
    [
        ("Анна ждёт тебя.", "Анна ждёт тебя.", ("[name 1] ждёт тебя.", "[name 1] ждёт тебя.")),
        ("где Анна и Пётр?", "где Пётр и Павел?", ("где [name 1] и [name 2]?", "где [name 2] и [name 3]?")),
        ("ждёт 8 марта в 5:30", "ждёт 9 марта в 5:30", ("ждёт [date 1] в [number 1]", "ждёт [date 2] в [number 1]")),
        ("тебя ждёт Лена.", "Лена ждёт тебя.", ("тебя ждёт [name 1].", "[name 1] ждёт тебя.")),
        ("где анна?", "где арбуз, кенгуру?", ("где [name 1]?", "где [rare word 1], [rare word 2]?")),
        ("тебя: a@example.org", "тебя 415-555-0134", ("тебя: [address 1]", "тебя [phone 1]")),
        ("ждёт кот_Анна_я и", "ждёт", ("ждёт [name 1] и", "ждёт")),
    ],
)
def test_masks(source, text, masked, monkeypatch):
    monkeypatch.setattr("v2t_cli.evaluation.entities.COMMON", 1)
    pair = Redactor(LEXICON).sample(Sample(source, text, 0.5))
    assert (pair.source, pair.text, pair.cosine, pair.words) == (*masked, 0.5, None)


def test_words_keep_their_certainty():
    sure = [SureWord("где", 0.9), SureWord("Анна", 0.7), SureWord("Смит", 0.2), SureWord("и", 0.8)]
    pair = Redactor(LEXICON).sample(Sample("", "где Анна Смит и", 0.5, sure))
    assert pair.text == "где [name 1] и"
    assert pair.words == [SureWord("где", 0.9), SureWord("name", 0.2), SureWord("1", 0.2), SureWord("и", 0.8)]
    assert [it.word for it in pair.words] == WORD.findall(pair.text)
