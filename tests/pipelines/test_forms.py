"""Stores that keep vectors in other forms, by the commands."""

import numpy as np
import pytest
from tiny import SENTENCES
from typer.testing import CliRunner

from v2t_cli import V2T
from v2t_cli.cli import app
from v2t_cli.models.metadata import read_info


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(it) for it in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def vectors(checkpoint):
    return V2T(checkpoint, device="cpu").embed(SENTENCES)


@pytest.fixture(scope="module")
def other_width(checkpoint, tmp_path_factory):
    """A checkpoint of which only v2t.json is read, because it does not fit."""
    folder = tmp_path_factory.mktemp("other_width")
    info = read_info(checkpoint)
    info.dim, info.encoder = 8, None
    (folder / "v2t.json").write_text(info.model_dump_json(), encoding="utf-8")
    return folder


def decoded(checkpoint, folder, stored, *options):
    np.save(folder / "store.npy", stored)
    settings = ("--set", "decode.max_new_tokens=24", "--device", "cpu")
    result = run("decode", folder / "store.npy", "--checkpoint", checkpoint, *settings, *options)
    return result.stdout.splitlines(), result.stderr


def test_the_texts_of_sign_bits_padded_and_whole_vectors(checkpoint, vectors, tmp_path):
    whole, told = decoded(checkpoint, tmp_path, vectors)
    assert "the vectors" not in told and sum(map(str.__eq__, whole, SENTENCES)) > 60
    padded, told = decoded(checkpoint, tmp_path, np.pad(vectors, ((0, 0), (0, 4))))
    assert padded == whole and "all after the first 16 are 0" in told
    bits, told = decoded(checkpoint, tmp_path, np.packbits(vectors > 0, axis=1))
    assert sum(map(str.__eq__, bits, SENTENCES)) > 3 and "the vectors are sign bits; the rest is estimated" in told
    plain = decoded(checkpoint, tmp_path, np.packbits(vectors > 0, axis=1), "--set", "decode.rerank=false")
    assert plain[1] == told, "without re-ranking too"
    steps = np.round(vectors / np.abs(vectors).max() * 127).astype(np.int8)
    integers, told = decoded(checkpoint, tmp_path, steps)
    assert sum(map(str.__eq__, integers, whole)) > 80 and "8-bit integers" in told


def test_cut_vectors_are_named(checkpoint, vectors, tmp_path):
    np.save(tmp_path / "cut.npy", vectors[:, :12])
    refused = run("decode", tmp_path / "cut.npy", "--checkpoint", checkpoint, "--device", "cpu", code=2)
    assert "cut.npy: vectors of 12 dimensions, but the checkpoint reads 16" in refused.stderr and "--form cut" in refused.stderr
    texts, told = decoded(checkpoint, tmp_path, vectors[:, :12], "--form", "cut")
    assert "the first 12 of 16 numbers" in told and sum(map(str.__eq__, texts, SENTENCES)) > 10


def test_of_several_checkpoints_the_one_with_this_width(checkpoint, other_width, vectors, tmp_path):
    whole, _ = decoded(checkpoint, tmp_path, vectors)
    texts, told = decoded(other_width, tmp_path, vectors, "--checkpoint", checkpoint)
    assert texts == whole and f"checkpoint {checkpoint}: the only one that reads vectors of this width" in told
    refused = run("decode", tmp_path / "store.npy", "--checkpoint", other_width, "--device", "cpu", code=2).stderr
    assert "vectors of 16 dimensions, but the checkpoint reads 8" in refused
    run("decode", tmp_path / "store.npy", "--checkpoint", checkpoint, "--checkpoint", tmp_path / "absent", code=2)


def test_eval_takes_them_too(checkpoint, vectors, tmp_path):
    held_out = (checkpoint / "held_out.txt").read_text(encoding="utf-8")
    others = [number for number, text in enumerate(SENTENCES) if text not in held_out][:20]
    np.save(tmp_path / "bits.npy", np.packbits(vectors[others] > 0, axis=1))
    (tmp_path / "texts.txt").write_text("".join(f"{SENTENCES[number]}\n" for number in others), encoding="utf-8")
    options = ("--vectors", tmp_path / "bits.npy", "--texts", tmp_path / "texts.txt", "--json", "--device", "cpu", "--form", "bits")
    result = run("eval", "--checkpoint", checkpoint, *options)
    assert '"n": 20' in result.stdout and "taught" not in result.stderr
    (tmp_path / "texts.txt").write_text("".join((held_out + "Нет.\n" * 20).splitlines(keepends=True)[:20]), encoding="utf-8")
    warned = run("eval", "--checkpoint", checkpoint, *options).stderr
    assert "some of these texts taught how to read form bits, so the scores are too high: use texts of your own" in warned


def test_training_refuses_integers(vectors, tmp_path):
    np.save(tmp_path / "bits.npy", (vectors > 0).astype(np.int8))
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    wanted = ("--texts", tmp_path / "texts.txt", "--set", f"data.vectors={tmp_path / 'bits.npy'}", "-o", tmp_path / "out")
    assert "bits.npy: holds int8; training needs the vectors as floating-point numbers" in run("train", *wanted, code=2).stderr
