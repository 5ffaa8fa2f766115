"""Evaluation: how much of the sentences comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.decoding.decode import decode, fit
from v2t_cli.decoding.search import Search
from v2t_cli.evaluation.metrics import Interval, TextScores, ratio_interval, score_texts
from v2t_cli.io.vectors import Block, grid
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import CHUNK_TEXTS, Encoder, embed_all, embed_chunks, row_cosine, unit_rows
from v2t_cli.models.inverter import score
from v2t_cli.models.language_model import tokenize

# Upper ends of the length classes, in the decoder's tokens without the end of the text.
LENGTHS = (4, 8, 12)


# Lower ends of the confidence bands.
BANDS = (0.999, 0.95, 0.9, 0.8, 0.6)


@dataclass
class Sample:
    source: str
    text: str
    cosine: float | None


@dataclass
class LengthClass:
    """Scores of the texts of `tokens` tokens, such as "5-8"."""

    tokens: str
    n: int
    exact_match: float
    bleu: float
    chrf: float
    cosine: float | None


@dataclass
class Band:
    """Share of exact texts among those whose re-embedded cosine lies in `cosine`, such as "0.95-0.999"."""

    cosine: str
    n: int
    exact_match: float | None


@dataclass
class Evaluation:
    """Scores of a checkpoint on texts; loss in nats a token."""

    loss: float
    perplexity: float
    loss_interval: Interval
    scores: TextScores
    quality: str
    strategy: str
    milliseconds: float  # of decoding, a vector
    encoder_calls: float  # texts that were re-embedded, a vector
    by_length: list[LengthClass]
    confidence: list[Band]
    nearest: TextScores | None  # the nearest training text instead of a generated one
    samples: list[Sample]
    pairs: list[Sample]  # all of them; not in as_dict

    def as_dict(self) -> dict[str, Any]:
        """The object of `v2t eval --json`: the scores at its top level."""
        out = asdict(replace(self, pairs=[]))
        del out["pairs"]
        scores = out.pop("scores")
        scores["intervals"] |= {"loss": out.pop("loss_interval")}
        return {"n": scores.pop("n"), "loss": out.pop("loss"), "perplexity": out.pop("perplexity"), **scores, **out}


def evaluate(
    checkpoint: Checkpoint,
    texts: list[str],
    vectors: np.ndarray,
    search: Search,
    encoder: Encoder | None,
    samples: int = 20,
    seed: int = 0,
    train_texts: Iterable[str] | None = None,
    track: Track = silent,
    processes: Processes = ALONE,
) -> Evaluation:
    """Decode the vectors of the texts and compare. vectors: float32 (len(texts), dim). Several processes share the texts.

    train_texts: the file it was trained on, for the nearest-neighbour baseline; needs the encoder. The texts that the run
    held out are left out of it: each would find itself.
    Without an encoder nothing is re-ranked and there is no cosine. Raises RequestError where there are no texts.
    """
    if not texts:
        raise RequestError("there are no texts to evaluate on")
    if train_texts is not None and encoder is None:
        raise RequestError("the nearest training text is found with the encoder; name it with --encoder")
    known = None
    if train_texts is not None:
        held_out = set(checkpoint.held_out())
        known = [text for text in train_texts if text not in held_out]
        if not known:
            raise RequestError("--train-texts: no texts but those that the run held out")
    search = fit(checkpoint, search)
    # The same everywhere: GPUs with unequal room would cut unequal blocks.
    search = replace(search, batch_size=processes.by_main(lambda: search.rows))
    blocks = processes.share(grid(len(texts), search.rows))
    mine = slice(blocks[0].start, blocks[-1].stop) if blocks else slice(0)
    losses, lengths = (np.array(processes.gather(part.tolist())) for part in token_losses(checkpoint, texts[mine], vectors[mine]))
    rows = []
    start = time.perf_counter()
    with track("decoding", mine.stop - (mine.start or 0)) as advance:
        parts = (Block(part.start, vectors[part.start : part.stop]) for part in blocks)
        for row in decode(checkpoint, parts, search, encoder, seed, processes):
            rows.append(row)
            advance(1)
    rows = processes.gather(rows)
    milliseconds = 1000 * (time.perf_counter() - start) / len(texts)
    generated = [row.best.text for row in rows]
    if encoder is None:
        cosines = None
    elif search.rerank:
        cosines = np.array([row.best.cosine for row in rows])
    else:
        cosines = row_cosine(embed_all(encoder, generated, processes), vectors)
    loss = float(losses.sum() / lengths.sum())
    pairs = [Sample(*pair) for pair in zip(texts, generated, [None] * len(texts) if cosines is None else cosines.tolist())]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:samples])
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700)),
        loss_interval=ratio_interval(losses, lengths),
        scores=score_texts(generated, texts, cosines),
        quality=search.quality,
        strategy=f"{search.strategy}, {search.beams} a vector" + (_judged(search, checkpoint) if encoder else ""),
        milliseconds=milliseconds,
        encoder_calls=float(np.mean([row.encoder_calls for row in rows])),
        by_length=_by_length(lengths - 1, generated, texts, cosines),
        confidence=[] if cosines is None else _confidence(cosines, generated, texts),
        nearest=None if known is None or encoder is None else nearest_texts(encoder, known, texts, vectors, track, processes),
        samples=[pairs[i] for i in chosen],
        pairs=pairs,
    )


def _judged(search: Search, checkpoint: Checkpoint) -> str:
    corrects = search.rounds and (search.edits or (search.rewrites and checkpoint.inverter.difference is not None))
    return "" if not search.rerank else ", re-ranked and corrected" if corrects else ", re-ranked"


def token_losses(checkpoint: Checkpoint, texts: list[str], vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of each text in nats, float64, and its tokens, the end included: (rows,), (rows,)."""
    inverter, tokenizer = checkpoint.inverter, checkpoint.tokenizer
    rows = tokenize(tokenizer, texts)
    limit = inverter.n_positions
    if limit is not None and (long := sum(len(row) > limit for row in rows)):
        log.warning(f"{long:,} texts are longer than the decoder's {limit} tokens; only their beginning is scored")
        rows = [row[:limit] for row in rows]
    logprobs = score(inverter, torch.from_numpy(vectors), rows, np.arange(len(rows)), tokenizer.pad_token_id)
    return -logprobs, np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))


def nearest_texts(
    encoder: Encoder, train_texts: list[str], texts: list[str], vectors: np.ndarray, track: Track = silent, processes: Processes = ALONE
) -> TextScores:
    """Scores of copying: the training text with the nearest vector stands for each text. No vector of theirs is kept."""
    unit = unit_rows(vectors)
    cosines = np.full(len(texts), -np.inf, dtype=np.float32)
    found = [""] * len(texts)
    blocks = processes.share(grid(len(train_texts), CHUNK_TEXTS))
    chunks = embed_chunks(encoder, (train_texts[rows.start : rows.stop] for rows in blocks), processes)
    log.info(f"embedding the {len(train_texts):,} training texts, to find the nearest ones")
    with track("nearest training texts", sum(map(len, blocks))) as advance:
        for chunk, rows in zip(chunks, blocks):
            similarity = unit @ unit_rows(chunk).T  # (texts, chunk)
            place = similarity.argmax(axis=1)
            value = similarity[np.arange(len(texts)), place]
            for i in np.flatnonzero(value > cosines):
                cosines[i], found[i] = value[i], train_texts[rows.start + place[i]]
            advance(len(chunk))
    best = [max(of_text, key=lambda it: it[0]) for of_text in zip(*processes.gather([list(zip(cosines.tolist(), found))]))]
    return score_texts([text for _, text in best], texts, np.array([cosine for cosine, _ in best]))


def _by_length(lengths: np.ndarray, generated: list[str], texts: list[str], cosines: np.ndarray | None) -> list[LengthClass]:
    out = []
    for low, high in zip((0, *LENGTHS), (*LENGTHS, np.inf)):
        rows = np.flatnonzero((lengths > low) & (lengths <= high)) if low else np.flatnonzero(lengths <= high)
        if not len(rows):
            continue
        part = score_texts([generated[i] for i in rows], [texts[i] for i in rows], None if cosines is None else cosines[rows], resamples=0)
        name = f"{low + 1}+" if high == np.inf else f"{low + 1}-{high}"
        out.append(LengthClass(name, part.n, part.exact_match, part.bleu, part.chrf, part.cosine))
    return out


def _confidence(cosines: np.ndarray, generated: list[str], texts: list[str]) -> list[Band]:
    exact = np.array([ours == theirs for ours, theirs in zip(generated, texts)])
    out = []
    for low, high in zip((*BANDS, -np.inf), (np.inf, *BANDS)):
        rows = (cosines >= low) & (cosines < high)
        name = f">= {low}" if high == np.inf else f"< {high}" if low == -np.inf else f"{low}-{high}"
        out.append(Band(name, int(rows.sum()), float(exact[rows].mean()) if rows.any() else None))
    return out
