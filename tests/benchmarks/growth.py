"""Time a row with growing files: it should not change."""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from tests.benchmarks.common import Settings, in_turn, show, spread
from tests.benchmarks.embedding import v2t_embed
from v2t_cli.core.config import DecodeConfig
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.vectors import CHUNK_ROWS, grid, open_vectors
from v2t_cli.models.checkpoint import load_checkpoint


def run(settings: Settings) -> None:
    to_decode = [50, 200] if settings.quick else [1_000, 4_000, 16_000, 64_000]
    to_embed = [50, 200] if settings.quick else [settings.to_embed(count, 0) for count in (4_000, 16_000, 64_000)]
    checkpoint = load_checkpoint(settings.checkpoint, settings.device)
    search = fit(checkpoint, resolve_search(DecodeConfig(strategy="greedy")))
    # The same rows again and again: longer ones would be more work, not slower work.
    vectors, lines = settings.vectors[: to_decode[0]], list(settings.lines(to_embed[0]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in to_decode:
            np.save(folder / f"{count}.npy", np.resize(vectors, (count, vectors.shape[1])))
        for count in to_embed:
            (folder / f"{count}.txt").write_text("".join(f"{line}\n" for line in islice(cycle(lines), count)), encoding="utf-8")

        def decoded(count: int) -> None:
            with open_vectors(str(folder / f"{count}.npy")) as reader:
                for _ in decode(checkpoint, reader.blocks(grid(reader.rows, reader.fitting(CHUNK_ROWS))), search):
                    pass

        def embedded(count: int) -> None:
            v2t_embed(settings.encoder, folder / f"{count}.txt", folder / "out.npy")

        for what, counts, work in (("decode", to_decode, decoded), ("embed", to_embed, embedded)):
            # All sizes in each turn, the largest as often as the others.
            work(counts[0])  # warm
            seconds = in_turn(max(1, settings.repeats // 2), *(partial(work, count) for count in counts), warm_up=False)
            per = [[1e3 * taken / count for taken in of] for count, of in zip(counts, seconds)]
            slowest = [max(turn) / min(turn) for turn in zip(*per)]
            sizes = ", ".join(f"{count:,}: {spread(of, 2)}" for count, of in zip(counts, per))
            show(f"{what}, ms per row", sizes, "slowest to fastest", f"{spread(slowest, 2)}x", "<= 1.15x")
