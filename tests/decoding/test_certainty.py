import pytest

from v2t_cli.decoding.candidates import Candidate
from v2t_cli.decoding.certainty import ARRIVED, sure_words

BEST = Candidate("Мама купила хлеб.", -5.0, 0.97)


def probabilities(explored, best=BEST):
    return dict(sure_words(best, explored, 0.9999))


def test_a_word_is_sure_if_what_lacks_it_is_far():
    explored = [(0.97, BEST.text), (0.969, "Мама купила торт."), (0.94, "мама несла хлеб"), (0.5, "Папа дома.")]
    found = probabilities(explored)
    assert list(found) == ["Мама", "купила", "хлеб"]
    assert found["хлеб"] < 0.65 < found["купила"] < found["Мама"] < 0.95


def test_the_nearer_the_text_the_surer_its_words():
    explored = [(0.9, "Мама купила торт."), (0.8, "Папа дома.")]
    near, far = (probabilities(explored, Candidate(BEST.text, -5.0, cosine))["Мама"] for cosine in (0.99, 0.91))
    assert near > far


@pytest.mark.parametrize("explored", [[], [(0.97, "Мама купила хлеб?")], [(0.97, "хлеб")]])
def test_what_nothing_lacks_is_not_taken_for_sure(explored):
    assert all(probability < 0.7 for probability in probabilities(explored).values())


def test_a_text_that_arrived_is_sure():
    assert sure_words(Candidate("Да, да!", -3.0, 1.0), [], 0.9999) == [("Да", ARRIVED), ("да", ARRIVED)]
    assert sure_words(Candidate("?!", -3.0, 0.5), [], 0.9999) == []


def test_letters_that_grow_in_lower_case():
    """ "İ" becomes two characters, of which the second is no letter."""
    best = Candidate("İzmir uzak.", -5.0, 0.97)
    explored = [(0.97, best.text), (0.9, "Ankara uzak."), (0.5, "uzak")]
    plain = [(cosine, text.replace("İ", "I")) for cosine, text in explored]
    assert probabilities(explored, best)["İzmir"] == probabilities(plain, Candidate("Izmir uzak.", -5.0, 0.97))["Izmir"]
