"""What is killed goes on; and a save that was cut short is complete for whoever reads it."""

import os
import shutil

import pytest
import torch
from survival import survive

from v2t_cli import files
from v2t_cli.checkpoint import load_checkpoint
from v2t_cli.files import move_in, settle


@pytest.mark.slow
def test_a_killed_training_ends_where_an_undisturbed_one_ends(tmp_path):
    found = survive(tmp_path, kills=4, seed=1)
    assert found["killed"] == pytest.approx(found["undisturbed"], abs=1e-5)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moved", range(4))
def test_a_move_that_is_cut_short_is_finished_by_the_next(tmp_path, monkeypatch, moved):
    folder, new = tmp_path / "folder", tmp_path / "folder" / ".new-1"
    new.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / name).write_text("old")
        (new / name).write_text("new")
    replace, done = os.replace, []

    def killed_later(source, target):
        if len(done) > moved:
            raise Killed
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", killed_later)
    try:
        move_in(new, folder)
    except Killed:
        monkeypatch.undo()
        settle(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys("abc", "new")


def test_a_checkpoint_on_its_way_is_read_whole(checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (folder / ".arrived").mkdir()
    for name in ("v2t.json", "adapter.safetensors"):
        (folder / name).rename(folder / ".arrived" / name)
    assert load_checkpoint(folder, torch.device("cpu")).info.dim == 16
    assert not (folder / ".arrived").exists()
