"""`v2t` in processes of its own. A server that has imported everything forks them, because each import would take 5 seconds.

They reach no model hub, and torch computes with one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

SECONDS = 120  # for any of them; a test machine may be busy
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("v2t_cli.api", "v2t_cli.cli", "v2t_cli.pipelines.embed", "v2t_cli.pipelines.decode", "v2t_cli.pipelines.evaluate"),
        # what these import later
        *("sentence_transformers", "transformers.models.gpt2.modeling_gpt2", "transformers.models.bert.modeling_bert"),
        *("accelerate.utils", "torch._dynamo", "torch.distributed.fsdp", "scipy.stats", "matplotlib.figure", "sacrebleu"),
    ]
)
_EMPTY = tempfile.TemporaryDirectory(prefix="v2t-no-hub-")
# Libraries read these once, when they are imported.
_AT_IMPORT = {
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HF_HOME": _EMPTY.name,
    "HF_HUB_OFFLINE": "0",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


class Running:
    """A command that runs, and what it has written so far."""

    def __init__(self, *arguments: Any, folder: Path | None = None, program: Path | None = None, **variables: str):
        """Start `v2t ARGUMENTS`. program: a script to run in place of v2t; variables: of the environment."""
        with mock.patch.dict(os.environ, _AT_IMPORT):
            forkserver.ensure_running()
        self._streams = [tempfile.NamedTemporaryFile(prefix="v2t-stream-") for _ in range(2)]
        names = [stream.name for stream in self._streams]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **_AT_IMPORT, **variables}
        command = (list(map(str, arguments)), folder or Path.cwd(), program, environment, names)
        self._process = _CONTEXT.Process(target=_run, args=command)
        self._process.start()

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, negative for a signal; None if the command still runs after so many seconds, or fails the test after SECONDS."""
        self._process.join(SECONDS if seconds is None else seconds)
        if self._process.exitcode is None and seconds is None:
            self.send(signal.SIGKILL)
            raise AssertionError(f"did not end in {SECONDS} seconds: {self.stderr}")
        return self._process.exitcode

    def send(self, signum: int) -> None:
        if self._process.is_alive():  # if not, its number may be another program's
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signum)

    def until(self, condition: Callable[[Running], bool]) -> None:
        """Wait until something is true, or the command has ended."""
        while not condition(self) and self._process.is_alive():
            time.sleep(0.01)

    @property
    def stdout(self) -> str:
        return Path(self._streams[0].name).read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return Path(self._streams[1].name).read_text(encoding="utf-8", errors="replace")


def _run(arguments: list[str], folder: Path, program: Path | None, environment: dict[str, str], streams: list[str]) -> None:
    """What the new process does."""
    import torch

    from v2t_cli.cli import app

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in enumerate(streams, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
    torch.set_num_threads(1)
    sys.argv = [str(program or "v2t"), *arguments]
    if program:
        runpy.run_path(str(program), run_name="__main__")
    else:
        app()


class Done(NamedTuple):
    """Of several processes: their exit codes, and what they wrote, one after the other."""

    codes: list[int | None]
    stdout: str
    stderr: str


def launch(processes: int, *arguments: Any, fails: bool = False, **more: Any) -> Done:
    """Run a command in several processes, with the variables that torchrun sets; fail unless all succeed, or all fail."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = str(listening.getsockname()[1])
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    started = [Running(*arguments, RANK=str(rank), LOCAL_RANK=str(rank), **common, **more) for rank in range(processes)]
    try:
        codes = [each.wait() for each in started]
    finally:
        for each in started:
            each.send(signal.SIGKILL)
    done = Done(codes, "".join(each.stdout for each in started), "".join(each.stderr for each in started))
    assert all((code != 0) == fails for code in codes), done
    return done
