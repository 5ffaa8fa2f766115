import pytest

from v2t_cli.decoding.edits import Span, apply, borrow, borrowings, disjoint, endings, last_letters, rearrangements

TEXT = "Мама купила хлеб."


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ([], TEXT),
        ([Span(5, 11, "съела")], "Мама съела хлеб."),
        ([Span(4, 4, " быстро")], "Мама быстро купила хлеб."),
        ([Span(0, 4, "")], "Купила хлеб."),
        ([Span(16, 17, "?"), Span(0, 4, "папа")], "Папа купила хлеб?"),
        ([Span(4, 11, "")], "Мама хлеб."),
        ([Span(4, 5, "   ")], TEXT),
    ],
)
def test_apply(edit, text):
    assert apply(TEXT, tuple(edit)) == text


def test_a_small_first_letter_stays_small():
    assert apply("мама купила хлеб", (Span(0, 5, ""),)) == "купила хлеб"


def test_edits_that_touch_are_not_made_at_once():
    assert disjoint((Span(0, 4, "a"),), (Span(5, 6, "b"),))
    assert not disjoint((Span(0, 4, "a"),), (Span(4, 6, "b"),))
    assert not disjoint((Span(7, 9, ""), Span(0, 4, "a")), (Span(2, 3, "b"),))


def test_rearrangements():
    texts = {apply(TEXT, edit) for edit in rearrangements(TEXT)}
    assert texts == {
        *("Купила хлеб.", "Мама хлеб.", "Мама купила.", "Мама купила хлеб"),  # deleted
        *("Купила мама хлеб.", "Хлеб купила мама.", "Мама хлеб купила."),  # swapped
        *("Купила хлеб мама.", "Хлеб мама купила."),  # moved
    }


def test_borrowings():
    texts = {apply(TEXT, edit) for edit in borrowings(TEXT, ["вчера", "?"])}
    assert texts == {
        *("Вчера купила хлеб.", "Мама вчера хлеб.", "Мама купила вчера."),  # in place of another
        *("Вчера мама купила хлеб.", "Мама вчера купила хлеб.", "Мама купила вчера хлеб.", "Мама купила хлеб вчера."),
        *("Мама купила хлеб?", "Мама? купила хлеб.", "Мама купила? хлеб.", "Мама купила хлеб?."),
    }


@pytest.mark.parametrize("text", ["", " ", "!", "Да", "ёж", "1 2 3", "— Что? — Ничего…", "a  b"])
def test_edits_of_odd_texts(text):
    for edit in (*rearrangements(text), *borrowings(text, ["слово", "!"])):
        assert all(0 <= span.start <= span.stop <= len(text) for span in edit)
        assert all(disjoint((a,), (b,)) for i, a in enumerate(edit) for b in edit[:i])
        assert apply(text, edit) == apply(text, edit).strip()


def test_a_sentence_may_start_behind_a_mark():
    assert apply("— Мама пришла.", (Span(1, 6, ""),)) == "— Пришла."
    assert "— Пришла мама." in {apply("— Мама пришла.", edit) for edit in rearrangements("— Мама пришла.")}


def test_control_characters_become_single_blanks():
    assert apply(TEXT, (Span(4, 5, "\t\x00\n"),)) == TEXT


def test_borrowed_words_are_those_that_the_text_lacks():
    assert borrow(TEXT, ["Папа купил хлеб!", "Мама купила МОЛОКО, папа."], 10) == ["папа", "купил", "!", "МОЛОКО", ","]
    assert borrow(TEXT, ["Папа купил хлеб!"], 1) == ["папа"]


def test_endings():
    assert {apply("Он съел суп.", edit) for edit in endings("Он съел суп.", "ла")} == {
        *("Он съе суп.", "Он съелл суп.", "Он съела суп.", "Он съеа суп."),
        *("Он съел су.", "Он съел супл.", "Он съел сул.", "Он съел супа.", "Он съел суа."),
    }
    assert not list(endings("Я и ты", "а")), "short words have no endings"


def test_last_letters():
    assert last_letters(["Мама купила хлеб.", "Папа ел суп."], 2) == ["а", "б"]
    assert last_letters([], 3) == []
