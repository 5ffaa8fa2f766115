"""The inverter: an adapter in front of a causal language model."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from v2t_cli.adapters import Adapter


class Inverter(nn.Module):
    """Reads a sentence vector as prefix positions and writes the sentence.

    The sequence is prefix, text tokens, end-of-text. Nothing is predicted from the prefix but its last position;
    padding is on the right, where causal attention never looks back at it.
    """

    def __init__(self, lm: nn.Module, adapter: Adapter):
        super().__init__()
        self.lm = lm
        self.adapter = adapter
        self._keeps_logits = "logits_to_keep" in inspect.signature(lm.forward).parameters

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def n_positions(self) -> int | None:
        """Text tokens (the end included) that the decoder has room for behind the prefix; None for no limit."""
        limit = getattr(self.lm.config, "max_position_embeddings", None)
        return None if limit is None else limit - self.adapter.tokens

    def prefix(self, vectors: Tensor) -> Tensor:
        """(batch, dim) float32 -> (batch, tokens, hidden) in the decoder's dtype."""
        return self.adapter(vectors.float()).to(self.lm.get_input_embeddings().weight.dtype)

    def logits(self, vectors: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits of each of `ids`, given the vector and the tokens before it.

        vectors: (batch, dim); ids: (batch, time) int64, right-padded, end-of-text included; lengths: (batch,) int64.
        Returns float32 (batch, time, vocabulary).
        """
        time = ids.shape[1]
        tokens = self.lm.get_input_embeddings()(ids[:, :-1])  # looked up here, so that gradients reach the embeddings
        embeds = torch.cat([self.prefix(vectors).to(tokens.dtype), tokens], dim=1)  # (batch, K + time - 1, hidden)
        positions = torch.arange(embeds.shape[1], device=embeds.device)
        mask = (positions < (lengths + self.adapter.tokens - 1)[:, None]).long()
        keep = {"logits_to_keep": time} if self._keeps_logits else {}
        logits = self.lm(inputs_embeds=embeds, attention_mask=mask, use_cache=False, **keep).logits
        return logits[:, -time:].float()

    def forward(self, vectors: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """Negative log-likelihood of each text, in nats, summed over its tokens and the end: float32 (batch,)."""
        logits = self.logits(vectors, ids, lengths)
        padding = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        labels = ids.masked_fill(padding, -100)
        # Flat: a softmax over a dimension that is not the last one is three times slower on a CPU.
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        return losses.view(labels.shape).sum(dim=1)

    @torch.inference_mode()
    def generate(self, vectors: Tensor, **arguments) -> Tensor:
        """`generate` of transformers, started from the prefix alone: new token ids (batch * sequences, time)."""
        prefix = self.prefix(vectors)
        mask = torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device)
        return self.lm.generate(inputs_embeds=prefix, attention_mask=mask, **arguments)


def pad(rows: list[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token rows -> (ids (batch, time), lengths (batch,)), int64, padded on the right."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row)
    return ids.to(device), lengths.to(device)
