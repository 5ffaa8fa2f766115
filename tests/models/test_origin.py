"""Whose vectors these are."""

import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import DIM

from v2t_cli.core.errors import RequestError
from v2t_cli.models import origin
from v2t_cli.models.alignment import ALIGNMENT
from v2t_cli.models.metadata import ADAPTER, AlignmentInfo, read_info
from v2t_cli.models.origin import advice, choose_checkpoint, likeness, others_like

WIDE = 64


def cloud(seed, width=DIM, rows=200):
    """Vectors around a mean of their own, and mean and deviation of others of the same kind."""
    mean = np.random.default_rng(seed).normal(size=width)
    rng = np.random.default_rng([seed, 1])
    return (mean + rng.normal(size=(rows, width))).astype(np.float32), mean.astype(np.float32), np.ones(width, np.float32)


@pytest.fixture
def kind(checkpoint, tmp_path):
    """Makes a checkpoint for vectors of a cloud, as far as choosing one reads it."""

    def make(name, seed, width=DIM, alignment=None):
        folder = tmp_path / name
        shutil.copytree(checkpoint, folder)
        info = read_info(folder)
        info = info.model_copy(update={"dim": width, "encoder": None, "files": {}, "alignment": alignment})
        (folder / "v2t.json").write_text(info.model_dump_json(), encoding="utf-8")
        _, mean, scale = cloud(seed, width)
        save_file(load_file(folder / ADAPTER) | {"mean": mean, "scale": scale}, folder / ADAPTER)
        return folder

    return make


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch, tmp_path):
    monkeypatch.setattr(origin, "SHIPPED", tmp_path / "absent")


def test_vectors_share_the_mean_of_their_kind_at_any_scale():
    rows, mean, scale = cloud(1, WIDE)
    assert likeness(rows, mean, scale) > 0.9 and likeness(-5 * rows, -mean, scale) > 0.9
    assert likeness(-rows, mean, scale) < -0.9 and abs(likeness(cloud(2, WIDE)[0], mean, scale)) < 0.4
    assert likeness(rows[:, :20], mean, scale) > 0.8, "the first numbers are compared with the first of the mean"


def test_too_little_to_tell():
    rows, mean, scale = cloud(1)
    assert likeness(rows[:19], mean, scale) is None and likeness(np.zeros((50, DIM)), mean, scale) is None
    assert likeness(rows, 0.1 * mean, scale) is None, "the training's mean is hardly there"


def test_of_several_checkpoints_the_fitting_one_is_taken(kind, caplog):
    folders = [kind("one", 1), kind("two", 2), kind("wide", 3, WIDE)]
    for seed, width, number in ((1, DIM, 0), (2, DIM, 1), (3, WIDE, 2)):
        folder, info, form = choose_checkpoint(folders, cloud(seed, width)[0], "store")
        assert folder == folders[number] and info.width == width and form == "float"
    first, second, third = caplog.messages
    assert f"checkpoint {folders[0]}: the means of the vectors correlate by 0.9" in first and f"with {folders[1]}" in first
    assert f"checkpoint {folders[1]}" in second and "the only one that reads vectors of this width" in third


def test_other_forms_are_told_apart_too(kind):
    folders = [kind("one", 1), kind("two", 2)]
    rows = cloud(2)[0]
    for stored, form in (((rows > 0).astype(np.uint8), "bits"), ((rows * 20).round().clip(-127, 127).astype(np.int8), "int8")):
        assert choose_checkpoint(folders, stored, "store")[::2] == (folders[1], form)
    assert choose_checkpoint(folders, rows[:, :12], "store", "cut")[::2] == (folders[1], "cut")
    assert choose_checkpoint(folders, np.pad(rows, ((0, 0), (0, 4))), "store")[::2] == (folders[1], "padded")


def test_ranges_of_their_own_and_few_rows_tell_nothing(kind, caplog):
    folders = [kind("one", 1), kind("two", 2)]
    ranged = np.random.default_rng(0).integers(-128, 128, size=(400, DIM)).astype(np.int8)
    assert choose_checkpoint(folders, ranged, "store")[0] == choose_checkpoint(folders, cloud(2)[0][:5], "store")[0] == folders[0]
    assert "the first, because nothing tells which one they fit" in caplog.messages[-1]


def test_an_alignment_knows_the_vectors_that_it_was_fitted_to(kind):
    aligned = kind("aligned", 1, alignment=AlignmentInfo(dim=WIDE, kind="ridge", pairs=10, cosine=0.5))
    _, mean, _ = cloud(5, WIDE)
    save_file({"centre": (mean / np.linalg.norm(np.append(mean, 8))).astype(np.float32)}, aligned / ALIGNMENT)
    assert choose_checkpoint([kind("wide", 3, WIDE), aligned], cloud(5, WIDE)[0], "store")[0] == aligned


def test_no_checkpoint_reads_them(kind):
    folders = [kind("one", 1), kind("two", 2)]
    with pytest.raises(RequestError, match=r"store: vectors of 7 dimensions, which none of the checkpoints reads: .*one 16, .*two 16$"):
        choose_checkpoint(folders, np.ones((30, 7), np.float32), "store")


def test_a_checkpoint_beside_the_named_one_is_suggested(kind, tmp_path, monkeypatch):
    one, wide = kind("one", 1), kind("wide", 3, WIDE)
    rows = cloud(3, WIDE)[0]
    with pytest.raises(RequestError, match=f"but the checkpoint reads 16 .*; they look like vectors for {wide}$"):
        choose_checkpoint([one], rows, "store")
    with pytest.raises(RequestError, match="a checkpoint for these vectors$"):
        choose_checkpoint([one], cloud(4, WIDE)[0], "store")
    monkeypatch.chdir(tmp_path)
    assert [str(folder) for folder in others_like([one], rows)] == ["wide"], "as one would type it"
    save_file(load_file(wide / ADAPTER) | {"scale": np.ones(3, np.float32)}, wide / ADAPTER)
    assert others_like([one], rows) == []
    (wide / ADAPTER).write_bytes(b"damaged")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "v2t.json").write_text("[]", encoding="utf-8")
    assert others_like([one], rows) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: -rows, "their signs are turned: -vectors in Python"),
        (lambda rows: np.roll(rows, 32, axis=1), r"their halves have changed places: numpy.roll\(vectors, 32, axis=1\) in Python"),
        (lambda rows: rows[:, ::-1], r"their numbers stand in reverse order: vectors\[:, ::-1\] in Python"),
        (lambda rows: np.random.default_rng(0).permutation(rows.T).T, "^check encoder, language and scale$"),
    ],
)
def test_what_would_make_vectors_fit(kind, change, words):
    rows, mean, scale = cloud(1, WIDE)
    assert re.search(words, advice(kind("one", 1, WIDE), change(rows), mean, scale))


def test_another_checkpoint_of_the_same_width_would_fit(kind):
    one, two = kind("one", 1, WIDE), kind("two", 2, WIDE)
    _, mean, scale = cloud(1, WIDE)
    assert advice(one, cloud(2, WIDE)[0], mean, scale) == f"they look like vectors for {two}"
