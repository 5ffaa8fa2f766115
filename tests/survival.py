"""Kill a training at random moments and let it go on until it is done: it must end where an undisturbed run ends.

python -m tests.survival --kills 20
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TEXTS = Path(__file__).parent.parent / "examples" / "natural.txt"


def command(folder: Path, output: str) -> list[str]:
    """A training of some seconds that saves all the time."""
    sets = [
        f"data.texts={TEXTS}",
        f"data.vectors={folder / 'vectors.npy'}",
        f"output={folder / output}",
        "device=cpu",
        "decoder.scratch={n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 96}",
        "train={epochs: 12, batch_size: 16, save_steps: 4, eval_steps: 1000, samples: 0, dropout: 0.1}",
    ]
    return [sys.executable, "-m", "v2t_cli", "train", *(part for item in sets for part in ("--set", item))]


def survive(folder: Path, kills: int, seed: int) -> dict[str, float]:
    """Train once undisturbed and once killed so often. Returns both held-out losses, the kills, and how many came after the first save."""
    lines = sum(1 for _ in open(TEXTS, encoding="utf-8"))
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(lines, 32)).astype(np.float32))
    start = time.monotonic()
    subprocess.run(command(folder, "undisturbed"), check=True, capture_output=True)
    whole = time.monotonic() - start

    draw, started = random.Random(seed), 0
    for _ in range(kills):
        resume = ["--resume"] if begun(folder / "killed") else []
        started += bool(resume)
        process = subprocess.Popen([*command(folder, "killed"), *resume], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            process.wait(draw.uniform(0, whole))
        except subprocess.TimeoutExpired:
            process.kill()
        _, stderr = process.communicate()
        if process.returncode not in (0, -9):
            raise AssertionError(f"after a kill it did not go on: {stderr}")
    resume = ["--resume"] if begun(folder / "killed") else []
    subprocess.run([*command(folder, "killed"), *resume], check=True, stdout=subprocess.DEVNULL)
    losses = {name: json.loads((folder / name / "v2t.json").read_text())["held_out"]["loss"] for name in ("undisturbed", "killed")}
    return {**losses, "kills": kills, "resumed": started}


def begun(output: Path) -> bool:
    return any((output / ".resume").glob("run*"))


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.survival", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = survive(Path(folder), given.kills, given.seed)
    print(json.dumps(found))
    if abs(found["killed"] - found["undisturbed"]) > 1e-5:
        sys.exit("the killed run ended elsewhere")


if __name__ == "__main__":
    main()
