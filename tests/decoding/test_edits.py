import itertools
import random
import re

import pytest

from v2t_cli.decoding.edits import FLIP, Edit, Parsed, Span, apply, disjoint, edit, together

TEXT = "Мама купила хлеб."
ODD = ["", " ", "!", "🙂", "Да", "ёж", "1 2 3", "— Что?", "— Что? — Ничего…", "a  b", " а, б ", "Ёж\u2028пьёт\tчай", "МАМА!", "a-b 'c' (d)"]


def every_edit(text: str, *words: str) -> list[Edit]:
    parsed = Parsed(text)
    insertions = [it for word in words for it in parsed.insertions(word)]
    replacements = [parsed.replacement(number, word) for number in range(len(parsed)) for word in words]
    orders = [
        *parsed.swaps(neighbours=True),
        *parsed.swaps(neighbours=False),
        *parsed.moves(),
        *parsed.block_moves(),
        *parsed.block_swaps(),
        *parsed.sentence_moves(),
        *parsed.rotations(),
    ]
    return [*parsed.cases(), *parsed.digits(), *insertions, *replacements, *parsed.deletions(), *parsed.marks(["", ".", "?!"]), *orders]


@pytest.mark.parametrize(
    ("spans", "text"),
    [
        ([], TEXT),
        ([Span(5, 11, "съела")], "Мама съела хлеб."),
        ([Span(4, 4, " быстро")], "Мама быстро купила хлеб."),
        ([Span(0, 4, "")], "Купила хлеб."),
        ([Span(16, 17, "?"), Span(0, 4, "папа")], "Папа купила хлеб?"),
        ([Span(4, 11, "")], "Мама хлеб."),
        ([Span(4, 5, "   ")], TEXT),
        ([Span(0, 17, "")], ""),
        ([Span(0, 4, "5")], "5 купила хлеб."),
    ],
)
def test_apply(spans, text):
    assert apply(TEXT, edit(*spans)) == text


def test_a_small_first_letter_stays_small():
    assert apply("мама купила хлеб", edit(Span(0, 5, ""))) == "купила хлеб"
    assert apply("iPhone дома", edit(Span(0, 6, "Телефон"))) == "Телефон дома", "a capital that an edit brings is kept"


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        *[(TEXT, "мама купила хлеб."), ("мама купила хлеб.", TEXT), ("— Что?", "— что?"), ("Я", "я"), ("МАМА!", "мАМА!")],
        *[("5 котов", "5 котов"), ("", ""), ("🙂", "🙂"), ("!", "!")],
    ],
)
def test_the_first_letter_changes_its_case(text, flipped):
    assert apply(text, FLIP) == flipped
    assert apply(apply(text, FLIP), FLIP) == text


def test_a_flip_is_made_after_the_other_edits():
    first = edit(Span(0, 5, ""))
    assert disjoint(FLIP, first) and not disjoint(FLIP, FLIP)
    assert apply(TEXT, together([first, FLIP])) == "купила хлеб."
    assert apply("мама купила хлеб.", together([FLIP, edit(Span(0, 4, "папа"))])) == "Папа купила хлеб."


def test_spans_that_touch_may_be_combined_those_that_overlap_not():
    word, blank, inside, behind = Span(0, 4, "Папа"), Span(4, 5, ", "), Span(2, 3, "й"), Span(4, 4, " наша")
    assert disjoint(edit(word), edit(Span(5, 6, "К")))
    assert disjoint(edit(word), edit(blank)) and disjoint(edit(behind), edit(word)) and disjoint(edit(behind), edit(blank))
    assert apply(TEXT, together([edit(blank), edit(word), edit(behind)])) == "Папа наша, купила хлеб."
    assert not disjoint(edit(word), edit(inside)) and not disjoint(edit(inside), edit(word))
    assert not disjoint(edit(word), edit(Span(2, 2, "й"))), "not even an insertion into what is replaced"
    assert not disjoint(edit(Span(7, 9, ""), word), edit(inside))
    assert disjoint(edit(Span(5, 5, "не ")), edit(Span(5, 5, "уже "))), "two words at one place, in either order"


def test_what_is_disjoint_can_be_made_one_after_the_other():
    draw = random.Random(0)
    edits = every_edit("Он, кажется, ел суп!", "слово")
    pairs = [pair for pair in (draw.choices(edits, k=2) for _ in range(3000)) if disjoint(*pair) and not set(pair) & {FLIP}]
    assert len(pairs) > 300
    for one, two in pairs:
        both = together([one, two])
        assert sorted(both.spans) == sorted((*one.spans, *two.spans)) and not both.flip
        assert apply("Он, кажется, ел суп!", both) == apply("Он, кажется, ел суп!", together([two, one]))


def test_words_look_as_they_do_inside_a_sentence():
    assert Parsed("— Мама, США и Я: iPhone").words == ["мама", "США", "и", "Я", "iPhone"]
    assert Parsed("США и мы").words == ["США", "и", "мы"] and Parsed("Я сам").words == ["я", "сам"]
    assert [len(Parsed(text)) for text in ("", "🙂", TEXT)] == [0, 0, 3]
    assert [Parsed(text).end for text in ("", "🙂", TEXT, "Что?!", "да")] == ["", "🙂", ".", "?!", ""]


def texts_of(edits, text=TEXT) -> list[str]:
    return [apply(text, it) for it in edits]


def test_replacements_insertions_and_deletions():
    parsed = Parsed(TEXT)
    assert texts_of(parsed.replacement(number, "он") for number in range(3)) == ["Он купила хлеб.", "Мама он хлеб.", "Мама купила он."]
    assert texts_of(parsed.insertions("вчера")) == [
        *("Вчера мама купила хлеб.", "Мама купила хлеб вчера.", "Мама вчера купила хлеб.", "Мама купила вчера хлеб.")
    ]
    assert texts_of(parsed.deletions()) == ["Купила хлеб.", "Мама хлеб.", "Мама купила."]
    assert texts_of(Parsed("Я, мама и папа").insertions("не"), "Я, мама и папа")[::2][:2] == ["Не я, мама и папа", "Я, не мама и папа"]
    assert texts_of(Parsed("?").insertions("что"), "?") == ["что ?"] and not Parsed("?").deletions()


def test_marks():
    text = "Да, он ел, пил и спал?"
    assert texts_of(Parsed(text).marks(["?", ".", "?!"]), text) == [
        *("Да, он ел, пил и спал.", "Да, он ел, пил и спал?!"),  # other ends
        *(
            "Да он ел, пил и спал?",
            "Да,он ел, пил и спал?",
            "Да, он ел пил и спал?",
            "Да, он ел,пил и спал?",
        ),  # without a mark, or its blank
        *("Да, он, ел, пил и спал?", "Да, он ел, пил, и спал?", "Да, он ел, пил и, спал?"),  # with one more
    ]
    assert texts_of(Parsed("🙂").marks(["", "!"]), "🙂") == ["", "!"], "a text without words is all end"
    assert texts_of(Parsed("").marks(["", "!"]), "") == ["!"]


def test_other_marks():
    text = "Да! Иван, в 11:30."
    *first, a, b, c = texts_of(Parsed(text).other_marks(), text)
    assert first == ["Да, иван, в 11:30.", "Да, Иван, в 11:30.", "Да. Иван, в 11:30.", "Да? Иван, в 11:30."], "it may be a name"
    assert [a, b, c] == ["Да! Иван. В 11:30.", "Да! Иван! В 11:30.", "Да! Иван? В 11:30."], "none inside a number"
    assert not [*Parsed("").other_marks(), *Parsed("Да…").other_marks(), *Parsed("да - нет").other_marks()]


def test_cases():
    text = "— Да, Иван ел СУП 5 раз"
    assert texts_of(Parsed(text).cases(), text) == [
        *("— да, Иван ел СУП 5 раз", "— Да, иван ел СУП 5 раз", "— Да, Иван Ел СУП 5 раз", "— Да, Иван ел сУП 5 раз"),
        *(text, "— Да, Иван ел СУП 5 Раз"),
    ]
    assert list(Parsed("🙂").cases()) == [FLIP]


def test_order():
    parsed = Parsed(TEXT)
    assert texts_of(parsed.swaps(neighbours=True)) == ["Купила мама хлеб.", "Мама хлеб купила."]
    assert texts_of(parsed.swaps(neighbours=False)) == ["Хлеб купила мама."]
    assert texts_of(parsed.moves()) == ["Купила хлеб мама.", "Хлеб мама купила."]


def moved(words: list[str], sizes: range) -> set[str]:
    """Every text that comes of moving so many neighbouring words elsewhere."""
    out = set()
    for size, start in itertools.product(sizes, range(len(words))):
        block, rest = words[start : start + size], words[:start] + words[start + size :]
        if len(block) == size:
            out |= {" ".join(rest[:place] + block + rest[place:]) for place in range(len(rest) + 1)}
    return out - {" ".join(words)}


def test_the_edits_of_a_text_grow_no_faster_than_the_text():
    few, many = (len(every_edit(" ".join(map(str, range(100, 100 + count))), "слово", "!")) for count in (60, 120))
    assert many <= 2.2 * few


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_word_and_every_block_moves_to_every_place(count):
    words = ["один", "два", "три", "четыре", "пять"][:count]
    text = " ".join(words)
    parsed = Parsed(text)
    assert {*texts_of(parsed.moves(), text), *texts_of(parsed.swaps(neighbours=True), text)} == moved(words, range(1, 2))
    assert set(texts_of(parsed.block_moves(), text)) == moved(words, range(2, 5))


@pytest.mark.parametrize("count", [1, 2, 3, 6, 9])
def test_blocks_that_are_apart_are_swapped(count):
    words = [f"слово{number}" for number in range(count)]
    text = " ".join(words)
    ends = itertools.combinations(range(count + 1), 4)
    cuts = [(a, b, c, d) for a, b, c, d in ends if b - a <= 4 and c - b <= 4 and d - c <= 4 and (b - a, d - c) != (1, 1)]
    expected = [[*words[:a], *words[c:d], *words[b:c], *words[a:b], *words[d:]] for a, b, c, d in cuts]
    found = texts_of(Parsed(text).block_swaps(), text)
    assert sorted(it.lower() for it in found) == sorted(" ".join(order) for order in expected)


def test_towns_of_several_words_are_swapped():
    text = "Из Нового Орлеана потом в Рим."
    assert "Из Рим потом в Нового Орлеана." in texts_of(Parsed(text).block_swaps(), text)


def test_marks_keep_their_places_when_blocks_move():
    text = "— Один, два три: «четыре» пять!.."
    found = texts_of(Parsed(text).block_moves(), text)
    assert "— Два, три один: «четыре» пять!.." in found and "— Четыре, пять один: «два» три!.." in found
    assert {re.sub(r"\w+", "w", it) for it in found} == {"— w, w w: «w» w!.."}
    assert {tuple(sorted(re.findall(r"\w+", it.lower()))) for it in found} == {tuple(sorted(re.findall(r"\w+", text.lower())))}


def test_digits_become_others_the_nearest_first():
    found = texts_of(Parsed("Дом 19, к. 5").digits(), "Дом 19, к. 5")
    assert found[:4] == ["Дом 29, к. 5", "Дом 10, к. 5", "Дом 19, к. 6", "Дом 09, к. 5"]
    assert len(set(found)) == len(found) == 27 and not list(Parsed("Дом ² ٣").digits())


def test_sentences_move_with_their_marks():
    text = "Это он, Иван. А ты кто? Я — Анна!"
    found = texts_of(Parsed(text).sentence_moves(), text)
    assert found == ["А ты кто? Это он, Иван. Я — Анна!", "А ты кто? Я — Анна! Это он, Иван.", "Это он, Иван. Я — Анна! А ты кто?"]
    assert texts_of(Parsed("Да. Нет").sentence_moves(), "Да. Нет") == ["Нет Да."]
    assert not list(Parsed(TEXT).sentence_moves()) and not list(Parsed("").sentence_moves())


def test_what_stands_before_and_after_a_word_or_a_gap_changes_places():
    text = "Пришёл Иван и ушла Анна."
    found = texts_of(Parsed(text).rotations(), text)
    assert "Ушла Анна и пришёл Иван." in found and "И ушла Анна пришёл Иван." in found and len(found) == 5
    assert not list(Parsed("Два слова").rotations())


def test_a_sentence_may_start_behind_a_mark():
    text = "— Мама пришла."
    assert texts_of(Parsed(text).deletions(), text) == ["— Пришла.", "— Мама."]
    assert texts_of(Parsed(text).swaps(neighbours=True), text) == ["— Пришла мама."]
    assert texts_of(Parsed(text).insertions("а"), text)[0] == "— А мама пришла."


@pytest.mark.parametrize("text", [*ODD, TEXT])
def test_spans_are_disjoint_and_inside_the_text(text):
    for change in every_edit(text, "слово", "!"):
        assert all(0 <= start <= stop <= len(text) for start, stop, _ in change.spans)
        assert all(disjoint(edit(a), edit(b)) for a, b in itertools.combinations(change.spans, 2))
        edited = apply(text, change)
        assert edited == edited.strip() and "  " not in edited and edited.isprintable()


def test_control_characters_become_single_blanks():
    assert apply(TEXT, edit(Span(4, 5, "\t\x00\n"))) == TEXT
