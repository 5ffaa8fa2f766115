import numpy as np
import pytest
import torch

from v2t_cli.core.errors import V2TError
from v2t_cli.decoding.decode import HalvingBatches
from v2t_cli.training.batches import bucketed


def test_bucketed_is_a_shuffle_that_pads_little():
    lengths = np.random.default_rng(0).integers(1, 40, size=5000)
    batches = bucketed(lengths, 32, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(5000))
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded < 1.05 * lengths.sum()
    assert [lengths[batch].max() for batch in batches[:20]] != sorted(lengths[batch].max() for batch in batches[:20])


def test_bucketed_follows_the_seed():
    lengths = np.arange(100)
    first, same, other = (bucketed(lengths, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert [b.tolist() for b in first] == [b.tolist() for b in same] != [b.tolist() for b in other]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nmore"),
    ],
)
def test_halves_when_memory_runs_out_and_loses_no_row(error):
    tried = []

    def run(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if part.stop - part.start > 3:
            raise error
        return list(range(part.start, part.stop))

    batches = HalvingBatches(16)
    assert list(batches.map(run, 10)) == list(range(10))
    assert tried[:4] == [10, 8, 4, 2] and batches.size == 2
    assert list(batches.map(run, 2)) == [0, 1]


def test_gives_up_at_one_row_and_passes_other_errors_on():
    def full(part):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(V2TError, match="out of memory with a single row"):
        list(HalvingBatches(4).map(full, 4))

    def broken(part):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(HalvingBatches(4).map(broken, 4))
