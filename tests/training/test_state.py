"""The state that a training saves: on a full disk it says so, and leaves what was saved before."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_config

from v2t_cli.core.errors import V2TError
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.training import trainer
from v2t_cli.training.state import saving
from v2t_cli.training.train import train

FULL = Path("/dev/full")
WRITERS = {
    "a file": lambda folder: FULL.write_bytes(bytes(100_000)),
    "torch": lambda folder: torch.save({"weights": torch.zeros(100_000)}, FULL),
    "safetensors": lambda folder: save_file({"weights": torch.zeros(10)}, folder / "absent" / "weights.safetensors"),
}


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_written_is_one_line(tmp_path, writer):
    (tmp_path / ".resume" / "writing").mkdir(parents=True)
    message = "cannot save: .*; what was saved before is kept: make room, then run the same command with --resume"
    with pytest.raises(V2TError, match=message), saving(tmp_path):
        WRITERS[writer](tmp_path)
    assert os.listdir(tmp_path / ".resume") == []


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"), saving(tmp_path):
        raise RuntimeError("out of memory")


def test_a_run_resumes_after_its_disk_was_full(tmp_path, texts_file, labse, monkeypatch):
    config = tiny_config(texts_file, labse, tmp_path / "out", "train.save_steps=3", "train.epochs=1")
    real, saves = trainer.save_checkpoint, []

    def full_at_the_second(*arguments):
        saves.append(1)
        if len(saves) == 2:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(trainer, "save_checkpoint", full_at_the_second)
    with pytest.raises(V2TError, match="out: cannot save: No space left on device"):
        train(config)
    assert load_checkpoint(tmp_path / "out", torch.device("cpu")).info.training.steps == 3
    assert train(config, resume=True).finished


def test_texts_in_the_output_folder_are_refused(tmp_path, labse, checkpoint):
    config = tiny_config(checkpoint / "held_out.txt", labse, checkpoint)
    with pytest.raises(V2TError, match="held_out.txt: lies in the output folder, so the checkpoint might replace it"):
        train(config, overwrite=True)
