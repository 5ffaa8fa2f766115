import numpy as np

from v2t_cli.training.batches import bucketed


def test_buckets_are_a_shuffle_that_pads_little():
    lengths = np.random.default_rng(0).integers(1, 40, size=5000)
    batches = bucketed(lengths, 32, np.random.default_rng(1))
    assert sorted(np.concatenate(batches)) == list(range(5000))
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded < 1.05 * lengths.sum()
    assert [lengths[batch].max() for batch in batches[:20]] != sorted(lengths[batch].max() for batch in batches[:20])


def test_buckets_follow_the_seed():
    lengths = np.arange(100)
    first, same, other = (bucketed(lengths, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert [b.tolist() for b in first] == [b.tolist() for b in same] != [b.tolist() for b in other]
