"""Evaluation: how much of the sentences comes back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from v2t_cli.checkpoint import Checkpoint
from v2t_cli.console import Track, log, silent
from v2t_cli.decoding import Search, decode
from v2t_cli.encoder import Encoder, row_cosine
from v2t_cli.errors import RequestError
from v2t_cli.lm import tokenize
from v2t_cli.scoring import score


@dataclass
class Sample:
    source: str
    text: str
    cosine: float | None


@dataclass
class Evaluation:
    """Scores of a checkpoint on texts. Shares, F1 and cosine in 0 to 1, BLEU and chrF in 0 to 100, loss in nats a token."""

    n: int
    loss: float
    perplexity: float
    exact_match: float
    bleu: float
    chrf: float
    token_f1: float
    cosine: float | None
    quality: str
    strategy: str
    bleu_signature: str
    chrf_signature: str
    samples: list[Sample]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    checkpoint: Checkpoint,
    texts: list[str],
    vectors: np.ndarray,
    search: Search,
    encoder: Encoder | None,
    samples: int = 20,
    seed: int = 0,
    track: Track = silent,
) -> Evaluation:
    """Decode the vectors of the texts and compare. vectors: float32 (len(texts), dim).

    Without an encoder nothing is re-ranked and the cosine is None. Raises RequestError where there are no texts.
    """
    if not texts:
        raise RequestError("there are no texts to evaluate on")
    loss = token_loss(checkpoint, texts, vectors)
    best = []
    with track("decoding", len(texts)) as advance:
        for row in decode(checkpoint, [vectors], search, encoder, seed):
            best.append(row.best)
            advance(1)
    generated = [candidate.text for candidate in best]
    if encoder is None:
        cosines = None
    elif search.rerank:
        cosines = np.array([candidate.cosine for candidate in best])
    else:
        cosines = row_cosine(encoder.encode(generated), vectors)
    bleu, chrf = _corpus_scores(generated, texts)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:samples])
    return Evaluation(
        n=len(texts),
        loss=loss,
        perplexity=math.exp(min(loss, 700)),
        exact_match=float(np.mean([a == b for a, b in zip(generated, texts)])),
        bleu=bleu[0],
        chrf=chrf[0],
        token_f1=float(np.mean([token_f1(a, b) for a, b in zip(generated, texts)])),
        cosine=None if cosines is None else float(cosines.mean()),
        quality=search.quality,
        strategy=f"{search.strategy}, {search.beams} a vector" + (", re-ranked" if search.rerank and encoder else ""),
        bleu_signature=bleu[1],
        chrf_signature=chrf[1],
        samples=[Sample(texts[i], generated[i], None if cosines is None else float(cosines[i])) for i in chosen],
    )


def token_loss(checkpoint: Checkpoint, texts: list[str], vectors: np.ndarray) -> float:
    """Mean negative log-likelihood in nats per token, ends of text included, each token weighing the same."""
    inverter, tokenizer = checkpoint.inverter, checkpoint.tokenizer
    rows = tokenize(tokenizer, texts)
    limit = inverter.n_positions
    if limit is not None and (long := sum(len(row) > limit for row in rows)):
        log.warning(f"{long:,} texts are longer than the decoder's {limit} tokens; only their beginning is scored")
        rows = [row[:limit] for row in rows]
    logprobs = score(inverter, torch.from_numpy(vectors), rows, np.arange(len(rows)), tokenizer.pad_token_id)
    return float(-logprobs.sum() / sum(map(len, rows)))


def token_f1(generated: str, reference: str) -> float:
    """F1 of the two bags of tokens, as in vec2text (Morris et al. 2023); tokens are what white space separates."""
    ours, theirs = generated.split(), reference.split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def _corpus_scores(generated: Iterable[str], references: Iterable[str]) -> tuple[tuple[float, str], tuple[float, str]]:
    """((BLEU, signature), (chrF, signature)) of sacrebleu."""
    from sacrebleu.metrics import BLEU, CHRF

    out = []
    for metric in (BLEU(), CHRF()):
        score = metric.corpus_score(list(generated), [list(references)]).score
        out.append((score, str(metric.get_signature())))
    return out[0], out[1]
