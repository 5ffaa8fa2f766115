"""Files made in parts: what an interrupted run leaves is gone on with, and nothing else is."""

import errno
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DIM, SENTENCES, build_labse

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.processes import ALONE
from v2t_cli.io.resumable import Parts, VectorParts
from v2t_cli.models.encoder import open_encoder

SIGNATURE = {"vectors": "abc", "format": "text"}


def parts(path, resume=False, overwrite=False) -> Parts:
    return Parts(str(path), ALONE, resume, overwrite)


def interrupted(path, rows, size=3, total=10, tail=b""):
    """A run of which `rows` rows were written."""
    with pytest.raises(KeyboardInterrupt), parts(path) as out:
        out.begin(total, size, SIGNATURE, None)
        for row in range(rows):
            out.write(row, [f"строка {row}"])
        raise KeyboardInterrupt
    if tail:
        with open(path.parent / f".{path.name}.parts" / "rows-000000000000000", "ab") as stream:
            stream.write(tail)


@pytest.mark.parametrize("rows", [1, 3, 5, 9, 10])
@pytest.mark.parametrize("tail", [b"", "полстро".encode()[:-1]])
def test_it_goes_on_after_the_last_whole_block(tmp_path, rows, tail):
    path = tmp_path / "out.txt"
    interrupted(path, rows, tail=tail)
    assert not path.exists()
    with parts(path, resume=True) as out:
        blocks = out.begin(10, 5, SIGNATURE, None, header=["заголовок"])  # the size of the blocks is that of the beginning
        assert blocks == [block for block in (range(3), range(3, 6), range(6, 9), range(9, 10)) if block.stop > rows]
        for block in blocks:
            out.write(block.start, [f"строка {row}" for row in block])
        out.finish()
    assert path.read_text(encoding="utf-8").split("\n") == ["заголовок", *(f"строка {row}" for row in range(10)), ""]
    assert os.listdir(tmp_path) == ["out.txt"]


def test_gaps_are_filled(tmp_path):
    """As several processes leave them."""
    path = tmp_path / "out.txt"
    interrupted(path, 4)
    with pytest.raises(KeyboardInterrupt), parts(path, resume=True) as out:
        out.begin(10, 3, SIGNATURE, None)
        out.write(6, ["6", "7", "8"])
        raise KeyboardInterrupt
    with parts(path, resume=True) as out:
        assert out.begin(10, 3, SIGNATURE, None) == [range(3, 6), range(9, 10)]
        out.write(3, ["3", "4", "5"])
        out.write(9, ["9"])
        out.finish()
    assert path.read_text(encoding="utf-8").split() == ["строка", "0", "строка", "1", "строка", "2", *"3456789"]


def test_what_was_begun_is_dropped_on_request_alone(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("of last week")
    interrupted(path, 4)
    with pytest.raises(RequestError, match="was interrupted there; --resume goes on with it, --overwrite starts anew"), parts(path) as out:
        out.begin(10, 3, SIGNATURE, None)
    assert path.read_text() == "of last week"
    with parts(path, overwrite=True) as out:
        assert len(out.begin(2, 2, SIGNATURE, None)) == 1
        out.write(0, ["a", "b"])
        out.finish()
    assert path.read_text() == "a\nb\n"


def test_another_run_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "out.txt"
    interrupted(path, 4)
    with pytest.raises(RequestError, match="changed: vectors .abc then, def now.; --overwrite"), parts(path, resume=True) as out:
        out.begin(10, 3, {**SIGNATURE, "vectors": "def"}, None)
    (tmp_path / ".out.txt.parts" / "run.json").write_text("{")
    with pytest.raises(RequestError, match="run.json: damaged, the run cannot go on"), parts(path, resume=True) as out:
        out.begin(10, 3, SIGNATURE, None)


def test_another_encoder_is_refused(tmp_path, labse):
    one = open_encoder(EncoderConfig(model=str(labse)), "cpu").identity
    other = open_encoder(EncoderConfig(model=str(build_labse(tmp_path, DIM, 2, 2, seed=5))), "cpu").identity
    path = tmp_path / "out.txt"
    with pytest.raises(KeyboardInterrupt), parts(path) as out:
        out.begin(10, 3, SIGNATURE, one)
        out.write(0, ["a"])
        raise KeyboardInterrupt
    with pytest.raises(RequestError, match="is not the one of the run that makes .*out.txt"), parts(path, resume=True) as out:
        out.begin(10, 3, SIGNATURE, other)
    with pytest.raises(RequestError, match="the run there had an encoder"), parts(path, resume=True) as out:
        out.begin(10, 3, SIGNATURE, None)
    with parts(path, resume=True) as out:
        assert len(out.begin(10, 3, SIGNATURE, one)) == 4


def test_nothing_begun_is_a_beginning_but_a_whole_file_is_kept(tmp_path):
    path = tmp_path / "out.txt"
    with parts(path, resume=True) as out:
        assert len(out.begin(4, 2, SIGNATURE, None)) == 2
    path.write_text("whole")
    (tmp_path / ".out.txt.parts" / "run.json").unlink()
    with parts(path, resume=True) as out:
        assert out.begin(4, 2, SIGNATURE, None) == [], "a job that was requeued a moment too late"
        out.finish()
    assert path.read_text() == "whole"


@pytest.mark.parametrize("rows", [range(8), range(2, 10), [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]])
def test_rows_that_are_missing_or_twice_there_are_no_output(tmp_path, rows):
    path = tmp_path / "out.txt"
    with pytest.raises(V2TError, match="missing or twice there"), parts(path) as out:
        out.begin(10, 2, SIGNATURE, None)
        for row in rows:
            out.write(row, ["text"])
        out.finish()
    assert not path.exists()


def test_one_at_a_time(tmp_path):
    path = tmp_path / "out.txt"
    with parts(path) as first:
        first.begin(4, 2, SIGNATURE, None)
        with pytest.raises(RequestError, match="another v2t is writing it"), parts(path, resume=True) as second:
            second.begin(4, 2, SIGNATURE, None)
        first.write(0, list("abcd"))
        first.finish()
    assert path.read_text() == "a\nb\nc\nd\n"


def test_an_error_before_the_first_row_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), parts(tmp_path / "out.txt") as out:
        out.begin(4, 2, SIGNATURE, None)
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)


def test_vectors_are_written_in_place_in_any_order(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    path = tmp_path / "v.npy"
    with pytest.raises(KeyboardInterrupt), VectorParts(str(path), ALONE, False, False, 7, 3) as out:
        assert out.begin(7, 2, {}, None) == [range(2), range(2, 4), range(4, 6), range(6, 7)]
        out.write_vectors(4, vectors[4:6])
        out.write_vectors(0, vectors[:2])
        raise KeyboardInterrupt
    with VectorParts(str(path), ALONE, True, False, 7, 3) as out:
        assert out.begin(7, 2, {}, None) == [range(2, 4), range(6, 7)]
        out.write_vectors(2, vectors[2:4])
        out.write_vectors(6, vectors[6:])
        out.finish()
    np.testing.assert_array_equal(np.load(path), vectors)
    assert os.listdir(tmp_path) == ["v.npy"]


def test_a_run_killed_just_before_it_cleared_away(tmp_path):
    path, kept = tmp_path / "v.npy", tmp_path / ".v.npy.parts"
    with VectorParts(str(path), ALONE, False, False, 1, 3) as out:
        out.begin(1, 2, {}, None)
        out.write_vectors(0, np.ones((1, 3), np.float32))
        shutil.copytree(kept, tmp_path / "copy")
        out.finish()
    (tmp_path / "copy").rename(kept)
    (kept / "vectors.npy").unlink()
    with VectorParts(str(path), ALONE, True, False, 1, 3) as out:
        assert out.begin(1, 2, {}, None) == []
        out.finish()
    assert np.load(path).tolist() == [[1, 1, 1]] and os.listdir(tmp_path) == ["v.npy"]


def test_no_vectors(tmp_path):
    with VectorParts(str(tmp_path / "v.npy"), ALONE, False, False, 0, 3) as out:
        assert out.begin(0, 2, {}, None) == []
        out.finish()
    assert np.load(tmp_path / "v.npy").shape == (0, 3)


class TestCommands:
    @pytest.fixture
    def stopping(self, monkeypatch):
        """Ctrl-C, or another error, after so many rows."""

        def after(rows, error=KeyboardInterrupt):
            write, seen = Parts.write, []

            def stopped(self, first, lines):
                seen.extend(lines)
                if len(seen) > rows:
                    raise error
                write(self, first, lines)

            monkeypatch.setattr(Parts, "write", stopped)

        yield after
        monkeypatch.undo()

    def decode(self, checkpoint, *options):
        return ("decode", "v.npy", "--checkpoint", checkpoint, "-o", "out.txt", "--batch-size", "4", *options)

    @pytest.mark.parametrize("options", [(), ("--format", "tsv"), ("--quality", "fast", "--strategy", "sample", "--seed", "5")])
    def test_decode(self, v2t, checkpoint, labse, tmp_path, stopping, monkeypatch, options):
        np.save(tmp_path / "v.npy", open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(SENTENCES[:10]))
        assert v2t(*self.decode(checkpoint, *options)).exit_code == 0
        whole = (tmp_path / "out.txt").read_bytes()
        (tmp_path / "out.txt").unlink()
        stopping(6)
        result = v2t(*self.decode(checkpoint, *options))
        assert result.exit_code == 130 and "with --resume goes on" in result.stderr
        assert not (tmp_path / "out.txt").exists()
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        result = v2t(*self.decode(checkpoint, *options), "--seed", "6", "--resume")
        assert result.exit_code == 2 and "--overwrite starts anew" in result.stderr
        result = v2t(*self.decode(checkpoint, *options), "--resume")
        assert result.exit_code == 0 and "4 of 10 rows are done already" in result.stderr
        assert (tmp_path / "out.txt").read_bytes() == whole
        assert set(os.listdir(tmp_path)) == {"v.npy", "out.txt"}

    def test_what_is_there_already(self, v2t, labse, texts_file, tmp_path):
        shutil.copy(texts_file, tmp_path / "t.txt")
        command = ("embed", "t.txt", "--encoder", labse, "-o", "v.npy")
        assert v2t(*command, "--resume").exit_code == 0
        whole = (tmp_path / "v.npy").read_bytes()
        result = v2t(*command, "--resume")
        assert result.exit_code == 0 and "warning: " in result.stderr and "stays as it is, unchecked" in result.stderr
        assert "written" not in result.stderr
        os.utime(tmp_path / "v.npy", (1, 1))
        result = v2t(*command, "--resume")
        assert result.exit_code == 2 and "older than t.txt; --overwrite makes it anew" in result.stderr
        assert (tmp_path / "v.npy").read_bytes() == whole

    def test_embed(self, v2t, labse, texts_file, tmp_path, stopping, monkeypatch):
        monkeypatch.setattr("v2t_cli.models.encoder.CHUNK_TEXTS", 30)
        command = ("embed", texts_file, "--encoder", labse, "-o", "v.npy")
        assert v2t(*command).exit_code == 0
        whole = (tmp_path / "v.npy").read_bytes()
        (tmp_path / "v.npy").unlink()
        stopping(60)
        assert v2t(*command).exit_code == 130
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        result = v2t(*command, "--resume", "--set", "encoder.prompt=другое")
        assert result.exit_code == 2 and "changed: prompt (None then, другое now)" in result.stderr
        result = v2t(*command, "--resume")
        assert result.exit_code == 0 and "60 of 100 rows are done already" in result.stderr
        assert (tmp_path / "v.npy").read_bytes() == whole

    def test_a_disk_that_fills_up_loses_nothing(self, v2t, checkpoint, tmp_path, stopping, monkeypatch):
        np.save(tmp_path / "v.npy", np.zeros((10, DIM), np.float32))
        stopping(6, OSError(errno.ENOSPC, "No space left on device"))
        result = v2t(*self.decode(checkpoint, "--quality", "fast"))
        assert result.exit_code == 1 and "No space left on device" in result.stderr and "Traceback" not in result.stderr
        assert not (tmp_path / "out.txt").exists()
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        assert v2t(*self.decode(checkpoint, "--quality", "fast"), "--resume").exit_code == 0
        assert len((tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()) == 10

    def test_texts_that_change_meanwhile(self, v2t, labse, tmp_path, monkeypatch):
        from v2t_cli.io.texts import Survey

        (tmp_path / "t.txt").write_text("один\nдва\n", encoding="utf-8")
        monkeypatch.setattr("v2t_cli.io.texts.survey", lambda path: Survey(3, "abc"))
        result = v2t("embed", "t.txt", "--encoder", labse, "-o", "v.npy")
        assert result.exit_code == 1 and "t.txt: has become shorter while it was read" in result.stderr
        assert os.listdir(tmp_path) == ["t.txt"]

    def test_a_disk_too_small_for_the_vectors_says_so_first(self, v2t, labse, texts_file, tmp_path, monkeypatch):
        def full(path):
            return SimpleNamespace(free=1000)

        monkeypatch.setattr("v2t_cli.io.resumable.shutil.disk_usage", full)
        result = v2t("embed", texts_file, "--encoder", labse, "-o", "v.npy")
        assert result.exit_code == 1 and result.stderr.endswith("v.npy: No space left on device\n")
        assert not os.listdir(tmp_path)

    def test_streams_cannot_be_resumed(self, v2t, checkpoint, labse, texts_file, tmp_path):
        np.save(tmp_path / "v.npy", np.zeros((1, DIM), np.float32))
        for command in (("decode", "v.npy", "--checkpoint", checkpoint), ("embed", "-", "-o", "w.npy", "--encoder", labse)):
            for option in ("--resume", "--overwrite"):
                result = v2t(*command, option, stdin=b"")
                assert result.exit_code == 2 and f"{option}: for work from a file to a file" in result.stderr
        result = v2t("decode", "absent.npy", "--checkpoint", checkpoint, "--resume")
        assert "absent.npy: no such file" in result.stderr
        result = v2t(*self.decode(checkpoint), "--resume", "--overwrite")
        assert result.exit_code == 2 and "exclude each other" in result.stderr

    def test_json_of_the_run_holds_no_text(self, v2t, checkpoint, tmp_path, stopping):
        """What lies about after an interruption is a description, and the rows."""
        np.save(tmp_path / "v.npy", np.zeros((10, DIM), np.float32))
        stopping(6)
        v2t(*self.decode(checkpoint, "--quality", "fast"))
        run = json.loads((tmp_path / ".out.txt.parts" / "run.json").read_text())
        assert run["size"] == 4 and run["signature"]["beams"] == 1 and run["encoder"] is None
