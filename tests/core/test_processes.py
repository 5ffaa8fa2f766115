"""What processes exchange; and two and three of them give what one gives, byte for byte. (Training: training/test_processes.py.)"""

import json
import os
import signal
import socket
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from forked import Running, launch
from tiny import DIM, SENTENCES

from v2t_cli.core import processes as module
from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.processes import ALONE, Processes, launched
from v2t_cli.models.encoder import open_encoder

TEXTS = 8_200  # two blocks of 4,096, and a bit


@pytest.fixture
def run(v2t):
    """A command in so many processes; a single one is this one."""
    return lambda processes, *arguments: launch(processes, *arguments) if processes > 1 else v2t(*arguments)


EXCHANGE = """
import json, os
from pathlib import Path
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import launched

rank = int(os.environ["RANK"])

def refuse():
    raise RequestError(f"refused by {rank}")

def told(call):
    try:
        return call()
    except RequestError as error:
        return str(error)

with launched("cpu") as (processes, device):
    found = {
        "main": processes.is_main,
        "split": processes.split([1, 2, 3]),
        "gather": processes.gather([rank] * (rank + 1)),
        "total": processes.total(1, rank),
        "by_main": processes.by_main(lambda: f"by {rank}"),
        "on_all": processes.on_all(lambda: rank),
        "refused by the first": told(lambda: processes.by_main(refuse)),
        "refused by the second": told(lambda: processes.on_all(lambda: refuse() if rank else rank)),
    }
    processes.wait()
Path(f"{rank}.json").write_text(json.dumps(found))
"""


def test_what_processes_exchange(tmp_path):
    (tmp_path / "exchange.py").write_text(EXCHANGE)
    launch(2, program=tmp_path / "exchange.py", folder=tmp_path)
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (one.pop("main"), two.pop("main")) == (True, False)
    assert (one.pop("split"), two.pop("split")) == ([1, 2], [3])
    assert (one.pop("on_all"), two.pop("on_all")) == (0, 1)
    assert (
        one
        == two
        == {
            "gather": [0, 1, 1],
            "total": [2, 1],
            "by_main": "by 0",
            "refused by the first": "refused by 0",
            "refused by the second": "refused by 1",
        }
    )


def test_a_process_without_peers():
    assert ALONE.is_main and ALONE.count == 1
    assert ALONE.split([1, 2]) == ALONE.gather([1, 2]) == ALONE.on_all(lambda: [1, 2]) == [1, 2]
    assert ALONE.total(3, 4) == [3, 4] and ALONE.by_main(lambda: "x") == "x"


def test_one_gpu_is_not_for_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RequestError, match="device 'cuda:1': with several processes, each picks its own device"), launched("cuda:1"):
        pass


def test_embed(tmp_path, labse, run):
    texts = tmp_path / "t.txt"
    texts.write_text("".join(f"{i} {SENTENCES[i % 100]}\n" for i in range(TEXTS)) + "\n", encoding="utf-8")
    for processes in (1, 2):
        done = run(processes, "embed", texts, "--encoder", labse, "-o", tmp_path / f"{processes}.npy")
        assert done.stderr.count("8,201 vectors of 16 dimensions written") == 1 and done.stderr.count("1 blank lines") == 1
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "2.npy").read_bytes()
    assert set(os.listdir(tmp_path)) == {"t.txt", "1.npy", "2.npy"}


@pytest.mark.parametrize(("rows", "quality"), [(50, "balanced"), (2, "fast")])
def test_decode(tmp_path, labse, checkpoint, rows, quality, run):
    np.save(tmp_path / "v.npy", open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(SENTENCES[:rows]))
    options = ("--checkpoint", checkpoint, "--format", "tsv", "--quality", quality, "--batch-size", 7)
    for processes in (1, 3):
        run(processes, "decode", tmp_path / "v.npy", *options, "-o", tmp_path / f"{processes}.tsv")
    assert (tmp_path / "1.tsv").read_bytes() == (tmp_path / "3.tsv").read_bytes()
    assert len((tmp_path / "1.tsv").read_text(encoding="utf-8").splitlines()) == rows + 1


def test_decode_a_store(tmp_path, labse, checkpoint, run):
    parquet = pytest.importorskip("pyarrow.parquet")
    vectors = open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(SENTENCES[:20])
    columns = {"id": [f"строка {i}" for i in range(20)], "embedding": vectors.tolist()}
    parquet.write_table(pytest.importorskip("pyarrow").table(columns), tmp_path / "v.parquet")
    options = ("--checkpoint", checkpoint, "--format", "tsv", "--quality", "fast", "--batch-size", 7)
    for processes in (1, 2):
        run(processes, "decode", tmp_path / "v.parquet", *options, "-o", tmp_path / f"{processes}.tsv")
    assert (tmp_path / "1.tsv").read_bytes() == (tmp_path / "2.tsv").read_bytes()
    assert (tmp_path / "1.tsv").read_text(encoding="utf-8").splitlines()[20].startswith("19\tстрока 19\t")


def test_eval(tmp_path, labse, checkpoint, texts_file, run):
    options = ("--checkpoint", checkpoint, "--texts", texts_file, "--train-texts", texts_file, "--set", "decode.batch_size=30")
    one, two = (json.loads(run(processes, "eval", *options, "--json").stdout) for processes in (1, 2))
    for result in (one, two):
        del result["milliseconds"]
    assert one.pop("loss") == pytest.approx(two.pop("loss"), abs=1e-6)
    assert one.pop("perplexity") == pytest.approx(two.pop("perplexity"), abs=1e-6)
    assert one["intervals"].pop("loss") == pytest.approx(two["intervals"].pop("loss"), abs=1e-6)
    assert one == two


def test_what_several_processes_cannot_do(tmp_path, checkpoint):
    """They end, all of them, and say why."""
    np.save(tmp_path / "v.npy", np.zeros((3, DIM), np.float32))
    done = launch(2, "decode", tmp_path / "v.npy", "--checkpoint", checkpoint, fails=True)
    assert 2 in done.codes and "several processes: needs an input file and -o FILE" in done.stderr
    np.save(tmp_path / "v.npy", np.full((3, DIM), np.nan, np.float32))
    done = launch(2, "decode", tmp_path / "v.npy", "--checkpoint", checkpoint, "-o", tmp_path / "out.txt", fails=True)
    assert 2 in done.codes and "NaN or infinity" in done.stderr
    assert os.listdir(tmp_path) == ["v.npy"]


def test_a_file_that_one_process_does_not_see_ends_all(tmp_path, checkpoint):
    """Nobody waits for the one that cannot open it."""
    np.save(tmp_path / "v.npy", np.zeros((3, DIM), np.float32))
    (tmp_path / "elsewhere").mkdir()
    program = tmp_path / "program.py"
    program.write_text("import os\nfrom v2t_cli.cli import app\nif os.environ['RANK'] == '1':\n    os.chdir('elsewhere')\napp()\n")
    command = ("decode", "v.npy", "--checkpoint", checkpoint, "-o", tmp_path / "out.txt")
    done = launch(2, *command, program=program, folder=tmp_path, fails=True)
    assert "v.npy: no such vector file" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "out.txt").exists()


@pytest.mark.parametrize(("variables", "words"), [({}, "not all processes met within 0.05 minutes"), ({"RANK": "x"}, "invalid literal")])
def test_processes_that_do_not_come_are_not_awaited_for_ever(monkeypatch, variables, words):
    monkeypatch.setattr(module, "MEETING", timedelta(seconds=3))
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = str(listening.getsockname()[1])
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port, **variables}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(RequestError, match=rf"WORLD_SIZE=2, .*{words}.*; start all of them, or none: unset WORLD_SIZE RANK"),
        launched("cpu"),
    ):
        pass


def test_a_lost_process_is_one_line():
    def lost():
        raise RuntimeError("[gloo/pair.cc:534] Connection closed by peer")

    with pytest.raises(V2TError, match="another process of this run was killed or lost its connection: .*closed by peer"):
        Processes(SimpleNamespace(num_processes=2, is_main_process=False, wait_for_everyone=lost)).wait()


def test_a_run_whose_first_process_was_killed_resumes(tmp_path, labse):
    """The second goes on until it misses the first; what both have done is kept."""
    texts, output = tmp_path / "t.txt", tmp_path / "v.npy"
    texts.write_text("".join(f"{i} {SENTENCES[i % 100]}\n" for i in range(3 * 4096)), encoding="utf-8")
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = str(listening.getsockname()[1])
    command = ("embed", texts, "--encoder", labse, "-o", output)
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    one, two = (Running(*command, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(2))
    one.until(lambda _: any(path.stat().st_size for path in (tmp_path / ".v.npy.parts").glob("rows-*")))
    one.send(signal.SIGKILL)
    assert two.wait() == 1 and "Traceback" not in two.stderr, two.stderr
    resumed = Running(*command, "--resume")
    assert resumed.wait() == 0 and "rows are already done" in resumed.stderr, resumed.stderr
    assert Running(*command[:-1], tmp_path / "whole.npy").wait() == 0
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()
