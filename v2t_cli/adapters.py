"""Adapters: from a sentence vector to the prefix positions that the decoder reads before its first token.

To add one, subclass Adapter, implement `prefix`, and name it in ADAPTERS and in AdapterConfig.kind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from v2t_cli.errors import RequestError


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
        """Take mean and deviation of the training vectors; a dimension that never varies is left unscaled."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > 1e-8, scale, torch.ones_like(scale)))

    def match_scale(self, embedding_std: float) -> None:
        """Scale the output of the untrained adapter to the decoder's token embeddings."""

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
        super().__init__(dim, hidden, tokens)

    def prefix(self, vectors: Tensor) -> Tensor:
        return nn.functional.pad(vectors, (0, self.hidden - self.dim))


class Linear(Adapter):
    """One learned linear map of the standardised vector to all prefix positions."""

    kind = "linear"

    def __init__(self, dim: int, hidden: int, tokens: int):
        super().__init__(dim, hidden, tokens)
        self.map = nn.Linear(dim, tokens * hidden)

    def match_scale(self, embedding_std: float) -> None:
        # The standardised input has unit variance, so this weight gives the output the deviation of a token embedding.
        nn.init.normal_(self.map.weight, std=embedding_std / self.dim**0.5)
        nn.init.zeros_(self.map.bias)

    def prefix(self, vectors: Tensor) -> Tensor:
        return self.map(self.standardise(vectors))


class MLP(Adapter):
    """Two layers with a GELU between, the inner one as wide as the wider of the vector and one prefix position."""

    kind = "mlp"

    def __init__(self, dim: int, hidden: int, tokens: int):
        super().__init__(dim, hidden, tokens)
        inner = max(dim, hidden)
        self.map = nn.Sequential(nn.Linear(dim, inner), nn.GELU(), nn.Linear(inner, tokens * hidden))

    def match_scale(self, embedding_std: float) -> None:
        first, _, last = self.map
        nn.init.normal_(first.weight, std=self.dim**-0.5)
        nn.init.zeros_(first.bias)
        # GELU of a unit normal has a mean square of 0.425.
        nn.init.normal_(last.weight, std=embedding_std / (0.425 * first.out_features) ** 0.5)
        nn.init.zeros_(last.bias)

    def prefix(self, vectors: Tensor) -> Tensor:
        return self.map(self.standardise(vectors))


ADAPTERS: dict[str, type[Adapter]] = {adapter.kind: adapter for adapter in (ZeroPad, Linear, MLP)}
