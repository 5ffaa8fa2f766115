"""Average the weights of checkpoints. The mean often reads better than each of them:

    python examples/average.py OUT CHECKPOINT CHECKPOINT …

Train a checkpoint further, several times if you like, with other learning rates, batch sizes or data.augment, and average the results
with the checkpoint that they began from. One that is named twice counts twice. The mean is stored in float16. The losses that this
prints, on the texts that all of them held out, show whether it pays. The mean of trainings that do not come from one another, or from a
common one, writes nonsense.

Such means are known as model soups: Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch

from v2t_cli.core.config import Config
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.evaluation.evaluate import token_losses
from v2t_cli.models.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from v2t_cli.models.encoder import embed_all
from v2t_cli.models.metadata import HeldOutScores


def loss(checkpoint: Checkpoint, texts: list[str], vectors: np.ndarray) -> float:
    """Nats per token."""
    nats, tokens = token_losses(checkpoint, texts, vectors)
    return float(nats.sum() / tokens.sum())


def average(out: Path, names: list[str]) -> None:
    """Write the mean of the checkpoints into a new folder; its training is all of theirs. Raises RequestError."""
    if out.exists():
        raise RequestError(f"{out}: exists already; choose another folder")
    config = Config.model_validate({"decode": {"precision": "float32"}})
    # The first is opened twice: once for its own weights, once to take the mean.
    opened = {name: open_checkpoint(name, config, "cpu", use="none") for name in names}
    mean = open_checkpoint(names[0], config, "cpu", use="required")
    assert mean.encoder is not None  # it was required
    texts = mean.held_out()
    if not texts:
        raise RequestError(f"{names[0]}: has no held-out texts, which show whether the mean reads better")
    states = {name: checkpoint.inverter.state_dict() for name, checkpoint in opened.items()}
    shapes = {name: {key: part.shape for key, part in state.items()} for name, state in states.items()}
    for name, checkpoint in opened.items():
        if checkpoint.info.alignment:
            raise RequestError(f"{name}: is aligned to the vectors of another encoder; name the checkpoint it was made from")
        if shapes[name] != shapes[names[0]]:
            raise RequestError(f"{name}: its weights do not have the shapes of those of {names[0]}")
        if checkpoint.info.data.sha256 != mean.info.data.sha256 or checkpoint.held_out() != texts:
            raise RequestError(f"{name}: was not trained on the same texts as {names[0]}, or held out others")
    vectors = embed_all(mean.encoder, texts)
    for name, checkpoint in opened.items():
        print(f"{name}: {loss(checkpoint, texts, vectors):.4f} nats per token")
    mean.inverter.load_state_dict({key: torch.stack([states[name][key] for name in names]).mean(dim=0) for key in states[names[0]]})
    score = loss(mean, texts, vectors)
    scores = HeldOutScores(texts=len(texts), loss=score, perplexity=math.exp(min(score, 700)))
    runs = [checkpoint.info.training for checkpoint in opened.values()]
    sums = {key: sum(getattr(run, key) for run in runs) for key in ("steps", "epochs", "minutes")}
    longest = max(checkpoint.info.lengths.max_tokens for checkpoint in opened.values())
    lengths = mean.info.lengths.model_copy(update={"max_tokens": longest})
    info = mean.info.model_copy(update={"held_out": scores, "lengths": lengths, "training": runs[0].model_copy(update=sums)})
    save_checkpoint(out, mean.inverter, mean.tokenizer, info, texts, mean.lexicon, torch.float16)
    print(f"{out}, their mean: {score:.4f} nats per token")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        average(Path(sys.argv[1]), sys.argv[2:])
    except (V2TError, OSError) as error:
        sys.exit(f"error: {error}")
