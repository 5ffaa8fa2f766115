"""Which words of a text are names, numbers, dates, phone numbers and addresses, and which of them came back."""

import time

import pytest

from v2t_cli.evaluation import entities
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.models.lexicon import Lexicon

SMALL = "вы ты только марта где пришла купила пропустил the i is may you cool girl please confirm playing rose good room in"
FINDER = EntityFinder(Lexicon([*SMALL.split(), "Анна", "Иван", "Tom", "Park"], [9] * (len(SMALL.split()) + 4), []))


def found(text: str, kind: str, finder: EntityFinder = FINDER) -> list[str]:
    return [it.text for it in finder.find(text) if it.kind == kind]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Анна пришла.", ["Анна"]),
        ("Вы где? Только ты.", []),
        ("А где Вы, Иван Петров?", ["Иван Петров"]),
        ("где письмо Вашего брата, о Вашей и Вашему, Вашу, Вашим, Вашем, Ваших, Вашими", []),
        ("Пропустите, Анна!", ["Анна"]),  # not in the lexicon, but another form of it is
        ("Кирилл пришёл.", ["Кирилл"]),
        ("купила в Нью-Йорке, Париже и Москве", ["Нью-Йорке", "Париже", "Москве"]),
        ("The room is good. I may confirm.", []),
        ("Tom's room is in 10 East Thomas Road, Phoenix.", ["Tom", "East Thomas Road", "Phoenix"]),
        ("I met Mr. Smith and Sean O'Hare.", ["Smith", "Sean O'Hare"]),
        ("Please confirm: Playing Cool Girl on TV", ["Cool Girl"]),
        ("Is Bank of America in Los Angeles, CA?", ["Bank", "America", "Los Angeles", "CA"]),
        ("IS TOM IN THE ROOM?", ["TOM"]),
        ("tom is in the room", []),
    ],
)
def test_names(text, names, monkeypatch):
    monkeypatch.setattr(entities, "COMMON", 100)
    assert found(text, "names") == names


def test_a_common_word_is_no_name_inside_a_sentence_and_a_less_common_one_is(monkeypatch):
    monkeypatch.setattr(entities, "COMMON", 2)
    finder = EntityFinder(Lexicon(["is", "how", "rose"], [9, 9, 1], []))
    assert found("where Is Rose", "names", finder) == ["Is Rose"], "neighbours are one name"
    assert found("where Is it, Rose?", "names", finder) == ["Rose"] and found("Rose is here", "names", finder) == []


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("5 rooms, 1,200.50 or $18.76 at 5:30 pm; 50%", "numbers", ["5", "1,200.50", "$18.76", "5:30", "50%"]),
        ("1 200 рублей 14-го, 4-й дом, 700р, 5B, 18/8, five", "numbers", ["1 200", "14-го", "4-й", "700р", "5B", "18/8"]),
        ("1939-1945", "numbers", ["1939", "1945"]),
        ("5 €, 5€, 700 ₽ or 5 $18 and -5", "numbers", ["5 €", "5€", "700 ₽", "5", "$18", "5"]),
        ("12-05-2019, 2019/03/01", "dates", ["12-05-2019", "2019/03/01"]),
        ("12-05-2019, 2019/03/01", "phone numbers", []),
        ("12-05-2019, 2019/03/01", "numbers", []),
        ("(415)555-0134, 8(916)123-45-67", "phone numbers", ["(415)555-0134", "8(916)123-45-67"]),
        ("In May, By May or Next May. May I?", "dates", ["May", "May", "May"]),
        ("Https://example.org/a, WWW.EXAMPLE.ORG, EXAMPLE.COM", "addresses", ["Https://example.org/a", "WWW.EXAMPLE.ORG", "EXAMPLE.COM"]),
        ("2017-03-01, 12.05.2019, 3/15/2019", "dates", ["2017-03-01", "12.05.2019", "3/15/2019"]),
        ("March 8th, 2019 at 5:30, the 8th of march and Sept. 5", "dates", ["March 8th, 2019", "8th of march", "Sept. 5"]),
        ("8 марта, 1-го мая 2019 года, в апреле, август 1991", "dates", ["8 марта", "1-го мая 2019", "апреле", "август 1991"]),
        ("On Friday, в среду, до понедельника", "dates", ["Friday", "среду", "понедельника"]),
        ("May I? You march. Марта пришла. среда. Mon ami.", "dates", []),
        ("in May, in March", "dates", ["May", "March"]),
        ("call 415-555-0134.", "phone numbers", ["415-555-0134"]),
        ("+7 916 123-45-67 или 8 (916) 123-45-67", "phone numbers", ["+7 916 123-45-67", "8 (916) 123-45-67"]),
        ("(415) 555 0134, 89161234567", "phone numbers", ["(415) 555 0134", "89161234567"]),
        ("1 200 500, 1939-1945, 2017-03-01, 12.05.2019, 123-01, 12345678", "phone numbers", []),
        ("a.b@example.org, www.example.org", "addresses", ["a.b@example.org", "www.example.org"]),
        ("see https://example.org/a?b=1.", "addresses", ["https://example.org/a?b=1"]),
        ("example.com и v2t.ru, so. Come", "addresses", ["example.com", "v2t.ru"]),
    ],
)  # fmt: skip
def test_what_is_found_by_its_form(text, kind, expected):
    assert found(text, kind) == expected
    assert found(text, kind, EntityFinder(Lexicon([], [], []))) == expected, "that needs no lexicon"


def test_entities_do_not_overlap_and_stand_where_they_say():
    text = "Анна, 8 марта позвоните +7 916 123-45-67 или пишите на anna@example.org, Иван ждёт 5 минут."
    items = FINDER.find(text)
    assert [it.kind for it in items] == ["names", "dates", "phone numbers", "addresses", "names", "numbers"]
    assert all(text[it.start : it.end] == it.text for it in items)
    assert all(one.end <= other.start for one, other in zip(items, items[1:]))


def test_what_came_back_is_counted_as_often_as_it_stands_there():
    sources = ["Tom and Tom Park is 5", "где Анна, 8 марта?", "call 415-555-0134"]
    texts = ["is Tom Park 5:30", "Анна где, 8 мая?", "call 415-555-0134 or 5"]
    by_kind = {it.kind: (it.recovered, it.n) for it in FINDER.recalls(sources, texts)}
    assert by_kind == {"names": (2, 3), "numbers": (0, 1), "dates": (0, 1), "phone numbers": (1, 1), "addresses": (0, 0)}
    first, *_, last = FINDER.recalls(sources, texts)
    assert first.fraction == pytest.approx(2 / 3) and first.interval[0] < 2 / 3 < first.interval[1]
    assert last.fraction is None and last.interval is None
    assert FINDER.recalls(["Tom"], ["Tomas, tom"])[0].recovered == 0, "the whole word, in the same case"


def test_without_a_lexicon_there_is_no_count_of_names():
    assert [it.kind for it in EntityFinder(Lexicon([], [], [])).recalls(["Tom, 5"], ["Tom"])] == list(entities.KINDS[1:])


def test_long_texts_take_no_long_time():
    start = time.perf_counter()
    for part in ("a", "a-", "1", "1 ", "a.", "A ", "+1", "1-", "a@", "March ", "1 of ", "1,", "(", "\xa0"):
        FINDER.find(part * (20_000 // len(part)))
    assert time.perf_counter() - start < 20
