"""Several processes train what one trains."""

import re
from pathlib import Path

import numpy as np
import pytest
from forked import launch
from tiny import DIM, ROOT, SENTENCES, assert_same_weights

from v2t_cli.models.metadata import read_info

SCRATCH = "decoder.scratch={n_layer: %d, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}"


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


# v2t that tells the norm of the gradients of each step: Adam does not feel their size.
NORMS = """
import sys
from accelerate import Accelerator
from v2t_cli.cli import app

clip = Accelerator.clip_grad_norm_

def told(self, *arguments):
    norm = clip(self, *arguments)
    if self.is_main_process:
        print(f"norm {float(norm)}", file=sys.stderr)
    return norm

Accelerator.clip_grad_norm_ = told
app()
"""


def test_two_processes_are_one(tmp_path, texts_file, labse):
    """Also where one resumes what two have begun."""
    (tmp_path / "norms.py").write_text(NORMS)

    def train(processes: int, output: Path, *options: str, epochs: int = 2) -> list[float]:
        common = (f"encoder.model={labse}", f"data.texts={texts_file}", "data.held_out=0.04", SCRATCH % 1, "train.batch_size=48")
        lengths = (f"train.gradient_accumulation={2 // processes}", f"train.epochs={epochs}")
        command = ("train", "--output", output, "--device", "cpu", *options, *sets(*common, *lengths))
        done = launch(processes, *command, program=tmp_path / "norms.py")
        assert done.stdout == f"{output}\n", "the path is printed once"
        return [float(norm) for norm in re.findall("^norm (.*)$", done.stderr, re.MULTILINE)]

    two = train(2, tmp_path / "two")
    one = train(1, tmp_path / "one")
    assert len(one) == 2 and two == pytest.approx(one, rel=1e-3)
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=0, atol=1e-4)
    loss = {name: read_info(tmp_path / name).held_out.loss for name in ("one", "two")}
    assert loss["two"] == pytest.approx(loss["one"], abs=1e-3)

    for processes, output in ((2, tmp_path / "begun by two"), (1, tmp_path / "begun by one")):
        train(processes, output, epochs=1)
        train(1, output, "--resume")
    assert_same_weights(tmp_path / "begun by one", tmp_path / "begun by two", rtol=0, atol=1e-4)


def test_sharded_training(tmp_path, texts_file):
    """FSDP by accelerate's own configuration, which its launcher hands over in the environment."""
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(len(SENTENCES), DIM)).astype(np.float32))
    data = (f"data.texts={texts_file}", f"data.vectors={tmp_path / 'v.npy'}", "encoder.model=null", SCRATCH % 2)
    command = ["train", "--device", "cpu", *sets(*data, "train.batch_size=10", "train.epochs=2", "train.samples=1")]
    fsdp = {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "GPT2Block",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    }
    sharded = ROOT / "tests" / "sharded.py"
    launch(1, *command, "--set", "train.gradient_accumulation=2", "--output", tmp_path / "one")
    done = launch(2, *command, "--output", tmp_path / "two", program=sharded, **fsdp, FSDP_VERSION="2")
    assert_same_weights(tmp_path / "one", tmp_path / "two", rtol=0, atol=1e-4)
    assert read_info(tmp_path / "two").held_out.loss == pytest.approx(read_info(tmp_path / "one").held_out.loss, abs=1e-3)
    assert done.stderr.count("==>") == 1, "a sample pair, shown once"
    longer = (*command, "--set", "train.epochs=3", "--output", tmp_path / "two", "--resume")
    assert "resumed at step 10" in launch(2, *longer, program=sharded, **fsdp, FSDP_VERSION="2").stderr
    done = launch(2, *command, "--output", tmp_path / "three", program=sharded, fails=True, **fsdp, FSDP_VERSION="1")
    assert done.codes == [2, 2] and "with FSDP and fsdp_version: 2" in done.stderr
