"""`v2t embed` beside the encoder on the whole list in one call, and its memory; what correction embeds beside the same call."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.benchmarks.common import Settings, in_turn, ratios, show, spread
from v2t_cli.io.texts import read_lines
from v2t_cli.io.vectors import write_vectors
from v2t_cli.models.encoder import USE, Encoder, embed


def v2t_embed(encoder: Encoder, texts: Path, output: Path) -> None:
    with write_vectors(str(output), encoder.identity.dim) as write:
        for chunk in embed(encoder, read_lines(str(texts))):
            write(chunk)


def plain_embed(encode: Callable[[list[str]], np.ndarray], texts: Path, output: Path) -> None:
    np.save(output, encode(texts.read_text(encoding="utf-8").split("\n")[:-1]))


def candidates(lines: list[str], each: int) -> list[str]:
    """Texts as correction tries them: `each` of every line, with another word in one place."""
    rng, words, out = np.random.default_rng(0), " ".join(lines).split(), []
    for line in lines:
        parts = line.split()
        for place in rng.integers(len(parts), size=each).tolist():
            out.append(" ".join([*parts[:place], words[rng.integers(len(words))], *parts[place + 1 :]]))
    return out


def run(settings: Settings) -> None:
    encoder = settings.encoder
    tried = candidates([line for line in settings.lines(settings.size(40, 4)) if line.strip()], settings.size(100, 5))
    ours, plain = in_turn(settings.repeats, lambda: encoder.draft(tried), lambda: settings.plain_encode(tried))
    rate, plain_rate = ([len(tried) / seconds for seconds in side] for side in (ours, plain))
    show(
        f"embed, {len(tried):,} candidates of a correction, texts per second",
        spread(rate, 0),
        f"{encoder.identity.name} in one call {spread(plain_rate, 0)}",
        f"{spread(ratios(rate, plain_rate), 2)}x",
        ">= 0.97x" if encoder.identity.name == USE else ">= 2x",
    )
    few, many = settings.to_embed(10_000, 200), settings.to_embed(400_000, 1_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {count: folder / f"{count}.txt" for count in (few, many)}
        for count, path in paths.items():
            path.write_text("".join(line + "\n" for line in settings.lines(count)), encoding="utf-8")
        ours, plain = in_turn(
            max(1, settings.repeats // 2),
            lambda: v2t_embed(encoder, paths[many], folder / "ours.npy"),
            lambda: plain_embed(settings.plain_encode, paths[many], folder / "plain.npy"),
            warm_up=False,
        )
        rate, plain_rate = ([many / seconds for seconds in side] for side in (ours, plain))
        what = f"embed, {many:,} texts"
        show(
            f"{what}, texts per second",
            spread(rate, 0),
            f"{encoder.identity.name} in one call {spread(plain_rate, 0)}",
            f"{spread(ratios(rate, plain_rate), 2)}x",
            ">= 0.97x",
        )
        sizes = {count: _memory(settings, path, folder / "memory.npy") / 1e6 for count, path in paths.items()}
        more = sizes[many] - sizes[few]
        show(
            f"{what}, memory of the process",
            f"{sizes[many]:.0f} MB",
            f"{few:,} texts: {sizes[few]:.0f} MB",
            f"{more:+.0f} MB",
            "<= 60 MB more",
        )


# A small process between: a child's largest size begins with that of the process that started it.
LARGEST_SIZE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _memory(settings: Settings, texts: Path, output: Path) -> int:
    """The largest resident size of `v2t embed`, in bytes."""
    embed_command = [sys.executable, "-m", "v2t_cli", "embed", str(texts), "-o", str(output), "--checkpoint", str(settings.checkpoint)]
    return 1024 * int(subprocess.check_output([sys.executable, "-c", LARGEST_SIZE, *embed_command]))
