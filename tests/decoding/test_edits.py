import itertools
import random

import pytest
from tiny import disjoint

from v2t_cli.decoding.edits import FLIP, Edit, Parsed, Span, apply, edit, together

TEXT = "Мама купила хлеб."
ODD = ["", " ", "!", "🙂", "Да", "ёж", "1 2 3", "— Что?", "— Что? — Ничего…", "a  b", " а, б ", "Ёж\u2028пьёт\tчай", "МАМА!", "a-b 'c' (d)"]


def every_edit(text: str, *words: str) -> list[Edit]:
    parsed = Parsed(text)
    insertions = [it for word in words for it in parsed.insertions(word)]
    replacements = [parsed.replacement(number, word) for number in range(len(parsed)) for word in words]
    orders = [*parsed.neighbours(), *parsed.sentence_moves(), parsed.reordered(range(len(parsed))[::-1])]
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
    assert texts_of(parsed.neighbours()) == ["Купила мама хлеб.", "Мама хлеб купила."]
    assert texts_of([parsed.reordered(order) for order in ([2, 1, 0], [1, 2, 0], [0, 1, 2])]) == [
        "Хлеб купила мама.",
        "Купила хлеб мама.",
        TEXT,
    ]
    assert not Parsed("Да").neighbours() and not Parsed("").neighbours()


def test_another_order_leaves_alone_what_stays():
    swapped = Parsed("Один, два: «три» четыре").reordered([2, 1, 0, 3])
    assert swapped == edit(Span(0, 4, "три"), Span(12, 15, "один"))
    assert disjoint(swapped, edit(Span(6, 9, "пять"))), "so it can be made beside other edits"


def test_the_edits_of_a_text_grow_no_faster_than_the_text():
    few, many = (len(every_edit(" ".join(map(str, range(100, 100 + count))), "слово", "!")) for count in (60, 120))
    assert many <= 2.2 * few


def test_marks_keep_their_places_in_another_order():
    text = "— Один, два три: «четыре» пять!.."
    assert apply(text, Parsed(text).reordered([3, 4, 0, 1, 2])) == "— Четыре, пять один: «два» три!.."


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


def test_a_sentence_may_start_behind_a_mark():
    text = "— Мама пришла."
    assert texts_of(Parsed(text).deletions(), text) == ["— Пришла.", "— Мама."]
    assert texts_of(Parsed(text).neighbours(), text) == ["— Пришла мама."]
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
