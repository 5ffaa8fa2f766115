import pytest

from v2t_cli.core.errors import V2TError
from v2t_cli.models import inflection as module
from v2t_cli.models.inflection import Inflection, cached_forms, unseen_forms

STEMS = "гуля", "бега", "чита", "писа", "дыша", "лета"
VERBS = [stem + ending for stem in STEMS for ending in ("л", "ла", "ли")]


def made(*words: str) -> list[str]:
    return unseen_forms(list(words))


def probabilities(*words: str) -> dict[str, float]:
    return dict(Inflection(words).forms(words))


def test_forms_are_made_by_analogy():
    assert made(*VERBS, "ходил", "дом") == ["ходила", "ходили"]
    assert made(*VERBS, "дом") == [], "all forms are there, and a noun has no ending of theirs"


def test_an_ending_must_have_come_often_enough(monkeypatch):
    assert "ходила" in made(*VERBS, "ходил")
    monkeypatch.setattr(module, "SEEN", len(STEMS) + 1)
    assert not made(*VERBS, "ходил")


def test_more_forms_of_a_word_make_another_likelier():
    few, more = probabilities(*VERBS, "ходил"), probabilities(*VERBS, "ходил", "ходила")
    assert few["ходили"] < more["ходили"] < 1


def test_the_letters_before_an_ending_tell_more():
    """ч becomes ш and т does not, whatever the most words do."""
    rare = [stem + ending for stem in ("руч", "туч", "куч", "дач") for ending in ("ка", "ек")]
    common = [stem + ending for stem in ("мама", "папа", "рама", "лапа") for ending in ("т", "том")]
    found = probabilities(*rare, *common, "точка", "лавка")
    assert found["точек"] > 2 * found["лавек"]


def test_the_likeliest_come_first():
    words = [*VERBS, "ходил", "возил", "возила"]
    found = probabilities(*words)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    unseen = [form for form in found if form not in words]
    assert made(*words) == unseen[:2] == ["возили", "ходила"] and found[unseen[1]] >= module.PROBABLE > found[unseen[2]]


def test_where_many_words_begin_alike_there_are_no_endings(monkeypatch):
    words = [*VERBS, "ходил"]
    monkeypatch.setattr(module, "CROWD", 2)
    assert not made(*words)


def test_endings_are_short(monkeypatch):
    words = [stem + ending for stem in ("крас", "умнейш", "свежест") for ending in ("йшими", "нькая")]
    assert "добрейшими" not in probabilities(*words, "добренькая") and made(*VERBS, "ходил")
    monkeypatch.setattr(module, "ENDING", 0)
    assert not made(*VERBS, "ходил")


def test_names_keep_their_capital_and_no_form_comes_twice():
    stems = "Ирин", "Мари", "Дари", "Карин", "Арин", "малин", "долин", "ширин", "витрин"
    words = [stem + ending for stem in stems for ending in ("а", "ой", "е")]
    found = made(*words, "Галина", "рябина")
    assert sorted(found) == ["Галине", "Галиной", "рябине", "рябиной"]
    assert sorted(made(*words, "Галина", "галина")) == ["Галине", "Галиной"], "forms that differ in case alone are one"


@pytest.mark.parametrize("words", [[], ["а"], ["2024", "20", "a1"], ["你好", "世界", "你们"], ["ё" * 500], ["ИИ", "🙂"]])
def test_words_without_forms(words):
    assert unseen_forms(words) == []


def test_a_word_of_the_lexicon_is_no_form_whatever_its_case():
    assert "ходила" not in map(str.lower, made(*VERBS, "ходил", "Ходила"))


class TestCache:
    WORDS = [*VERBS, "ходил", "Ёлка"]

    @pytest.fixture
    def folder(self, tmp_path):
        return tmp_path / "cache"

    def test_forms_are_made_once(self, folder, monkeypatch):
        first = cached_forms(self.WORDS, str(folder))
        assert first == unseen_forms(self.WORDS) and first
        monkeypatch.setattr(module, "unseen_forms", None)
        assert cached_forms(self.WORDS, str(folder)) == first

    def test_of_other_words_others(self, folder):
        assert cached_forms(self.WORDS, str(folder)) != cached_forms(VERBS, str(folder)) == []

    def test_another_method_makes_them_anew(self, folder, monkeypatch):
        cached_forms(self.WORDS, str(folder))
        monkeypatch.setattr(module, "METHOD", module.METHOD + 1)
        monkeypatch.setattr(module, "unseen_forms", lambda words: ["новое"])
        assert cached_forms(self.WORDS, str(folder)) == ["новое"] == cached_forms(self.WORDS, str(folder))

    @pytest.mark.parametrize("damage", [b"", b"[]", b'{"forms": []}', "ё".encode()[:1], None])
    def test_a_damaged_file_is_made_anew(self, folder, caplog, damage):
        first = cached_forms(self.WORDS, str(folder))
        (path,) = folder.glob("*.forms.json")
        path.write_bytes(path.read_bytes().replace("ходил".encode(), "бродил".encode()) if damage is None else damage)
        assert cached_forms(self.WORDS, str(folder)) == first
        assert f"{path}: damaged" in caplog.text
        caplog.clear()
        assert cached_forms(self.WORDS, str(folder)) == first and not caplog.text

    @pytest.mark.parametrize("error", [V2TError("f.json: No space left on device"), PermissionError(13, "Permission denied", "f.lock")])
    def test_a_file_that_cannot_be_written_keeps_nobody_from_decoding(self, folder, monkeypatch, caplog, error):
        made = []

        def refusing(path):
            raise error

        monkeypatch.setattr(module, "replacing", refusing)
        monkeypatch.setattr(module, "unseen_forms", lambda words: made.append(words) or ["новое"])
        assert cached_forms(self.WORDS, str(folder)) == ["новое"] and len(made) == 1
        assert f"the next run will have to make forms of {len(self.WORDS)} words again" in caplog.text
        (folder / "file").write_text("")
        assert cached_forms(self.WORDS, str(folder / "file")) == ["новое"] and len(made) == 2
