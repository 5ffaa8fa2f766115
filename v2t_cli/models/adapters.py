"""Adapters: from a sentence vector to the prefix positions that the decoder reads before its first token.

To add one, subclass Adapter or Learned, and name it in ADAPTERS and in AdapterConfig.kind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from v2t_cli.core.errors import RequestError

ROUNDING = 2**-23  # of a float32, relative to its value
UNSURE = 3.0  # times the shortest length that the training vectors may have had, from which it is unknown


class Adapter(nn.Module):
    """vectors (batch, dim) float32 -> prefix (batch, tokens, hidden) float32.

    mean, scale: (dim,) float32, mean and standard deviation of the training vectors, stored with the weights.
    """

    kind: str
    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, hidden: int, tokens: int):
        super().__init__()
        self.dim, self.hidden, self.tokens = dim, hidden, tokens
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Store mean and deviation of the training vectors; a dimension that never varies, but for rounding, is not scaled."""
        self.mean.copy_(mean)
        varies = scale > (ROUNDING * mean.abs()).clamp(min=1e-8)
        self.scale.copy_(torch.where(varies, scale, torch.ones_like(scale)))

    def match_scale(self, embedding_std: float) -> None:
        """Bring the output to the scale of the decoder's token embeddings, if the adapter can."""

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of the training vectors, (dim,): 0 for a dimension that never varied, whose scale is 1."""
        return torch.where(self.scale == 1, 0, self.scale)

    @property
    def training_length(self) -> float:
        """The length of the training vectors, as a root mean square; 0 if it is unknown."""
        mean = self.mean.double()
        # Standardised vectors have a deviation of 1 too.
        shortest, longest = (float(mean.square().add(part.double().square()).sum().sqrt()) for part in (self.deviation, self.scale))
        return shortest if longest <= UNSURE * shortest else 0.0

    def standardise(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / self.scale

    def prefix(self, vectors: Tensor) -> Tensor:
        """(batch, dim) -> (batch, tokens * hidden)."""
        raise NotImplementedError

    def forward(self, vectors: Tensor) -> Tensor:
        return self.prefix(vectors).view(len(vectors), self.tokens, self.hidden)


class ZeroPad(Adapter):
    """The scheme of Koziev/vector2text: the vector itself, padded with zeros to the hidden size. No parameters."""

    kind = "zero_pad"

    def __init__(self, dim: int, hidden: int, tokens: int):
        if dim > hidden:
            raise RequestError(
                f"adapter.kind zero_pad: the vectors have {dim} numbers, more than the decoder's hidden size {hidden}; use linear or mlp"
            )
        if tokens != 1:
            raise RequestError(f"adapter.kind zero_pad: has exactly 1 prefix position, not {tokens}")
        super().__init__(dim, hidden, tokens)

    def prefix(self, vectors: Tensor) -> Tensor:
        return nn.functional.pad(vectors, (0, self.hidden - self.dim))


class Learned(Adapter):
    """A learned map of the standardised vector.

    The map gives numbers of unit variance, and `gain` brings them to the scale of the decoder's token embeddings: an optimizer
    step then changes the prefix by the same fraction at any scale. Matrices start orthogonal or as the identity, because a
    Gaussian matrix almost loses the directions of its smallest singular values.
    """

    gain: Tensor
    map: nn.Module

    def __init__(self, dim: int, hidden: int, tokens: int):
        super().__init__(dim, hidden, tokens)
        self.register_buffer("gain", torch.ones(()))

    def match_scale(self, embedding_std: float) -> None:
        self.gain.fill_(embedding_std)

    def prefix(self, vectors: Tensor) -> Tensor:
        return self.gain * self.map(self.standardise(vectors))


class Linear(Learned):
    """One learned linear map to all prefix positions.

    If the vector fits into the hidden size, each position starts as the standardised vector itself, as in zero_pad, so that
    each dimension keeps its meaning. Otherwise the map starts orthogonal.
    """

    kind = "linear"

    def __init__(self, dim: int, hidden: int, tokens: int):
        super().__init__(dim, hidden, tokens)
        self.map = _unit_variance(nn.Linear(dim, tokens * hidden))
        if dim <= hidden:
            with torch.no_grad():
                self.map.weight.copy_(torch.eye(hidden, dim).repeat(tokens, 1) * (hidden / dim) ** 0.5)


class MLP(Learned):
    """Two layers with a GELU between them; the inner width is the larger of the vector's and the hidden size."""

    kind = "mlp"

    def __init__(self, dim: int, hidden: int, tokens: int):
        super().__init__(dim, hidden, tokens)
        inner = max(dim, hidden)
        # GELU of a unit normal has a mean square of 0.425.
        last = _unit_variance(nn.Linear(inner, tokens * hidden), mean_square=0.425)
        self.map = nn.Sequential(_unit_variance(nn.Linear(dim, inner)), nn.GELU(), last)


def _unit_variance(layer: nn.Linear, mean_square: float = 1.0) -> nn.Linear:
    """Orthogonal weights that turn inputs of the given mean square into outputs of unit variance; no bias."""
    rows, columns = layer.weight.shape
    # The rows of an orthogonal matrix have norm 1 where there are at most as many as columns, else sqrt(columns / rows).
    nn.init.orthogonal_(layer.weight, gain=(max(rows / columns, 1.0) / mean_square) ** 0.5)
    nn.init.zeros_(layer.bias)
    return layer


ADAPTERS: dict[str, type[Adapter]] = {adapter.kind: adapter for adapter in (ZeroPad, Linear, MLP)}
