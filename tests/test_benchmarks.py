"""The benchmarks run. Nothing here looks at the time."""

import subprocess
import sys

import pytest
from conftest import ROOT

ROWS = {
    "decoding": ["the original loop", "plain generate", "the limit", "re-ranked", "100 of 100 texts"],
    "training": ["the original", "the limit"],
    "preparing": [" s |", "MB at most", "bytes a text"],
    "embedding": ["texts a second", "memory of the process"],
    "starting": ["--help", "one vector"],
    "growth": ["decode, ms a row", "embed, ms a row"],
}


def benchmarks(*arguments):
    return subprocess.run([sys.executable, "-m", "tests.benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("section", ROWS)
def test_a_quick_run(section):
    done = benchmarks("--quick", section)
    assert done.returncode == 0, done.stderr
    for words in ROWS[section]:
        assert words in done.stdout


def test_an_unknown_section_is_refused():
    done = benchmarks("decodin")
    assert done.returncode == 2 and "no such section: decodin" in done.stderr
