"""Files that are complete or not there: a move that was cut short is finished by whoever comes next."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from v2t_cli.core.errors import RequestError
from v2t_cli.io import atomic
from v2t_cli.io.atomic import move_in, refuse_input, settle
from v2t_cli.models.checkpoint import load_checkpoint


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moved", range(4))
def test_a_move_that_is_cut_short_is_finished_by_the_next(tmp_path, monkeypatch, moved):
    folder, new = tmp_path / "folder", tmp_path / "folder" / ".new-1"
    new.mkdir(parents=True)
    (folder / "older").write_text("old")
    for name in ("a", "b", "c"):
        (folder / name).write_text("old")
        (new / name).write_text("new")
    replace, done = os.replace, []

    def killed_later(source, target):
        if len(done) > moved:
            raise Killed
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", killed_later)
    try:
        move_in(new, folder, gone=["older"])
    except Killed:
        monkeypatch.undo()
        settle(folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys("abc", "new")


def test_nothing_is_moved_out_of_a_place_that_a_link_leads_to(tmp_path):
    """Whoever gives us a folder must not get at others."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / ".arrived").symlink_to(tmp_path / "mine")
    settle(tmp_path / "checkpoint")
    assert os.listdir(tmp_path / "mine") == ["diary.txt"]


def test_two_may_settle_at_once(tmp_path, monkeypatch):
    (tmp_path / ".arrived").mkdir()
    (tmp_path / ".arrived" / "a").write_text("new")
    monkeypatch.setattr(Path, "is_dir", lambda path: shutil.rmtree(path) or True)
    settle(tmp_path)


def test_a_checkpoint_on_its_way_is_read_whole(checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (folder / ".arrived").mkdir()
    for name in ("v2t.json", "adapter.safetensors"):
        (folder / name).rename(folder / ".arrived" / name)
    assert load_checkpoint(folder, torch.device("cpu")).info.dim == 16
    assert not (folder / ".arrived").exists()


def test_the_output_is_not_the_input_by_any_name(tmp_path, monkeypatch):
    source = tmp_path / "in.txt"
    source.write_text("text")
    os.link(source, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(source)
    os.mkfifo(tmp_path / "pipe")
    for output in (source, tmp_path / "hard", tmp_path / "soft", tmp_path / ".." / tmp_path.name / "in.txt"):
        with pytest.raises(RequestError, match="is also the input, which would be lost"):
            refuse_input(output, "absent", str(source))
    with pytest.raises(RequestError, match="is also the input"):
        refuse_input(tmp_path / "pipe", str(tmp_path / "pipe"))
    store = tmp_path / "store"
    (store / "inner").mkdir(parents=True)
    (store / "link").symlink_to(source)
    (tmp_path / "way").symlink_to(store / "new")
    for output in (store / "a.parquet", store / "inner" / "a", store / "link", tmp_path / "way"):
        with pytest.raises(RequestError, match="lies in the input folder .*store, which must not change; choose another output"):
            refuse_input(output, str(store))
    monkeypatch.chdir(store)
    refuse_input("-", str(store))
    refuse_input(tmp_path / "store.txt", str(store))
    for output in (tmp_path / "new", "/dev/null", "-"):
        refuse_input(output, str(source), "/dev/null", "-", None)
    with open(source, "ab") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        with pytest.raises(RequestError, match="-: is also the input"):
            refuse_input("-", str(source))
