"""What was damaged on the disk ends as if undamaged, or in one clear line; never in other texts without a word."""

import pytest
from damage import Outcomes, scenes

NAMES = ["checkpoint", "cached words", "cached texts", "cached parts", "state", "parts of texts", "parts of vectors"]


@pytest.fixture(scope="module")
def found(tmp_path_factory, labse, texts_file, checkpoint):
    return scenes(tmp_path_factory.mktemp("damage"), labse, texts_file, checkpoint)


@pytest.mark.parametrize("damages", [2, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_damage_is_told_or_does_not_matter(found, tmp_path, name, damages):
    outcomes = Outcomes(found[name], tmp_path, seed=damages)
    for _ in range(damages):
        outcomes.add()
    assert not outcomes.wrong, "\n".join(outcomes.wrong)
    assert outcomes.counts.total() == damages and found.keys() == set(NAMES)
