import re

import numpy as np
import pytest
from tiny import SENTENCES

from v2t_cli.core.errors import RequestError
from v2t_cli.models import lexicon as module
from v2t_cli.models.lexicon import Lexicon, inner_words, text_end


def contents(lexicon: Lexicon):
    return lexicon.words, lexicon.counts.tolist(), lexicon.ends


def test_words_and_ends_of_texts():
    lexicon = Lexicon.of_texts(["Мама дома?", "Где мама, а?", "Мама и Иван.", "…", "А, Иван"])
    assert contents(lexicon) == (["мама", "а", "Иван", "дома", "где", "и"], [3, 2, 2, 1, 1, 1], ["?", ".", "…", ""])
    assert lexicon.counts.dtype == np.int64 and len(lexicon) == 6
    assert contents(Lexicon.of_texts([])) == ([], [], [])


def test_a_word_is_written_as_it_is_most_often():
    lexicon = Lexicon.of_texts(["Он, иван, Иван и Иван", "США, мы в США", "Нато и нато", "ДА ДА, да"])
    assert [word for word in lexicon.words if len(word) > 2] == ["Иван", "США", "нато"], (
        "small where a sentence starts, unless all is large"
    )
    assert "ДА" in lexicon.words and len({word.lower() for word in lexicon.words}) == len(lexicon)


def test_the_capital_that_begins_a_sentence_is_no_evidence():
    texts = [
        "Tom, hi. Where were you?",
        "Tom is here",
        "— Tom?",
        "ask Tom",
        "Hi. I know",
        "I, too: Where?",
        '"Where is it?" Too bad',
        "Where",
    ]
    lexicon = Lexicon.of_texts(texts)
    spelled = {word.lower(): (word, int(count)) for word, count in zip(lexicon.words, lexicon.counts)}
    assert spelled["tom"] == ("Tom", 4) and spelled["where"] == ("where", 4) and spelled["hi"] == ("hi", 2)
    assert Lexicon.of_texts(["Tom is", "so I", "I"]).words[:2] == ["I", "tom"], "nothing says that it is a name"


@pytest.mark.parametrize(
    ("text", "words", "end"),
    [
        ("", [], ""),
        ("🙂", [], "🙂"),
        ("— Что?!", ["что"], "?!"),
        ("Я и ты", ["я", "и", "ты"], ""),
        ("США...", ["США"], "..."),
        ("iPhone у Ивана ;", ["iPhone", "у", "Ивана"], " ;"),
        ("2 дома.", ["2", "дома"], "."),
        ("İzmir!", ["İzmir"], "!"),
    ],
)
def test_words_of_a_text(text, words, end):
    assert (inner_words(text), text_end(text)) == (words, end)


def test_the_most_frequent_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MAX_WORDS", 2)
    monkeypatch.setattr(module, "MAX_ENDS", 1)
    lexicon = Lexicon.of_texts(["а б в а б в г б!", "а?", "б!", "щ" * 41 + " " + "щ" * 41])
    assert contents(lexicon) == (["б", "а"], [4, 3], ["!"])
    monkeypatch.undo()
    assert Lexicon.of_texts(["щ" * 41, "ш" * 40]).words == ["ш" * 40], "nobody writes longer words"


@pytest.mark.parametrize("texts", [SENTENCES, [], ["🙂", "!"], ["Да ?", "Нет? ", "İzmir, a-b_c 5!\r", "x\ty\t.", "x\u2028!", "\ufeffда"]])
def test_read_is_what_was_written(tmp_path, texts):
    lexicon = Lexicon.of_texts(texts)
    lexicon.write(tmp_path / "lexicon.txt")
    again = Lexicon.read(tmp_path / "lexicon.txt")
    assert contents(again) == contents(lexicon)
    again.write(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "lexicon.txt").read_bytes()


def test_the_words_of_two(monkeypatch):
    one, two = Lexicon.of_texts(["мама мама Дом!", "дом дом дом!"]), Lexicon.of_texts(["Это Мама, Мама и Мама?", "кот!"])
    assert contents(one.with_those_of(two)) == (["дом", "Мама", "это", "и", "кот"], [4, 3, 1, 1, 1], ["!", "?"])
    assert contents(one.with_those_of(Lexicon([], [], []))) == contents(one), "nothing counts twice"
    assert contents(one.with_those_of(one)) == contents(one)
    monkeypatch.setattr(module, "MAX_WORDS", 2)
    monkeypatch.setattr(module, "MAX_ENDS", 1)
    assert contents(one.with_those_of(two)) == (["дом", "Мама"], [4, 3], ["!"])


def test_a_place_does_not_depend_on_the_case():
    lexicon = Lexicon.of_texts(["Мама и Иван"])
    assert [lexicon.place(word) for word in ("мама", "МАМА", "и", "Иван", "иван", "папа", "")] == [0, 0, 1, 2, 2, None, None]


def test_unknown_words():
    lexicon = Lexicon.of_texts(["Мама и Иван.", "Дом 2"])
    assert lexicon.unknown("ИВАН и мама!") == []
    assert lexicon.unknown("Папо, мама и папо — 15 или ½ 1a") == ["Папо", "папо", "или", "½", "1a"], "a number is no word"
    assert lexicon.unknown("") == lexicon.unknown("🙂 ?") == []


@pytest.mark.parametrize(
    "line", ["0\tслово", "", "мама", "3 мама", "x\tмама", "\tмама", "-3\tмама", "1.5\tмама", "9" * 19 + "\tмама", "²\tмама"]
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "lexicon.txt"
    path.write_text(f"5\tи\n{line}\n4\tмама\n", encoding="utf-8")
    with pytest.raises(RequestError, match=f"{re.escape(str(path))}, line 2: damaged: expected a count, a tab and a word"):
        Lexicon.read(path)


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_bytes(b"5\t\xff\n")
    with pytest.raises(RequestError, match="line 1: not UTF-8"):
        Lexicon.read(path)
    with pytest.raises(RequestError, match="absent.txt: no such text file"):
        Lexicon.read(tmp_path / "absent.txt")
