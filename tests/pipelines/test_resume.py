"""Commands that are interrupted and resumed: the output is that of a run that was not."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny import DIM, SENTENCES, without_hashes
from tiny import interrupting as stopping

from v2t_cli.io.texts import Fingerprint


def decoding(checkpoint, *options):
    return ("decode", "v.npy", "--checkpoint", checkpoint, "-o", "out.txt", "--batch-size", "4", *options)


@pytest.mark.parametrize(
    "options", [(), ("--format", "tsv"), ("--quality", "fast", "--strategy", "sample", "--seed", "5")], ids=["text", "tsv", "sampled"]
)
def test_decode(v2t, checkpoint, encoder, tmp_path, options):
    np.save(tmp_path / "v.npy", encoder.encode(SENTENCES[:10]))
    assert v2t(*decoding(checkpoint, *options)).exit_code == 0
    whole = (tmp_path / "out.txt").read_bytes()
    (tmp_path / "out.txt").unlink()
    with stopping(6):
        result = v2t(*decoding(checkpoint, *options))
    assert result.exit_code == 130
    assert "out.txt: stopped after 4 of 10 rows; finished rows are kept; to continue, run the same command with --resume" in result.stderr
    assert not (tmp_path / "out.txt").exists()
    result = v2t(*decoding(checkpoint, *options), "--seed", "6", "--resume")
    assert (
        result.exit_code == 2
        and "seed (was " in result.stderr
        and "now 6); change them back, or start over with --overwrite" in result.stderr
    )
    result = v2t(*decoding(checkpoint, *options), "--resume")
    assert result.exit_code == 0 and "4 of 10 rows are already done" in result.stderr
    assert (tmp_path / "out.txt").read_bytes() == whole
    assert set(os.listdir(tmp_path)) == {"v.npy", "out.txt"}


def without_the_adapters(folder):
    """As the message about a changed file advises."""
    info = json.loads((folder / "v2t.json").read_text(encoding="utf-8"))
    del info["files"]["adapter.safetensors"]
    (folder / "v2t.json").write_text(json.dumps(info), encoding="utf-8")
    return folder


@pytest.mark.parametrize("without", [without_hashes, without_the_adapters])
def test_decode_does_not_mix_weights(v2t, checkpoint, encoder, tmp_path, without):
    """With a checkpoint of version 0.1.0 as well, whose v2t.json says nothing of its weights."""
    np.save(tmp_path / "v.npy", encoder.encode(SENTENCES[:10]))
    copy = without(shutil.copytree(checkpoint, tmp_path / "copy"))
    with stopping(6):
        assert v2t(*decoding(copy, "--quality", "fast")).exit_code == 130
    adapter = load_file(copy / "adapter.safetensors")
    adapter["map.weight"] = adapter["map.weight"].flip(0)
    save_file(adapter, copy / "adapter.safetensors")
    result = v2t(*decoding(copy, "--quality", "fast"), "--resume")
    assert result.exit_code == 2 and "other settings: checkpoint (was " in result.stderr


def test_sampling_with_another_batch_size_is_another_run(v2t, checkpoint, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((10, DIM), np.float32))
    sample = ("--quality", "fast", "--strategy", "sample")
    with stopping(6):
        assert v2t(*decoding(checkpoint, *sample)).exit_code == 130
    result = v2t(*decoding(checkpoint, *sample, "--batch-size", "3"), "--resume")
    assert result.exit_code == 2 and "other settings: decode.batch_size (was 4, now 3)" in result.stderr
    assert v2t(*decoding(checkpoint, *sample), "--resume").exit_code == 0


@pytest.mark.parametrize("damage", [lambda line: f"{line[:-2]}я\n", lambda line: f"x{line[1:]}", lambda line: "\n"])
def test_damaged_rows_are_made_again(v2t, checkpoint, encoder, tmp_path, damage):
    np.save(tmp_path / "v.npy", encoder.encode(SENTENCES[:10]))
    assert v2t(*decoding(checkpoint, "--quality", "fast")).exit_code == 0
    whole = (tmp_path / "out.txt").read_bytes()
    (tmp_path / "out.txt").unlink()
    with stopping(8):
        v2t(*decoding(checkpoint, "--quality", "fast"))
    (part,) = (tmp_path / ".out.txt.parts").glob("rows-*")
    lines = part.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[5] = damage(lines[5])
    part.write_text("".join(lines), encoding="utf-8")
    result = v2t(*decoding(checkpoint, "--quality", "fast"), "--resume")
    assert result.exit_code == 0 and "row 5 is damaged; it is made again" in result.stderr and "4 of 10 rows" in result.stderr
    assert (tmp_path / "out.txt").read_bytes() == whole


def test_embed(v2t, labse, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr("v2t_cli.pipelines.embed.CHUNK_TEXTS", 30)
    command = ("embed", texts_file, "--encoder", labse, "-o", "v.npy")
    assert v2t(*command).exit_code == 0
    whole = (tmp_path / "v.npy").read_bytes()
    (tmp_path / "v.npy").unlink()
    with stopping(20):
        assert "v.npy: stopped before the first block of rows was finished; nothing is kept" in v2t(*command).stderr
    with stopping(60):
        result = v2t(*command)
    assert result.exit_code == 130 and "v.npy: stopped after 60 of 100 rows; finished rows are kept; to continue" in result.stderr
    result = v2t(*command, "--resume", "--set", "encoder.prompt=другое")
    assert result.exit_code == 2 and "prompt (was None, now другое)" in result.stderr
    result = v2t(*command, "--resume")
    assert result.exit_code == 0 and "60 of 100 rows are already done" in result.stderr
    assert (tmp_path / "v.npy").read_bytes() == whole
    assert os.listdir(tmp_path) == ["v.npy"]


def test_an_interrupted_pipe_says_that_nothing_is_kept(v2t, labse, texts_file, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("v2t_cli.pipelines.embed.embed", interrupted)
    result = v2t("embed", "-", "-o", "v.npy", "--encoder", labse, stdin=texts_file.read_bytes())
    assert result.exit_code == 130 and "nothing is kept: only a run that reads a file and writes a file can be continued" in result.stderr
    assert not os.listdir()


def test_an_output_that_is_already_there(v2t, labse, texts_file, tmp_path):
    shutil.copy(texts_file, tmp_path / "t.txt")
    command = ("embed", "t.txt", "--encoder", labse, "-o", "v.npy")
    assert v2t(*command, "--resume").exit_code == 0
    whole = (tmp_path / "v.npy").read_bytes()
    result = v2t(*command, "--resume")
    assert result.exit_code == 0 and "written" not in result.stderr
    assert "warning: " in result.stderr and "v.npy: already exists; left unchanged and not checked" in result.stderr
    os.utime(tmp_path / "v.npy", (1, 1))
    result = v2t(*command, "--resume")
    assert result.exit_code == 2 and "older than t.txt; --overwrite creates it again" in result.stderr
    assert (tmp_path / "v.npy").read_bytes() == whole


def test_a_full_disk_loses_nothing(v2t, checkpoint, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((10, DIM), np.float32))
    with stopping(6, OSError(errno.ENOSPC, "No space left on device")):
        result = v2t(*decoding(checkpoint, "--quality", "fast"))
    assert result.exit_code == 1 and "No space left on device" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out.txt").exists()
    result = v2t(*decoding(checkpoint, "--quality", "fast"), "--resume")
    assert result.exit_code == 0 and "4 of 10 rows are already done" in result.stderr
    assert len((tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()) == 10


def test_a_disk_too_small_for_the_vectors_is_reported_first(v2t, labse, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr("v2t_cli.io.resumable.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    result = v2t("embed", texts_file, "--encoder", labse, "-o", "v.npy")
    assert result.exit_code == 1 and result.stderr.endswith("v.npy: No space left on device\n")
    assert not os.listdir(tmp_path)


def test_texts_that_become_shorter_meanwhile(v2t, labse, tmp_path, monkeypatch):
    (tmp_path / "t.txt").write_text("один\nдва\n", encoding="utf-8")
    monkeypatch.setattr("v2t_cli.pipelines.embed.fingerprint", lambda texts: Fingerprint(3, "abc"))
    result = v2t("embed", "t.txt", "--encoder", labse, "-o", "v.npy")
    assert result.exit_code == 1 and "t.txt: changed while it was being read" in result.stderr
    assert os.listdir(tmp_path) == ["t.txt"]


def test_streams_cannot_be_resumed(v2t, checkpoint, labse, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((1, DIM), np.float32))
    for command in (("decode", "v.npy", "--checkpoint", checkpoint), ("embed", "-", "-o", "w.npy", "--encoder", labse)):
        for option in ("--resume", "--overwrite"):
            result = v2t(*command, option, stdin=b"")
            assert result.exit_code == 2 and f"{option}: needs an input file and -o FILE" in result.stderr
    result = v2t("decode", "absent.npy", "--checkpoint", checkpoint, "--resume")
    assert "absent.npy: no such vector file" in result.stderr
    result = v2t(*decoding(checkpoint), "--resume", "--overwrite")
    assert result.exit_code == 2 and "exclude each other" in result.stderr


def test_the_description_of_a_run_holds_no_text(v2t, checkpoint, tmp_path):
    """An interruption leaves a description of the run, and the rows."""
    np.save(tmp_path / "v.npy", np.zeros((10, DIM), np.float32))
    with stopping(6):
        v2t(*decoding(checkpoint, "--quality", "fast"))
    run = json.loads((tmp_path / ".out.txt.parts" / "run.json").read_text())
    assert run.keys() == {"size", "signature", "encoder", "sha256"}
    assert run["size"] == 4 and run["signature"]["decode"]["beams"] == 2 and run["encoder"]["dim"] == DIM
