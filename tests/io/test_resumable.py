"""Files made in parts: the same run continues what an interruption left, and no other run does."""

import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.processes import ALONE
from v2t_cli.io.resumable import ResumableLines, ResumableVectors, is_resumable
from v2t_cli.io.signature import EncoderIdentity, Signature

SIGNATURE = Signature(settings={"vectors": "abc", "format": "text"})
SEVERAL = SimpleNamespace(count=2)


def lines(path, **settings) -> ResumableLines:
    return ResumableLines(str(path), ALONE, **settings)


def vectors(path, rows, **settings) -> ResumableVectors:
    return ResumableVectors(path, ALONE, (rows, 3), **settings)


def interrupted(path, rows, size=3, total=10, tail=b"", signature=SIGNATURE):
    """A run of which `rows` rows were written."""
    with pytest.raises(KeyboardInterrupt), lines(path) as out:
        out.begin(total, size, signature)
        for row in range(rows):
            out.write(row, [f"строка {row}"])
        raise KeyboardInterrupt
    if tail:
        with open(path.parent / f".{path.name}.parts" / "rows-000000000000000", "ab") as stream:
            stream.write(tail)


@pytest.mark.parametrize("rows", [1, 3, 5, 9, 10])
@pytest.mark.parametrize("tail", [b"", "полстро".encode()[:-1]], ids=["whole lines", "half a line"])
def test_a_run_continues_after_the_last_whole_block(tmp_path, rows, tail):
    path = tmp_path / "out.txt"
    interrupted(path, rows, tail=tail)
    assert not path.exists()
    with lines(path, resume=True) as out:
        blocks = out.begin(10, 5, SIGNATURE, header=["заголовок"])  # the first run decides how large a block is
        assert blocks == [block for block in (range(3), range(3, 6), range(6, 9), range(9, 10)) if block.stop > rows]
        for block in blocks:
            out.write(block.start, [f"строка {row}" for row in block])
        out.finish()
    assert not out.untouched
    assert path.read_text(encoding="utf-8").split("\n") == ["заголовок", *(f"строка {row}" for row in range(10)), ""]
    assert os.listdir(tmp_path) == ["out.txt"]


def test_gaps_are_filled(tmp_path):
    """As several processes leave them."""
    path = tmp_path / "out.txt"
    interrupted(path, 4)
    with pytest.raises(KeyboardInterrupt), lines(path, resume=True) as out:
        out.begin(10, 3, SIGNATURE)
        out.write(6, ["6", "7", "8"])
        raise KeyboardInterrupt
    with lines(path, resume=True) as out:
        assert out.begin(10, 3, SIGNATURE) == [range(3, 6), range(9, 10)]
        out.write(3, ["3", "4", "5"])
        out.write(9, ["9"])
        out.finish()
    assert path.read_text(encoding="utf-8").split() == ["строка", "0", "строка", "1", "строка", "2", *"3456789"]


def test_an_interrupted_run_is_dropped_only_on_request(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("of last week")
    interrupted(path, 4)
    with (
        pytest.raises(RequestError, match="a run was interrupted there; --resume continues it, --overwrite starts over"),
        lines(path) as out,
    ):
        out.begin(10, 3, SIGNATURE)
    assert path.read_text() == "of last week"
    with lines(path, overwrite=True) as out:
        assert len(out.begin(2, 2, SIGNATURE)) == 1
        out.write(0, ["a", "b"])
        out.finish()
    assert path.read_text() == "a\nb\n"


def test_another_run_is_refused_with_the_difference(tmp_path):
    path = tmp_path / "out.txt"
    interrupted(path, 4)
    other = Signature(settings={**SIGNATURE.settings, "vectors": "def"})
    with pytest.raises(RequestError, match=r"out.txt: .*: vectors .was abc, now def.; change them back"), lines(path, resume=True) as out:
        out.begin(10, 3, other)
    with lines(path, resume=True) as out:
        assert out.begin(10, 3, SIGNATURE) == [range(3, 6), range(6, 9), range(9, 10)], "a refusal loses nothing"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"size": 3}', '{"size": "x", "signature": {}, "encoder": null}'])
def test_a_damaged_description_of_the_run_is_refused(tmp_path, content):
    path = tmp_path / "out.txt"
    interrupted(path, 4)
    (tmp_path / ".out.txt.parts" / "run.json").write_text(content)
    with (
        pytest.raises(RequestError, match="run.json: damaged, so the run cannot continue: .*; --overwrite"),
        lines(path, resume=True) as out,
    ):
        out.begin(10, 3, SIGNATURE)


def test_another_encoder_is_refused(tmp_path):
    path = tmp_path / "out.txt"
    one, other = (
        Signature(settings={}, encoder=EncoderIdentity(name=name, dim=2, probe=probe))
        for name, probe in (("one", [1.0, 0.0]), ("other", [0.0, 1.0]))
    )
    interrupted(path, 1, signature=one)
    with pytest.raises(RequestError, match="'other' does not match that of the run in .*out.txt, 'one'"), lines(path, resume=True) as out:
        out.begin(10, 3, other)
    with pytest.raises(RequestError, match="encoder .was one, now None."), lines(path, resume=True) as out:
        out.begin(10, 3, Signature(settings={}))
    with lines(path, resume=True) as out:
        assert len(out.begin(10, 3, one)) == 4


def test_resuming_starts_where_nothing_was_begun_and_keeps_a_whole_file(tmp_path, caplog):
    path = tmp_path / "out.txt"
    with lines(path, resume=True) as out:
        assert len(out.begin(4, 2, SIGNATURE)) == 2
    path.write_text("whole")
    (tmp_path / ".out.txt.parts" / "run.json").unlink()
    with lines(path, resume=True) as out:
        assert out.begin(4, 2, SIGNATURE) == [], "a job that was requeued a moment too late"
        out.finish()
    assert path.read_text() == "whole" and out.untouched
    assert "out.txt: already exists; left unchanged and not checked. --overwrite creates it again" in caplog.text


def test_without_resume_a_whole_file_is_replaced(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("of last week")
    with lines(path) as out:
        assert out.begin(1, 2, SIGNATURE) == [range(1)]
        out.write(0, ["new"])
        assert path.read_text() == "of last week", "until the new one is complete"
        out.finish()
    assert path.read_text() == "new\n"


@pytest.mark.parametrize("rows", [range(8), range(2, 10)], ids=["end", "beginning"])
def test_missing_rows_make_no_output(tmp_path, rows):
    path = tmp_path / "out.txt"
    with (
        pytest.raises(V2TError, match="out.txt: some rows are missing, so nothing was written; --resume computes them again"),
        lines(path) as out,
    ):
        out.begin(10, 2, SIGNATURE)
        for row in rows:
            out.write(row, [f"{row}"])
        out.finish()
    assert not path.exists()
    with lines(path, resume=True) as out:
        for block in out.begin(10, 2, SIGNATURE):
            out.write(block.start, [f"{row}" for row in block])
        out.finish()
    assert path.read_text().split() == list("0123456789")


@pytest.mark.parametrize("second", [(4, 10), (4, 6), (0, 10), (2, 5), (8, 10)], ids=str)
def test_rows_that_two_processes_made_count_once(tmp_path, second):
    """A process of a killed run may have gone on while the rest was done again."""
    path = tmp_path / "out.txt"
    with pytest.raises(KeyboardInterrupt), lines(path) as out:
        out.begin(10, 2, SIGNATURE)
        out.write(0, [f"{row}" for row in range(8)])
        out.write(second[0], [f"{row}" for row in range(*second)])
        raise KeyboardInterrupt
    with lines(path, resume=True) as out:
        left = out.begin(10, 2, SIGNATURE)
        assert len(left) <= 2, "most of the work is kept"
        for block in left:
            out.write(block.start, [f"{row}" for row in block])
        out.finish()
    assert path.read_text().split() == list("0123456789")


def test_a_process_that_a_killed_run_left_behind_is_waited_for(tmp_path):
    path = tmp_path / "out.txt"
    found = iter([False, (2, [])])  # what the main process found: the output is not complete, and no row is done
    other = SimpleNamespace(is_main=False, count=2, by_main=lambda function: next(found), split=lambda blocks: blocks[2:])
    interrupted(path, 1, size=2, total=8)
    with pytest.raises(KeyboardInterrupt), ResumableLines(path, other, resume=True) as behind:
        behind.begin(8, 2, SIGNATURE)
        behind.write(4, ["4"])
        message = rf"another v2t process .*-{os.getpid()}. is writing it; end it, or wait"
        with pytest.raises(RequestError, match=message), lines(path, resume=True) as out:
            out.begin(8, 2, SIGNATURE)
        behind.write(5, ["5"])
        raise KeyboardInterrupt
    with lines(path, resume=True) as out:
        assert out.begin(8, 2, SIGNATURE) == [range(2), range(2, 4), range(6, 8)]


DAMAGES = {
    "another letter": lambda data: data.replace("строка 4".encode(), "строка 5".encode()),
    "zeros": lambda data: data[:-5] + bytes(5) + b"\n",
    "a line too many": lambda data: data + data[:20] + b"\n",
    "nothing": lambda data: b"",
    "of version 0.1.0": lambda data: "".join(f"строка {row}\n" for row in range(6)).encode(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_made_again(tmp_path, caplog, damage):
    path, part = tmp_path / "out.txt", tmp_path / ".out.txt.parts" / "rows-000000000000000"
    interrupted(path, 6, size=2)
    part.write_bytes(DAMAGES[damage](part.read_bytes()))
    for name in ("rows-x", "rows-000000000000003", "rows-000000000000099"):
        (part.parent / name).write_bytes(part.read_bytes())
    with lines(path, resume=True) as out:
        for block in out.begin(10, 2, SIGNATURE):
            out.write(block.start, [f"строка {row}" for row in block])
        out.finish()
    assert path.read_text(encoding="utf-8").splitlines() == [f"строка {row}" for row in range(10)]
    assert damage == "nothing" or re.search(rf"{part}: row \d+ is damaged", caplog.text)


@pytest.mark.parametrize("place", [3, 20, 130, 150, -1], ids=str)
@pytest.mark.parametrize("cut", [False, True], ids=["changed", "cut"])
def test_damaged_vectors_are_made_again(tmp_path, place, cut):
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    path, kept = tmp_path / "v.npy", tmp_path / ".v.npy.parts" / "vectors.npy"
    with pytest.raises(KeyboardInterrupt), vectors(path, 4) as out:
        out.begin(4, 1, SIGNATURE)
        out.write_vectors(0, rows)
        raise KeyboardInterrupt
    data = bytearray(kept.read_bytes())
    data[place] ^= 1
    kept.write_bytes(data[:place] if cut else data)
    with vectors(path, 4, resume=True) as out:
        for block in out.begin(4, 1, SIGNATURE):
            out.write_vectors(block.start, rows[block.start : block.stop])
        out.finish()
    np.testing.assert_array_equal(np.load(path), rows)


def test_vectors_that_are_gone_are_made_again(tmp_path):
    path = tmp_path / "v.npy"
    with pytest.raises(KeyboardInterrupt), vectors(path, 2) as out:
        out.begin(2, 1, SIGNATURE)
        out.write_vectors(0, np.ones((2, 3), np.float32))
        raise KeyboardInterrupt
    (tmp_path / ".v.npy.parts" / "vectors.npy").unlink()
    with vectors(path, 2, resume=True) as out:
        assert len(out.begin(2, 1, SIGNATURE)) == 2
        out.write_vectors(0, np.ones((2, 3), np.float32))
        out.finish()
    assert np.load(path).tolist() == [[1, 1, 1]] * 2


@pytest.mark.parametrize("mode", [0o600, 0o640, None])
def test_the_permissions_of_the_file_stay(tmp_path, mode):
    path = tmp_path / "out.txt"
    if mode:
        path.write_text("old")
        path.chmod(mode)
    with lines(path) as out:
        out.begin(1, 1, SIGNATURE)
        assert (tmp_path / ".out.txt.parts").stat().st_mode & 0o777 == 0o700, "what it holds may be private"
        out.write(0, ["new"])
        out.finish()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == (mode or 0o666 & ~umask)


def test_names_as_long_as_they_can_be(tmp_path):
    path = tmp_path / ("я" * 127 + "x")
    with lines(path) as out:
        out.begin(1, 1, SIGNATURE)
        out.write(0, ["text"])
        out.finish()
    assert path.read_text() == "text\n" and os.listdir(tmp_path) == [path.name]


def test_two_runs_cannot_write_one_file(tmp_path):
    path = tmp_path / "out.txt"
    with lines(path) as first:
        first.begin(4, 2, SIGNATURE)
        with pytest.raises(RequestError, match="another v2t process is writing it"), lines(path, resume=True) as second:
            second.begin(4, 2, SIGNATURE)
        first.write(0, list("abcd"))
        first.finish()
    assert path.read_text() == "a\nb\nc\nd\n"


def test_an_error_before_the_first_row_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), lines(tmp_path / "out.txt") as out:
        out.begin(4, 2, SIGNATURE)
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)


def test_an_interruption_says_how_to_continue(tmp_path, caplog):
    interrupted(tmp_path / "out.txt", 1)
    assert "out.txt: stopped after 0 of 10 rows; finished rows are kept; to continue, run the same command with --resume" in caplog.text
    with pytest.raises(KeyboardInterrupt), lines(tmp_path / "other.txt", hint="do it again") as out:
        out.begin(4, 2, SIGNATURE)
        out.write(0, ["a"])
        raise KeyboardInterrupt
    assert "other.txt: stopped after 0 of 4 rows; finished rows are kept; do it again" in caplog.text


def test_what_can_be_resumed_is_a_file_made_from_a_file(tmp_path, monkeypatch):
    source, target = tmp_path / "in.npy", tmp_path / "out.txt"
    source.write_bytes(b"")
    assert is_resumable(str(source), str(target), ALONE, False, False)
    assert is_resumable(str(source), str(target), SEVERAL, True, False)
    for given, output in (("-", str(target)), (str(source), "-"), (str(source), "/dev/null")):
        assert not is_resumable(given, output, ALONE, False, False)
        for processes, resume, overwrite, word in (
            (ALONE, True, False, "--resume"),
            (ALONE, False, True, "--overwrite"),
            (SEVERAL, False, False, "several processes"),
        ):
            with pytest.raises(RequestError, match=f"{word}: needs an input file and -o FILE, not stdin, stdout or a pipe"):
                is_resumable(given, output, processes, resume, overwrite)
    assert not is_resumable(str(tmp_path / "absent"), str(target), ALONE, True, False), "the missing file is the mistake to report"
    with pytest.raises(RequestError, match="--resume and --overwrite exclude each other"):
        is_resumable(str(source), str(target), ALONE, True, True)


def test_a_file_older_than_its_source_is_not_taken_for_the_result(tmp_path):
    source, target = tmp_path / "in.npy", tmp_path / "out.txt"
    interrupted(target, 4)
    source.write_bytes(b"")
    target.write_text("whole")
    os.utime(target, (1, 1))
    assert is_resumable(str(source), str(target), ALONE, True, False), "an interrupted run makes it anew"
    shutil.rmtree(tmp_path / ".out.txt.parts")
    assert is_resumable(str(source), str(target), ALONE, False, False)
    with pytest.raises(RequestError, match="out.txt: already exists and is older than .*in.npy; --overwrite creates it again"):
        is_resumable(str(source), str(target), ALONE, True, False)


def test_vectors_are_written_in_place_in_any_order(tmp_path):
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    path = tmp_path / "v.npy"
    with pytest.raises(KeyboardInterrupt), vectors(path, 7) as out:
        assert out.begin(7, 2, SIGNATURE) == [range(2), range(2, 4), range(4, 6), range(6, 7)]
        out.write_vectors(4, rows[4:6])
        out.write_vectors(0, rows[:2])
        raise KeyboardInterrupt
    assert not path.exists()
    with vectors(path, 7, resume=True) as out:
        assert out.begin(7, 2, SIGNATURE) == [range(2, 4), range(6, 7)]
        out.write_vectors(2, rows[2:4])
        out.write_vectors(6, rows[6:])
        out.finish()
    np.testing.assert_array_equal(np.load(path), rows)
    assert os.listdir(tmp_path) == ["v.npy"]


def test_vectors_cut_in_the_middle_of_a_row_are_written_again(tmp_path):
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    path, kept = tmp_path / "v.npy", tmp_path / ".v.npy.parts"
    with pytest.raises(KeyboardInterrupt), vectors(path, 4) as out:
        out.begin(4, 2, SIGNATURE)
        out.write_vectors(0, rows[:2])
        raise KeyboardInterrupt
    with open(kept / "vectors.npy", "r+b") as stream:  # as a power failure leaves it: written, not yet counted
        stream.seek(-24, os.SEEK_END)
        stream.write(b"half a row")
    with vectors(path, 4, resume=True) as out:
        assert out.begin(4, 2, SIGNATURE) == [range(2, 4)]
        out.write_vectors(2, rows[2:])
        out.finish()
    np.testing.assert_array_equal(np.load(path), rows)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(path.read_bytes()[:3]),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: path.write_bytes(bytes(200)),
        lambda path: np.save(path, np.load(path)[::-1]),
        lambda path: np.save(path, np.load(path).astype(np.float64)),
        Path.unlink,
    ],
    ids=["shorter", "no header", "longer", "zeros", "reversed", "another type", "gone"],
)
@pytest.mark.parametrize("older", [None, b"of last week"])
def test_vectors_that_were_damaged_are_written_again(tmp_path, damage, older):
    rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    path = tmp_path / "v.npy"
    if older:
        path.write_bytes(older)
    with pytest.raises(KeyboardInterrupt), vectors(path, 7) as out:
        out.begin(7, 2, SIGNATURE)
        for first in (0, 4):
            out.write_vectors(first, rows[first : first + 2])
        raise KeyboardInterrupt
    damage(tmp_path / ".v.npy.parts" / "vectors.npy")
    with vectors(path, 7, resume=True) as out:
        for block in out.begin(7, 2, SIGNATURE):
            out.write_vectors(block.start, rows[block.start : block.stop])
        out.finish()
    np.testing.assert_array_equal(np.load(path), rows)


def test_a_part_under_another_name_is_not_taken_for_other_rows(tmp_path, caplog):
    path, parts = tmp_path / "out.txt", tmp_path / ".out.txt.parts"
    interrupted(path, 3)
    (parts / "rows-000000000000000").rename(parts / "rows-000000000000003")
    (parts / "rows-more").write_text("1\n")
    with lines(path, resume=True) as out:
        assert len(out.begin(10, 3, SIGNATURE)) == 4
    assert "row 3 is damaged; it is made again" in caplog.text


def test_a_refused_run_is_not_told_to_continue(tmp_path, caplog):
    interrupted(tmp_path / "out.txt", 4)
    caplog.clear()
    with pytest.raises(RequestError, match="other settings"), lines(tmp_path / "out.txt", resume=True) as out:
        out.begin(10, 3, Signature(settings={"format": "another"}))
    assert "run the same command" not in caplog.text


def test_a_changed_description_of_the_run_is_refused(tmp_path):
    path = tmp_path / "out.txt"
    interrupted(path, 4)
    run = tmp_path / ".out.txt.parts" / "run.json"
    run.write_text(run.read_text().replace('"size": 3', '"size": 2'))
    with pytest.raises(RequestError, match="run.json: damaged, .*: its checksum differs; --overwrite"), lines(path, resume=True) as out:
        out.begin(10, 3, SIGNATURE)


def test_a_run_killed_just_before_it_cleaned_up(tmp_path):
    path, kept = tmp_path / "v.npy", tmp_path / ".v.npy.parts"
    with vectors(path, 1) as out:
        out.begin(1, 2, SIGNATURE)
        out.write_vectors(0, np.ones((1, 3), np.float32))
        shutil.copytree(kept, tmp_path / "copy")
        out.finish()
    (tmp_path / "copy").rename(kept)
    (kept / "vectors.npy").unlink()
    with vectors(path, 1, resume=True) as out:
        assert out.begin(1, 2, SIGNATURE) == []
        out.finish()
    assert np.load(path).tolist() == [[1, 1, 1]] and os.listdir(tmp_path) == ["v.npy"]


def test_no_vectors_make_an_empty_file(tmp_path):
    with vectors(tmp_path / "v.npy", 0) as out:
        assert out.begin(0, 2, SIGNATURE) == []
        out.finish()
    assert np.load(tmp_path / "v.npy").shape == (0, 3)


def test_a_disk_too_small_for_the_vectors_is_reported_first(tmp_path, monkeypatch):
    monkeypatch.setattr("v2t_cli.io.resumable.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(V2TError, match="v.npy: No space left on device"), vectors(tmp_path / "v.npy", 100) as out:
        out.begin(100, 2, SIGNATURE)
    assert not os.listdir(tmp_path)
    with vectors(tmp_path / "v.npy", 60) as out:
        assert len(out.begin(60, 30, SIGNATURE)) == 2


@pytest.mark.parametrize("make", [lines, lambda path: vectors(path, 1)], ids=["lines", "vectors"])
def test_a_folder_is_no_output(tmp_path, make):
    with pytest.raises(RequestError, match="is a folder; expected a file name"):
        make(tmp_path)
    assert not list(Path(tmp_path).iterdir())
