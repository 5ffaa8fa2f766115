"""What the HTML pages share."""

from v2t_cli.decoding.candidates import SureWord
from v2t_cli.evaluation.evaluate import Sample
from v2t_cli.evaluation.page import marked, percent


def test_percents_round_to_all_and_none_only_where_that_is_true():
    values = (0, 1e-9, 0.05, 0.5, 0.996, 0.99999, 1)
    assert [percent(value) for value in values] == ["0%", "0.1%", "5.0%", "50%", "99.6%", "99.9%", "100%"]


def test_words_are_marked_by_how_sure_they_are():
    pair = Sample("", "Да, <b> нет!", 0.9, [SureWord("Да", 0.99), SureWord("b", 0.7), SureWord("нет", 0.3)])
    assert [part for part in marked(pair) if part[0]] == [("Да", "sure"), (", <", ""), ("b", ""), ("> ", ""), ("нет", "unsure"), ("!", "")]
    assert "".join(part for part, _ in marked(Sample("", "Что\n?", None))) == "Что ?"


def test_marks_of_direction_shift_no_words():
    """Without them, two words would become one."""
    sure = [SureWord("a", 0.99), SureWord("b", 0.3), SureWord("c", 0.99)]
    parts = marked(Sample("", "a\u200eb c\u200f", 0.9, sure))
    assert [part for part in parts if part[0]] == [("a", "sure"), ("b", "unsure"), (" ", ""), ("c", "sure")]
