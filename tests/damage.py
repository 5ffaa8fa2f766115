"""Damage a byte or a piece of what v2t keeps on the disk, and use it: it must end as if undamaged, or in one clear line.

python tests/damage.py --damages 200
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import Result
from safetensors.numpy import load_file
from tiny import SENTENCES, build_labse, interrupting, stopping
from typer.testing import CliRunner

from v2t_cli.cli import app
from v2t_cli.core.config import EncoderConfig, load_config
from v2t_cli.models.encoder import open_encoder
from v2t_cli.training.train import train

SCRATCH = "decoder.scratch={n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}"
BLOCK = 30  # texts that are embedded at a time
SAME, TOLD, REFUSED = "as if undamaged", "other texts, with a warning", "refused in one line"


class Scene(NamedTuple):
    """A folder, what of it is damaged (a pattern), the command that runs in it, and the file or folder that it makes."""

    folder: Path
    damaged: str
    command: list[str]
    output: str


def scenes(folder: Path, labse: Path, texts: Path, checkpoint: Path) -> dict[str, Scene]:
    """What can be damaged: a checkpoint, both caches, the state of a training, and the parts of all that is made in parts."""
    vectors = folder / "v.npy"
    np.save(vectors, open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(SENTENCES[:10]))
    sets = [f"data.texts={texts}", f"encoder.model={labse}", "output=out", "device=cpu", SCRATCH, "data.held_out=0.1"]
    sets += ["train.epochs=1", "train.batch_size=16", "train.dropout=0.1", "train.samples=0"]
    learn = ["train", *(part for item in sets for part in ("--set", item))]
    decode = ["decode", str(vectors), "-o", "out.jsonl", "--format", "jsonl", "--batch-size", "4", "--device", "cpu"]
    own, kept, own_cache = ["--checkpoint", str(checkpoint)], ["--set", f"data.cache={folder / 'cache'}"], ["--set", "data.cache=cache"]
    embed = ["embed", str(texts), "-o", "out.npy", "--encoder", str(labse), "--device", "cpu", "--resume"]
    out = {
        "checkpoint": Scene(folder / "a", "checkpoint/*", [*decode, "--checkpoint", "checkpoint", *kept], "out.jsonl"),
        "cached words": Scene(folder / "b", "cache/*", [*decode, *own, *own_cache], "out.jsonl"),
        "cached texts": Scene(folder / "c", "cache/*", [*learn, *own_cache], "out"),
        "cached parts": Scene(folder / "d", "cache/.*.parts/*", [*learn, *own_cache], "out"),
        "state": Scene(folder / "e", "out/.resume/*/*", [*learn, *kept, "--resume"], "out"),
        "parts of texts": Scene(folder / "f", ".out.jsonl.parts/*", [*decode, *own, *kept, "--resume"], "out.jsonl"),
        "parts of vectors": Scene(folder / "g", ".out.npy.parts/*", embed, "out.npy"),
    }
    for scene in out.values():
        scene.folder.mkdir()
    shutil.copytree(checkpoint, out["checkpoint"].folder / "checkpoint", ignore=shutil.ignore_patterns(".resume"))
    for name in ("checkpoint", "cached words", "cached texts"):  # the first fills the cache that is not damaged
        assert used(out[name], out[name].folder).exit_code == 0
        shutil.rmtree(out[name].folder / "out", ignore_errors=True)
    with chdir(out["state"].folder):
        train(load_config(None, [*sets, kept[1]]), callbacks=stopping(3))
    for name, rows in (("cached parts", 60), ("parts of texts", 6), ("parts of vectors", 60)):
        with interrupting(rows):
            assert used(out[name], out[name].folder).exit_code == 130
    return out


def used(scene: Scene, folder: Path) -> Result:
    """What becomes of the command in a copy of the scene's folder."""
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        for module in ("v2t_cli.models.vector_cache", "v2t_cli.pipelines.embed"):
            patch.setattr(f"{module}.CHUNK_TEXTS", BLOCK)
        result = CliRunner().invoke(app, scene.command)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def made(output: Path) -> Any:
    """What is compared: the weights of a checkpoint, or the bytes of a file."""
    if output.is_file():
        return output.read_bytes()
    return {
        f"{name}: {key}": part.tobytes() for name in ("model", "adapter") for key, part in load_file(output / f"{name}.safetensors").items()
    }


def damage(path: Path, others: list[Path], draw: random.Random) -> str:
    """Damage a file; half of the times a single byte of it. Returns what was done."""
    data = path.read_bytes()
    start, stop = sorted(draw.choices(range(len(data) + 1), k=2))
    length = min(stop - start, (len(data) - start) // 2)
    middle = start + length
    place = draw.randrange(max(1, len(data)))
    kinds = {
        "a byte changed": data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :],
        "a bit changed": data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)] if data else []) + data[place + 1 :],
        "cut": data[:start],
        "without a piece": data[:start] + data[stop:],
        "zeros": data[:start] + bytes(stop - start) + data[stop:],
        "more in it": data[:start] + draw.randbytes(draw.randrange(1, 100)) + data[start:],
        "pieces swapped": data[:start] + data[middle : middle + length] + data[start:middle] + data[middle + length :],
        "twice": data * 2,
        "another file": draw.choice(others).read_bytes() if others else b"",
        "empty": b"",
        "gone": None,
    }
    kind = draw.choice(list(kinds)[:2]) if draw.random() < 0.5 else draw.choice(list(kinds)[2:])
    content = kinds[kind]
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return f"{path.name} ({len(data)} bytes): {kind}, at {place if kind.startswith('a b') else (start, stop)}"


class Outcomes:
    """Of the damages to a scene. wrong: what neither ended as if undamaged nor was told in one line."""

    def __init__(self, scene: Scene, folder: Path, seed: int = 0):
        """folder: in which the copies are made."""
        self._scene, self._copy, self._draw = scene, folder / "copy", random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._renew()
        assert used(scene, self._copy).exit_code == 0
        self._undamaged = made(self._copy / scene.output)

    def _renew(self) -> None:
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._scene.folder, self._copy)

    def add(self) -> None:
        """Damage once more."""
        self._renew()
        files = sorted(path for path in self._copy.glob(self._scene.damaged) if path.is_file())
        path = self._draw.choice(files)
        done = damage(path, [other for other in files if other != path], self._draw)
        try:
            outcome = self._outcome()
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        if outcome not in (SAME, TOLD, REFUSED):
            self.wrong.append(f"{done}: {outcome}")
            outcome = "wrong"
        self.counts[outcome] += 1

    def _outcome(self) -> str:
        result = used(self._scene, self._copy)
        if result.exit_code == 0:
            if made(self._copy / self._scene.output) == self._undamaged:
                return SAME
            # The name of the encoder in v2t.json may be damaged: it is then one that cannot be opened.
            return TOLD if "no re-ranking, because the encoder cannot be opened" in result.stderr else f"other output: {result.stderr}"
        lines = result.stderr.strip().split("\n")
        one = lines[-1].startswith("error: ") and sum(line.startswith("error: ") for line in lines) == 1
        return REFUSED if one and "Traceback" not in result.stderr else f"exit code {result.exit_code}: {result.stderr}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=200, help="of all scenes together")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labse = build_labse(folder / "labse", hidden=16, layers=2, heads=2)
        texts = folder / "texts.txt"
        texts.write_text("".join(text + "\n" for text in SENTENCES), encoding="utf-8")
        checkpoint = folder / "checkpoint"
        sets = [f"data.texts={texts}", f"encoder.model={labse}", f"output={checkpoint}", f"data.cache={folder / 'cache'}", "device=cpu"]
        train(load_config(None, [*sets, SCRATCH, "train.epochs=60", "train.learning_rate=3e-3", "train.samples=0"]))
        wrong = []
        found = scenes(folder, labse, texts, checkpoint)
        for number, (name, scene) in enumerate(found.items()):
            outcomes = Outcomes(scene, folder, given.seed)
            for _ in range(given.damages // len(found) + (number < given.damages % len(found))):
                outcomes.add()
            print(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.counts.most_common())}", flush=True)
            wrong += outcomes.wrong
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
