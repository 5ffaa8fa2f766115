"""Log-probability of given texts, in batches whose logits fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from v2t_cli.model import Inverter
from v2t_cli.tokens import pad

# Logits of a batch, as numbers; cross-entropy holds about three times as much for a moment.
MAX_LOGITS = 2**25


def score(inverter: Inverter, vectors: Tensor, rows: list[list[int]], owners: np.ndarray, pad_id: int) -> np.ndarray:
    """Log-probability of each token row given its vector, in nats, summed over the row: float64 (len(rows),).

    vectors: (n, dim) float32; owners: for each row the vector it belongs to.
    """
    out = np.empty(len(rows))
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    with torch.inference_mode():
        for batch in logit_batches(inverter, lengths):
            ids, times = pad([rows[i] for i in batch], pad_id, inverter.device)
            target = vectors[torch.from_numpy(owners[batch]).to(vectors.device)].to(inverter.device)
            out[batch] = -inverter(target, ids, times).double().cpu().numpy()
    return out


def logit_batches(inverter: Inverter, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Positions by length, in batches whose logits are at most MAX_LOGITS numbers, padding included; a longer text goes alone."""
    tokens = MAX_LOGITS // inverter.lm.get_input_embeddings().num_embeddings
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= tokens:
            stop += 1
        yield order[start:stop]
        start = stop
