import numpy as np
import pytest
from tiny import DIM

from v2t_cli.core.similarity import unit_rows
from v2t_cli.models import words as module
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.words import UNSEEN, Words


def words_of(*spellings: str, counts: list[int] | None = None, vectors: np.ndarray | None = None) -> Words:
    if vectors is None:
        vectors = np.random.default_rng(0).normal(size=(len(spellings), DIM)).astype(np.float32)
    return Words(Lexicon(list(spellings), counts or [len(spellings) - i for i in range(len(spellings))], []), vectors)


def shortlists(words: Words, targets: np.ndarray, owns: np.ndarray) -> list[np.ndarray]:
    """For texts of eight words."""
    return words.shortlists(targets, owns, np.full(len(targets), 1 / 9), np.full(len(targets), 0.001))


def spelled(words: Words, places) -> list[str]:
    return [words.spellings[place] for place in places]


def test_vectors_have_length_1():
    words = words_of("и", "мама", vectors=np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert words.vectors.dtype == words.log_counts.dtype == np.float32
    np.testing.assert_allclose(words.vectors, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(words.log_counts, np.log([2, 1]), rtol=1e-6)


def test_a_part_of_the_lexicon():
    """The most frequent words: of the others there are no vectors."""
    words = words_of("столом", "столы", "Иван", "столами", vectors=np.eye(3, dtype=np.float32))
    assert len(words) == len(words.log_counts) == 3
    assert [words.place(word) for word in ("столом", "иван", "столами", "папа")] == [0, 2, None, None]
    assert spelled(words, words.alike("столов")) == ["столом", "столы"]


def test_forms_that_the_lexicon_lacks():
    lexicon = Lexicon(["стол", "Иван", "столы"], [9, 2, 1], [])
    words = Words(lexicon, np.eye(4, dtype=np.float32), ["Ивана", "столах"])  # without the last word
    assert words.spellings == ["стол", "Иван", "Ивана", "столах"] and len(words) == len(words.log_counts) == 4
    assert [words.place(word) for word in ("Стол", "ивана", "столах", "столы")] == [0, 2, 3, None]
    np.testing.assert_allclose(words.log_counts, [np.log(9), np.log(2), UNSEEN, UNSEEN], rtol=1e-6)
    assert words.log_counts.dtype == np.float32
    assert spelled(words, words.alike("Иваном")) == ["Иван", "Ивана"] and spelled(words, words.alike("столом")) == ["стол", "столах"]
    assert words.unknown("ИВАНА столом, столы, столах: 5!") == ["столом"] and lexicon.unknown("Ивана столы") == ["Ивана"]


def test_no_words():
    words = words_of(vectors=np.empty((0, DIM), dtype=np.float32))
    targets = np.eye(2, DIM)
    assert [it.tolist() for it in shortlists(words, targets, targets)] == [[], []]
    assert (words.place("мама"), words.alike("мама"), words.unknown("мама"), words.inflected("мамами")) == (None, [], [], [])
    assert words.near(["мама"], np.arange(0)).tolist() == []


class TestShortlists:
    @pytest.fixture
    def many(self, monkeypatch):
        """300 words, of which few are for a shortlist, made for two texts at a time."""
        monkeypatch.setattr(module, "SHORTLIST", (25, 5))
        monkeypatch.setattr(module, "ROWS", 2)
        vectors = unit_rows(np.random.default_rng(1).normal(size=(300, 64)).astype(np.float32))
        return words_of(*(f"w{i}" for i in range(300)), counts=[1000 - i for i in range(300)], vectors=vectors)

    @pytest.fixture
    def texts(self, many):
        """The words of 25 texts, what their vectors are, and those of texts that lack the first word."""
        words = [np.random.default_rng(i).choice(300, size=8, replace=False) for i in range(25)]
        whole, lacking = (unit_rows(np.stack([many.vectors[text[first:]].sum(axis=0) for text in words])) for first in (0, 1))
        return words, whole, lacking

    def test_all_words_of_a_small_lexicon(self):
        words, targets = words_of(*"абвгд"), np.eye(3, DIM)
        assert [it.tolist() for it in shortlists(words, targets, targets)] == [[0, 1, 2, 3, 4]] * 3

    def test_they_hold_the_word_that_is_missing(self, many, texts):
        words, whole, lacking = texts
        found = shortlists(many, whole, lacking)
        assert len(found) == len(words)
        for text, shortlist in zip(words, found):
            assert shortlist.dtype == np.int64 and (np.diff(shortlist) > 0).all() and 25 <= len(shortlist) <= 30
            assert text[0] in shortlist and set(range(5)) <= set(shortlist), "and the most frequent ones"

    def test_what_a_text_lacks_says_more_than_the_vector_alone(self, many, texts, monkeypatch):
        words, whole, lacking = texts
        monkeypatch.setattr(module, "SHORTLIST", (5, 0))
        assert all(text[0] in shortlist for text, shortlist in zip(words, shortlists(many, whole, lacking)))
        nearest = np.argsort(-whole @ many.vectors.T, axis=1)[:, :5]
        assert not all(text[0] in places for text, places in zip(words, nearest))

    def test_each_is_that_of_its_text_alone(self, many, texts):
        _, whole, lacking = texts
        parts, priors = np.linspace(0.05, 0.5, 25), np.linspace(0.001, 0.1, 25)
        together = many.shortlists(whole, lacking, parts, priors)
        for i in range(25):
            (alone,) = many.shortlists(*(values[i : i + 1] for values in (whole, lacking, parts, priors)))
            assert alone.tolist() == together[i].tolist()

    def test_of_equally_near_words_the_frequent_ones(self, monkeypatch):
        monkeypatch.setattr(module, "SHORTLIST", (3, 2))
        counts = np.random.default_rng(0).permutation(50) + 1
        words = words_of(*(f"w{i}" for i in range(50)), counts=counts.tolist(), vectors=np.ones((50, DIM)))
        (shortlist,) = shortlists(words, np.eye(1, DIM), np.eye(1, DIM, 1))
        assert set(shortlist) == {0, 1, *np.argsort(counts)[-3:]}


class TestForms:
    @pytest.fixture
    def words(self):
        return words_of("читал", "Читали", "читает", "чай", "ищет", "искал", "искали", "он", "ищу", "пел", "чайка")

    def test_words_that_begin_alike(self, words):
        assert spelled(words, words.alike("читал")) == ["читал", "Читали", "читает"], "whatever the case"
        assert words.alike("ЧИТАЮТ") == words.alike("читал"), "the word itself need not be there"
        assert words.alike("писал") == words.alike("читательница") == []
        assert spelled(words, words.alike("ищем")) == ["ищет"]
        assert words.alike("он") == words.alike("чай") == words.alike("пел") == words.alike("") == [], "short words have no forms"

    def test_forms_join_the_shortlist(self, words):
        assert spelled(words, words.near(["искала", "он"], np.array([7, 9]))) == ["искал", "искали", "он", "пел"]
        assert words.near(["он", "?"], np.array([7, 9])).tolist() == [7, 9]

    def test_a_word_is_inflected_by_analogy(self):
        words = words_of("работал", "работали", "работает", "гулял", "гуляли", "думали", "думает", "Дышала", "дышали", "ходил")
        assert words.inflected("ходил")[0] == "ходили", "most words have л beside ли"
        found = words.inflected("Дышала")
        assert "дышал" not in found and "дышали" not in found, "дышали is in the lexicon, and no word here has л beside ла"
        found = words.inflected("думали")
        assert "думал" in found and "думает" not in found and len(set(found)) == len(found)
        assert all(it == it.lower() and words.place(it) is None for it in found)

    def test_longer_endings_say_more(self):
        words = words_of("дань", "дани", "тень", "тени", "знать", "знала", "брать", "брала")
        assert words.inflected("гулять")[:2] == ["гуляла", "гуляти"], "as often as ь beside и there is ть beside ла"

    def test_beginnings_alternate_too(self):
        words = words_of("ходил", "уходил", "носил", "уносил", "писал", "дом")
        assert words.inflected("Бегал") == ["убегал"] and words.inflected("угулял")[0] == "гулял"
        assert words.inflected("писал") == ["уписал"] and "ходил" not in words.inflected("уходил")

    def test_words_that_the_lexicon_lacks_are_inflected_too(self):
        words = words_of("белый", "белого", "синий", "синего")
        assert words.inflected("Зелёный") == ["зелёного"] and words.inflected("верхний") == ["верхнего"]
        assert words.inflected("мы") == words.inflected("") == words.inflected("🙂") == []

    def test_rare_words_teach_nothing(self, monkeypatch):
        spellings = ("белый", "белого", "ходил", "ходили")
        assert words_of(*spellings).inflected("гулял") == ["гуляли"]
        monkeypatch.setattr(module, "TAUGHT", 2)
        assert words_of(*spellings).inflected("гулял") == []
        assert words_of(*spellings).inflected("зелёный") == ["зелёного"]
