"""Batches: texts of like length together, and smaller ones when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from v2t_cli.console import log
from v2t_cli.errors import V2TError

T = TypeVar("T")
# Lengths are sorted within pools of this many batches: little padding, and the order stays close to random.
POOL = 100


def bucketed(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffle 0 … len(lengths)-1 into batches of positions whose lengths are close, in a random order of batches."""
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), batch_size * POOL):
        pool = order[start : start + batch_size * POOL]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


class HalvingBatches:
    """Runs a function over slices of rows; when the device runs out of memory, the slice and all later ones are halved."""

    def __init__(self, size: int, release: Callable[[], None] = lambda: None):
        """release: called when memory ran out, to let go of what a smaller batch does without."""
        self.size, self._release = size, release

    def map(self, run: Callable[[slice], list[T]], count: int) -> Iterator[T]:
        """Yield what `run(slice)` returns for consecutive slices of 0 … count-1.

        Raises V2TError where not even one row fits.
        """
        start = 0
        while start < count:
            try:
                out = run(slice(start, min(start + self.size, count)))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.size == 1:
                    raise V2TError(
                        "out of memory with a single row; fewer decode.beams, a smaller encoder.batch_size or another --device may do"
                    ) from None
                out = None
            # Outside the handler: the exception would keep the failed batch's tensors alive.
            if out is None:
                self.size //= 2
                self._release()
                free_memory()
                log.info(f"out of memory: going on with {self.size} rows a batch")
                continue
            yield from out
            start += len(out)


def out_of_memory(error: RuntimeError) -> bool:
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    words = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error) or any(word in str(error) for word in words)


def free_memory() -> None:
    """Give back what nothing holds any more, also on the GPU."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
