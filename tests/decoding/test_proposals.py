import itertools

import numpy as np
import pytest
from tiny import DIM, disjoint

from v2t_cli.core.similarity import unit_rows
from v2t_cli.decoding import proposals as module
from v2t_cli.decoding.edits import FLIP, Parsed, apply, edit
from v2t_cli.decoding.proposals import Effort, Gradients, Wanted, details, inflections, prior, rewordings
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.words import Words

SPELLINGS = ["мама", "папа", "читает", "читала", "ест", "суп", "газету", "дома", "Иван", "утром"]
EASY, THOROUGH = Effort(25, False), Effort(100, True)
TEXT = "Мама читает, суп."


@pytest.fixture
def words() -> Words:
    """Ten words, each in a direction of its own."""
    return Words(Lexicon(SPELLINGS, list(range(10, 0, -1)), [(".", 9), ("?", 3), ("!", 2), ("…", 1)]), np.eye(len(SPELLINGS), DIM))


def vector(words: Words, text: str) -> np.ndarray:
    """The sum of its words, as of an encoder that only sees words."""
    return unit_rows(words.vectors[[words.place(word) for word in Parsed(text).words]].sum(axis=0)[None])[0]


class Preferring:
    """An encoder whose gradients point to one word."""

    def __init__(self, word: str):
        self.word = word

    def embeddings(self, spellings):
        return np.array([[spelling == self.word] for spelling in spellings], dtype=np.float32)


def wanting(target: np.ndarray, *places: int) -> Wanted:
    return Wanted(target, np.array(places, dtype=np.int64))


ALL, NONE = np.arange(len(SPELLINGS)), np.arange(0)


def reworded(words: Words, text: str, truth: str, effort=EASY, shortlist=ALL, places=()) -> list[str]:
    wanted = wanting(vector(words, truth), *places)
    tried = words.near(Parsed(text).words, np.union1d(shortlist, wanted.places))
    return [apply(text, it) for it in rewordings(Parsed(text), vector(words, text), wanted, tried, None, words, effort)]


def detailed(text: str, cosine: float, effort=EASY, first: bool = False) -> list[str]:
    return [apply(text, it) for it in details(Parsed(text), cosine, [".", "?", "!", "…"], effort, first)]


def test_more_effort_is_more_of_everything():
    efforts = [Effort(edits, False) for edits in (1, 25, 100, 1200)]
    assert [it.few for it in efforts] == [1, 1, 4, 48]
    assert [it.tokens for it in efforts] == [0, 7, 30, 360] and [it.sums for it in efforts] == [0, 10, 40, 480]
    assert [it.details(3) for it in efforts] == [it.details(6) for it in efforts] == [22, 70, 220, 2420]
    assert [it.orders(3) for it in efforts] == [it.orders(6) for it in efforts] == [15, 20, 35, 255]


def test_what_is_tried_of_a_long_text_takes_no_longer_to_embed():
    for effort in EASY, THOROUGH:
        for tried in effort.details, effort.orders:
            assert max(words * tried(words) for words in range(6, 200)) == 6 * tried(6)
    text = " ".join(f"слово{number}" for number in range(20)) + "."
    first = detailed(text, 0.97)[: EASY.details(20)]
    assert text[:-1] + "?" in first, "another end"
    assert {len(it.split()) for it in first} == {19, 20}


def test_frequency_says_more_about_texts_that_are_far_away():
    assert prior(0.5, EASY) > prior(0.9, EASY) > prior(1.0, EASY) > 0
    assert prior(0.9, EASY) > prior(0.9, THOROUGH) > 0, "a text that is edited again may lack a rare word"


class TestDetails:
    def test_deletions_marks_and_case_always_in_turns(self):
        assert detailed(TEXT, 0.5) == [
            *("Читает, суп.", "Мама читает суп.", "мама читает, суп."),
            *("Мама, суп.", "Мама читает,суп.", "Мама Читает, суп."),
            *("Мама читает,.", "Мама, читает, суп.", "Мама читает, Суп."),
        ]

    def test_other_ends_in_the_first_round_and_for_near_texts(self):
        ends = {"Мама читает, суп?", "Мама читает, суп!"}
        assert not ends & set(detailed(TEXT, 0.5)) and not ends & set(detailed(TEXT, module.NEAR))
        assert ends <= set(detailed(TEXT, 0.5, first=True)) and ends <= set(detailed(TEXT, module.NEAR + 0.01))
        assert "Мама читает, суп…" not in detailed(TEXT, 0.5, first=True), "only the most frequent three"
        assert "Мама читает, суп…" in detailed(TEXT, 0.5, THOROUGH, first=True)

    def test_other_marks_with_much_effort(self):
        assert "Мама читает. Суп." in detailed(TEXT, 0.5, THOROUGH) and "Мама читает. Суп." not in detailed(TEXT, 0.99)

    def test_of_texts_without_words(self):
        for text in ("", "🙂", "— ?"):
            assert detailed(text, 0.5)[0] == text, "only the case, which changes nothing"
            assert len(detailed(text, 0.5, first=True)) == 4


class TestRewordings:
    @pytest.mark.parametrize("truth", ["Мама ест суп.", "Папа читает суп.", "Мама читает газету."])
    def test_the_best_replacement_comes_first(self, words, truth):
        texts = reworded(words, "Мама читает суп.", truth)
        assert texts[0] == "Мама читала суп." and texts[1].count(" ") == 3, "a form, and a word to insert"
        assert texts[2] == truth

    def test_replacements_are_sorted_by_the_expected_cosine(self, words, monkeypatch):
        monkeypatch.setattr(module, "PRIOR", (0.0, 0.0))
        target = vector(words, "Папа читает газету утром")
        found = [it for it in reworded(words, "мама ест суп", "папа читает газету утром") if it.count(" ") == 2]
        cosines = [float(vector(words, it) @ target) for it in found]
        assert cosines == pytest.approx(sorted(cosines, reverse=True), abs=1e-6) and len(found) == 3 * 9
        own = ["мама", "ест", "суп"]
        assert set(found) == {" ".join([*own[:n], word, *own[n + 1 :]]) for n in range(3) for word in SPELLINGS if word != own[n]}

    def test_gradients_count(self, words):
        """They may prefer what the vectors of the words do not."""

        gradients, text = Gradients(np.array([[0.0], [0.0], [1.0]], dtype=np.float32), Preferring("дома")), "Мама ест суп"
        wanted = wanting(vector(words, "Папа ест суп"))
        edits = rewordings(Parsed(text), vector(words, text), wanted, ALL, None, words, EASY, gradients)
        found, without = [apply(text, it) for it in edits], reworded(words, text, "Папа ест суп")
        assert found.index("Мама ест дома") < without.index("Мама ест дома") and found.index("Папа ест суп") < 6

    def test_forms_insertions_and_replacements_take_turns(self, words):
        """Else the first edits of a long text would all be of one kind."""
        text = "мама читает суп дома " * 6
        kinds = [it.count(" ") for it in reworded(words, text.strip(), "папа " + text)[:18]]
        assert kinds.count(24) == 6, "a new word"
        forms = [it for it in reworded(words, text.strip(), "папа " + text)[:18] if "читала" in it]
        assert 5 <= len(forms) <= 7

    def test_forms_need_no_shortlist(self, words):
        texts = reworded(words, "Мама читает суп.", "Мама ест суп.", shortlist=ALL[4:5])
        assert texts[0] == "Мама читала суп." and texts.count("Мама ест суп.") == 1

    def test_words_of_the_candidates_need_no_shortlist(self, words):
        assert "Мама ест суп." in reworded(words, "Мама читает суп.", "Мама ест суп.", shortlist=NONE, places=[4])
        assert "Мама ест суп." not in reworded(words, "Мама читает суп.", "Мама ест суп.", shortlist=NONE)

    def test_words_are_inserted_at_every_place(self, words):
        texts = reworded(words, "Мама ест.", "Мама ест суп.")
        longer = [it for it in texts if it.count(" ") > 1]
        assert longer == ["Суп мама ест.", "Мама суп ест.", "Мама ест суп."], "one word with little effort"
        many = reworded(words, "Мама ест.", "Мама ест суп.", Effort(50, True))
        assert len([it for it in many if it.count(" ") == 2]) == 6

    def test_words_of_the_candidates_are_preferred_then_frequent_ones(self, words):
        """All are equally far from the vector."""
        wanted = np.eye(1, DIM, DIM - 1)[0]

        def inserted(*borrowed):
            own = np.eye(1, DIM, DIM - 2)[0]
            return apply("5", next(rewordings(Parsed("5"), own, wanting(wanted, *borrowed), ALL, None, words, EASY)))

        assert inserted() == "мама 5" and inserted(SPELLINGS.index("Иван")) == "Иван 5"

    def test_words_are_preferred_where_the_decoder_expects_them(self, words):
        """All are equally far from the vector."""
        text, wanted, own = "5 6", wanting(np.eye(1, DIM, DIM - 1)[0]), np.eye(1, DIM, DIM - 2)[0]

        def best(place: int) -> list[str]:
            context = np.full((3, len(SPELLINGS)), -12.0, dtype=np.float32)
            context[place, SPELLINGS.index("утром")] = -0.1
            edits = [apply(text, it) for it in rewordings(Parsed(text), own, wanted, ALL, context, words, EASY)]
            return [next(it for it in edits if it.count(" ") == blanks) for blanks in (2, 1)]

        assert best(0) == ["утром 5 6", "утром 6"] and best(1) == ["5 утром 6", "5 утром"]
        assert best(2)[0] == "5 6 утром"

    def test_no_word_replaces_itself(self, words):
        text = "МАМА Иван"
        texts = reworded(words, text, "Мама Иван", THOROUGH)
        assert text not in texts and "Мама Иван" not in texts and "Папа Иван" in texts

    def test_at_most_twice_as_many_replacements_as_edits(self, words):
        texts = reworded(words, "Мама ест суп", "Папа ест суп", Effort(3, False))
        assert len(texts) == 4 + 6

    def test_without_words(self, words):
        wanted = wanting(vector(words, "папа"))
        empty = Words(Lexicon([], [], []), np.empty((0, DIM)))
        for text, lexicon in (("Он пел.", words), ("Мама ест.", empty), ("", words), ("", empty)):
            found = rewordings(Parsed(text), vector(words, "мама"), wanted, NONE, None, lexicon, THOROUGH)
            assert not list(found)

    def test_a_word_that_nobody_knows_is_replaced_too(self, words):
        wanted = wanting(vector(words, "Мама ест суп"))
        own = unit_rows((words.vectors[[4, 5]].sum(axis=0) + np.eye(DIM)[-1])[None])[0]
        texts = [apply("Мымы ест суп", it) for it in rewordings(Parsed("Мымы ест суп"), own, wanted, ALL, None, words, EASY)]
        assert "Мама ест суп" in texts


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("text", ["Мама ест", "Мама ест газету", "Мама ест суп"])
def test_forms_that_the_lexicon_lacks_are_proposed(text, gradients):
    words = Words(Lexicon(SPELLINGS, list(range(10, 0, -1)), []), np.eye(len(SPELLINGS) + 1, DIM), ["супом"])
    assert words.place("супом") == len(SPELLINGS)
    own, wanted, shortlist = vector(words, text), wanting(vector(words, "Мама ест супом")), np.arange(len(words))
    found = Gradients(np.ones((len(Parsed(text)), 1), dtype=np.float32), Preferring("супом")) if gradients else None
    edits = rewordings(Parsed(text), own, wanted, shortlist, None, words, EASY, found)
    assert "Мама ест супом" in [apply(text, it) for it in edits]


def test_unseen_forms_take_turns():
    words = Words(Lexicon(["белый", "белого", "белому", "ходили", "ходила"], [5, 4, 3, 2, 1], []), np.eye(5))
    texts = [apply("Старый и гуляли", it) for it in inflections(Parsed("Старый и гуляли"), words)]
    assert texts == ["Старого и гуляли", "Старый и гуляла", "Старому и гуляли"]
    assert not list(inflections(Parsed("? 🙂"), words))


@pytest.mark.parametrize(
    "text", ["", " ", "!", "🙂", "Да", "1 2 3", "— Что?", "— Что? — Ничего…", "a  b", "Мама читает, суп.", "мама " * 9]
)
def test_edits_of_odd_texts(words, text):
    wanted = wanting(vector(words, "Папа ест суп"), 9)
    own = vector(words, "Мама")
    reworded = rewordings(Parsed(text), own, wanted, ALL, None, words, THOROUGH)
    edits = [*details(Parsed(text), 0.99, ["", "?"], THOROUGH, True), *reworded]
    assert FLIP in edits
    for change in (*edits, *inflections(Parsed(text), words)):
        assert all(0 <= start <= stop <= len(text) for start, stop, _ in change.spans)
        assert all(disjoint(edit(a), edit(b)) for a, b in itertools.combinations(change.spans, 2))
        assert apply(text, change) == apply(text, change).strip()
