"""Two and three processes give what one gives, byte for byte. (Training: test_training.)"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import DIM, SENTENCES

from v2t_cli.config import EncoderConfig
from v2t_cli.encoder import open_encoder

TEXTS = 8_200  # two blocks of 4,096, and a bit


def launch(processes, *arguments, fails=False) -> subprocess.CompletedProcess:
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, *starter, "-m", "v2t_cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done


def test_embed(tmp_path, labse):
    texts = tmp_path / "t.txt"
    texts.write_text("".join(f"{i} {SENTENCES[i % 100]}\n" for i in range(TEXTS)) + "\n", encoding="utf-8")
    for processes in (1, 2):
        done = launch(processes, "embed", texts, "--encoder", labse, "-o", tmp_path / f"{processes}.npy")
        assert done.stderr.count("8,201 vectors of 16 numbers written") == 1 and done.stderr.count("1 blank lines") == 1
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "2.npy").read_bytes()
    assert set(os.listdir(tmp_path)) == {"t.txt", "1.npy", "2.npy"}


@pytest.mark.parametrize(("rows", "quality"), [(50, "balanced"), (2, "fast")])
def test_decode(tmp_path, labse, checkpoint, rows, quality):
    np.save(tmp_path / "v.npy", open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(SENTENCES[:rows]))
    options = ("--checkpoint", checkpoint, "--format", "tsv", "--quality", quality, "--batch-size", 7)
    for processes in (1, 3):
        launch(processes, "decode", tmp_path / "v.npy", *options, "-o", tmp_path / f"{processes}.tsv")
    assert (tmp_path / "1.tsv").read_bytes() == (tmp_path / "3.tsv").read_bytes()
    assert len((tmp_path / "1.tsv").read_text(encoding="utf-8").splitlines()) == rows + 1


def test_eval(tmp_path, labse, checkpoint, texts_file):
    options = ("--checkpoint", checkpoint, "--texts", texts_file, "--train-texts", texts_file, "--set", "decode.batch_size=30")
    one, two = (json.loads(launch(processes, "eval", *options, "--json").stdout) for processes in (1, 2))
    for result in (one, two):
        del result["milliseconds"]
    assert one.pop("loss") == pytest.approx(two.pop("loss"), abs=1e-6)
    assert one.pop("perplexity") == pytest.approx(two.pop("perplexity"), abs=1e-6)
    assert one["intervals"].pop("loss") == pytest.approx(two["intervals"].pop("loss"), abs=1e-6)
    assert one == two


def test_what_several_processes_cannot_do(tmp_path, checkpoint):
    """They stop, all of them, and say why."""
    np.save(tmp_path / "v.npy", np.zeros((3, DIM), np.float32))
    done = launch(2, "decode", tmp_path / "v.npy", "--checkpoint", checkpoint, fails=True)
    assert "several processes: for work from a file to a file, which -o names" in done.stderr
    np.save(tmp_path / "v.npy", np.full((3, DIM), np.nan, np.float32))
    done = launch(2, "decode", tmp_path / "v.npy", "--checkpoint", checkpoint, "-o", tmp_path / "out.txt", fails=True)
    assert "NaN or infinity" in done.stderr
    assert os.listdir(tmp_path) == ["v.npy"]
