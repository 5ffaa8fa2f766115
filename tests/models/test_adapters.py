import pytest
import torch

from v2t_cli.core.errors import RequestError
from v2t_cli.models.adapters import ADAPTERS, Linear, ZeroPad


def test_zero_pad_is_the_vector_and_zeros():
    vectors = torch.randn(4, 6)
    prefix = ZeroPad(6, 10, 1)(vectors)
    assert prefix.shape == (4, 1, 10)
    torch.testing.assert_close(prefix[:, 0, :6], vectors)
    assert not prefix[:, 0, 6:].any() and not list(ZeroPad(6, 10, 1).parameters())


def test_zero_pad_refuses_a_wide_vector_with_both_numbers():
    with pytest.raises(RequestError, match="768 numbers, more than the decoder's hidden size 512; use linear or mlp"):
        ZeroPad(768, 512, 1)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_learned_adapters_standardise_and_match_the_embeddings(kind):
    torch.manual_seed(0)
    vectors = 5 + 0.01 * torch.randn(2000, 32)
    adapter = ADAPTERS[kind](32, 64, 3)
    adapter.set_statistics(vectors.mean(dim=0), vectors.std(dim=0))
    adapter.match_scale(0.02)
    prefix = adapter(vectors)
    assert prefix.shape == (2000, 3, 64)
    assert prefix.std().item() == pytest.approx(0.02, rel=0.15)


def test_a_constant_dimension_stays_finite():
    adapter = Linear(4, 8, 1)
    adapter.set_statistics(torch.ones(4), torch.zeros(4))
    assert torch.isfinite(adapter(torch.ones(2, 4))).all()


def test_rounding_is_no_variation():
    adapter = Linear(3, 8, 1)
    adapter.set_statistics(torch.tensor([1e6, 1e6, 0.0]), torch.tensor([0.05, 1.0, 1e-3]))
    assert adapter.scale.tolist() == [1, 1, pytest.approx(1e-3)]


@pytest.mark.parametrize("ones", [0, 5, 16])
def test_the_length_of_standardised_vectors_is_unknown_rather_than_wrong(ones):
    """Where the deviation is 1, it cannot be told from that of a dimension that never varied."""
    adapter = ADAPTERS["linear"](16, 8, 1)
    adapter.set_statistics(torch.full((16,), 1e-8), torch.where(torch.arange(16) < ones, 1.0, 1.0 - 2**-23))
    assert adapter.training_length == (pytest.approx((16 - ones) ** 0.5) if ones < 16 else 0)
