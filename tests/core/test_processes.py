"""Two and three processes give what one gives, byte for byte. (Training: test_training.)"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DIM, SENTENCES, assert_same_weights

from v2t_cli.core.config import EncoderConfig
from v2t_cli.models.encoder import open_encoder
from v2t_cli.models.metadata import read_info

TEXTS = 8_200  # two blocks of 4,096, and a bit


@pytest.fixture
def run(v2t):
    """A command in so many processes; a single one is this one, with as many threads: sums depend on them in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(processes, *arguments):
        return launch(processes, *arguments) if processes > 1 else v2t(*arguments)

    yield run
    torch.set_num_threads(threads)


def launch(processes, *arguments, fails=False, program=("-m", "v2t_cli"), **variables) -> subprocess.CompletedProcess:
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", **variables}
    command = [sys.executable, *starter, *map(str, (*program, *arguments))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done


def test_embed(tmp_path, labse, run):
    texts = tmp_path / "t.txt"
    texts.write_text("".join(f"{i} {SENTENCES[i % 100]}\n" for i in range(TEXTS)) + "\n", encoding="utf-8")
    for processes in (1, 2):
        done = run(processes, "embed", texts, "--encoder", labse, "-o", tmp_path / f"{processes}.npy")
        assert done.stderr.count("8,201 vectors of 16 numbers written") == 1 and done.stderr.count("1 blank lines") == 1
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "2.npy").read_bytes()
    assert set(os.listdir(tmp_path)) == {"t.txt", "1.npy", "2.npy"}


@pytest.mark.parametrize(("rows", "quality"), [(50, "balanced"), (2, "fast")])
def test_decode(tmp_path, labse, checkpoint, rows, quality, run):
    np.save(tmp_path / "v.npy", open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(SENTENCES[:rows]))
    options = ("--checkpoint", checkpoint, "--format", "tsv", "--quality", quality, "--batch-size", 7)
    for processes in (1, 3):
        run(processes, "decode", tmp_path / "v.npy", *options, "-o", tmp_path / f"{processes}.tsv")
    assert (tmp_path / "1.tsv").read_bytes() == (tmp_path / "3.tsv").read_bytes()
    assert len((tmp_path / "1.tsv").read_text(encoding="utf-8").splitlines()) == rows + 1


def test_eval(tmp_path, labse, checkpoint, texts_file, run):
    options = ("--checkpoint", checkpoint, "--texts", texts_file, "--train-texts", texts_file, "--set", "decode.batch_size=30")
    one, two = (json.loads(run(processes, "eval", *options, "--json").stdout) for processes in (1, 2))
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


def test_sharded_training(tmp_path, texts_file):
    """FSDP by accelerate's own configuration, which its launcher hands over in the environment."""
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(len(SENTENCES), DIM)).astype(np.float32))
    sets = [f"data.texts={texts_file}", f"data.vectors={tmp_path / 'v.npy'}", "encoder.model=null", "train.batch_size=10"]
    sets += ["decoder.scratch={n_layer: 2, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}", "train.epochs=2", "train.samples=1"]
    command = ["train", "--device", "cpu", *(part for item in sets for part in ("--set", item))]
    fsdp = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "GPT2Block",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    }
    sharded = (Path(__file__).parent / "sharded.py",)
    launch(1, *command, "--set", "train.gradient_accumulation=2", "--output", tmp_path / "one")
    done = launch(2, *command, "--output", tmp_path / "two", program=sharded, **fsdp, FSDP_VERSION="2")
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=0, atol=1e-4)
    assert read_info(tmp_path / "two").held_out.loss == pytest.approx(read_info(tmp_path / "one").held_out.loss, abs=1e-3)
    assert done.stderr.count("==>") == 1, "a sample pair, shown once"
    longer = (*command, "--set", "train.epochs=3", "--output", tmp_path / "two", "--resume")
    assert "resumed at step 10" in launch(2, *longer, program=sharded, **fsdp, FSDP_VERSION="2").stderr
    done = launch(2, *command, "--output", tmp_path / "three", program=sharded, fails=True, **fsdp, FSDP_VERSION="1")
    assert "FSDP of fsdp_version: 2" in done.stderr
