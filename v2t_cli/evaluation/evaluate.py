"""Evaluation: how much of a set of texts comes back from their vectors."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.core.similarity import row_cosine
from v2t_cli.decoding.candidates import Row, SureWord
from v2t_cli.decoding.decode import decode, to_scale
from v2t_cli.decoding.search import FittedSearch
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.evaluation.metrics import Interval, Recall, TextScores, comparable, ratio_interval, score_texts
from v2t_cli.io.vectors import Block, grid
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import embed_all
from v2t_cli.models.inverter import log_likelihood
from v2t_cli.models.language_model import tokenize
from v2t_cli.models.lexicon import WORD, Lexicon

# Upper ends of the length classes: in the decoder's tokens without the end-of-text, and in words.
TOKENS, WORDS = (4, 8, 12), (3, 5, 7)
# Lower ends of the confidence bands.
BANDS = (0.999, 0.95, 0.9, 0.8, 0.6)
# Lower ends of the bands of the words' probabilities.
SURE_BANDS = (0.95, 0.8, 0.6, 0.4)


@dataclass
class Sample:
    """A text, what was decoded from its vector, the cosine of the two vectors, and how sure each word is, where that is known."""

    source: str
    text: str
    cosine: float | None
    words: list[SureWord] | None = None

    @property
    def exact(self) -> bool:
        """Blanks at the ends do not count."""
        return comparable(self.text) == comparable(self.source)


@dataclass
class LengthClass:
    """Scores of the texts that are this long, such as "5-8"."""

    length: str
    n: int
    exact_match: float
    bleu: float
    chrf: float
    cosine: float | None


@dataclass
class Band:
    """How many texts have a cosine in this band, such as "0.95-0.999", and the fraction of them that is exact."""

    cosine: str
    n: int
    exact_match: float | None


@dataclass
class SureBand:
    """How many words have a probability in this band, such as "0.8-0.9", and the fraction of them that stand in the true text."""

    probability: str
    n: int
    right: float | None


@dataclass
class Evaluation:
    """Scores of a checkpoint on texts; the loss in nats per token."""

    loss: float
    perplexity: float
    loss_interval: Interval
    scores: TextScores
    entities: list[Recall]  # names, numbers, dates ... that came back; no names without a lexicon
    quality: str
    strategy: str
    milliseconds: float  # of decoding, per vector
    encoder_calls: float  # re-embedded texts, per vector
    by_length: list[LengthClass]  # in tokens
    by_words: list[LengthClass]
    cut_texts: int  # longer than the encoder reads; 0 without an encoder
    unknown_words: float | None  # fraction of the words in texts that are not exact; None without such texts, or a lexicon
    confidence: list[Band]  # empty without an encoder
    word_confidence: list[SureBand]  # empty without edits
    samples: list[Sample]
    pairs: list[Sample]  # all of them; not in as_dict
    nearest: TextScores | None = None  # of the nearest training text instead of a decoded one

    def as_dict(self) -> dict[str, Any]:
        """The object that `v2t eval --json` prints, with the scores at its top level."""
        out = asdict(replace(self, pairs=[]))
        del out["pairs"]
        for sample in out["samples"]:
            del sample["words"]
        scores = out.pop("scores")
        scores["intervals"] |= {"loss": out.pop("loss_interval")}
        for key, unit in (("by_length", "tokens"), ("by_words", "words")):
            out[key] = [{unit: row.pop("length"), **row} for row in out[key]]
        return {"n": scores.pop("n"), "loss": out.pop("loss"), "perplexity": out.pop("perplexity"), **scores, **out}


def evaluate(
    checkpoint: Checkpoint,
    texts: list[str],
    vectors: np.ndarray,
    search: FittedSearch,
    samples: int = 20,
    seed: int = 0,
    track: Track = silent,
    processes: Processes = ALONE,
) -> Evaluation:
    """Decode the vectors of the texts and compare. vectors: float32 (len(texts), dim). Several processes divide the texts.

    Without an encoder nothing is re-ranked and there is no cosine. Raises RequestError if there are no texts.
    """
    if not texts:
        raise RequestError("no texts to evaluate")
    vectors = to_scale(checkpoint, vectors)
    # The same everywhere: GPUs with unequal memory would cut unequal blocks.
    size = processes.by_main(lambda: search.batch_size)
    search = search.model_copy(update={"batch_size": size})
    losses, lengths = _divided_losses(checkpoint, texts, vectors, size, processes)
    rows, milliseconds = _timed_rows(checkpoint, vectors, search, seed, track, processes)
    generated = [row.best.text for row in rows]
    cosines = _cosines(checkpoint, rows, vectors, processes)
    of_rows = [None] * len(texts) if cosines is None else cosines.tolist()
    pairs = [Sample(text, row.best.text, cosine, row.words) for text, row, cosine in zip(texts, rows, of_rows)]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:samples])
    loss = float(losses.sum() / lengths.sum())
    return Evaluation(
        loss=loss,
        perplexity=math.exp(min(loss, 700)),
        loss_interval=ratio_interval(losses, lengths),
        scores=score_texts(generated, texts, cosines),
        entities=EntityFinder(checkpoint.lexicon).recalls(texts, generated),
        quality=search.quality,
        strategy=strategy_of(search),
        milliseconds=milliseconds,
        encoder_calls=float(np.mean([row.encoder_calls for row in rows])),
        by_length=_by_length(lengths - 1, TOKENS, generated, texts, cosines),
        by_words=_by_length(np.array([len(WORD.findall(text)) for text in texts]), WORDS, generated, texts, cosines),
        cut_texts=checkpoint.encoder.count_truncated(texts) if checkpoint.encoder else 0,
        unknown_words=_unknown_words(checkpoint.lexicon, generated, texts),
        confidence=[] if cosines is None else _confidence(cosines, pairs),
        word_confidence=_word_confidence(pairs),
        samples=[pairs[i] for i in chosen],
        pairs=pairs,
    )


def strategy_of(search: FittedSearch) -> str:
    """The search in words."""
    judged = "" if not search.rerank else ", re-ranked and corrected" if search.corrects else ", re-ranked"
    return f"{search.strategy}, {search.beams} per vector{judged}"


def _divided_losses(
    checkpoint: Checkpoint, texts: list[str], vectors: np.ndarray, size: int, processes: Processes
) -> tuple[np.ndarray, np.ndarray]:
    """Like `token_losses`, in blocks of `size` texts that the processes divide."""
    blocks = processes.split(grid(len(texts), size))
    mine = slice(blocks[0].start, blocks[-1].stop) if blocks else slice(0)
    losses, lengths = token_losses(checkpoint, texts[mine], vectors[mine])
    return np.array(processes.gather(losses.tolist())), np.array(processes.gather(lengths.tolist()))


def token_losses(checkpoint: Checkpoint, texts: list[str], vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of each text in nats, float64, and its tokens with the end-of-text: (rows,), (rows,)."""
    inverter, tokenizer = checkpoint.inverter, checkpoint.tokenizer
    rows = tokenize(tokenizer, texts)
    limit = inverter.n_positions
    if limit is not None and (long := sum(len(row) > limit for row in rows)):
        log.warning(f"{long:,} texts are longer than the decoder's {limit} tokens; only their beginning is scored")
        rows = [row[:limit] for row in rows]
    logprobs = log_likelihood(inverter, torch.from_numpy(vectors), rows, np.arange(len(rows)), tokenizer.pad_token_id)
    return -logprobs, np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))


def _timed_rows(
    checkpoint: Checkpoint, vectors: np.ndarray, search: FittedSearch, seed: int, track: Track, processes: Processes
) -> tuple[list[Row], float]:
    """The decoded rows of all processes, and the milliseconds per vector."""
    blocks = processes.split(grid(len(vectors), search.batch_size))
    rows = []
    start = time.perf_counter()
    with track("decoding", sum(map(len, blocks))) as advance:
        for row in decode(
            checkpoint, (Block(it.start, vectors[it.start : it.stop]) for it in blocks), search, seed, processes, advance=advance
        ):
            rows.append(row)
    rows = processes.gather(rows)
    return rows, 1000 * (time.perf_counter() - start) / len(vectors)


def _cosines(checkpoint: Checkpoint, rows: list[Row], vectors: np.ndarray, processes: Processes) -> np.ndarray | None:
    """Of each decoded text with the given vector: (rows,); None without an encoder."""
    if checkpoint.encoder is None:
        return None
    known = [row.best.cosine for row in rows]
    if None not in known:
        return np.array(known)
    return row_cosine(embed_all(checkpoint.encoder, [row.best.text for row in rows], processes), vectors)


def _by_length(
    lengths: np.ndarray, ends: tuple[int, ...], generated: list[str], texts: list[str], cosines: np.ndarray | None
) -> list[LengthClass]:
    """Scores by class of length. ends: the longest of each class but the last."""
    classes, out = np.searchsorted(ends, lengths), []
    for i in np.unique(classes):
        rows = np.flatnonzero(classes == i)
        part = score_texts([generated[i] for i in rows], [texts[i] for i in rows], None if cosines is None else cosines[rows], resamples=0)
        name = f"{(0, *ends)[i] + 1}" + (f"-{ends[i]}" if i < len(ends) else "+")
        out.append(LengthClass(name, part.n, part.exact_match, part.bleu, part.chrf, part.cosine))
    return out


def _unknown_words(lexicon: Lexicon, generated: list[str], texts: list[str]) -> float | None:
    """Of the words in texts that are not exact, the fraction that the lexicon lacks: many of them do not exist."""
    wrong = [ours for ours, theirs in zip(generated, texts) if comparable(ours) != comparable(theirs)]
    words = sum(len(WORD.findall(text)) for text in wrong)
    return sum(len(lexicon.unknown(text)) for text in wrong) / words if words and len(lexicon) else None


def _confidence(cosines: np.ndarray, pairs: list[Sample]) -> list[Band]:
    exact = np.array([pair.exact for pair in pairs])
    return [Band(*band) for band in _bands(BANDS, cosines, exact)]


def _word_confidence(pairs: list[Sample]) -> list[SureBand]:
    """Whether the words stand in the true text as often as they should; upper and lower case are the same."""
    found = []
    for pair in pairs:
        true = set(WORD.findall(pair.source.lower()))
        found += [(probability, word.lower() in true) for word, probability in pair.words or []]
    if not found:
        return []
    probabilities, right = map(np.array, zip(*found))
    return [SureBand(*band) for band in _bands(SURE_BANDS, probabilities, right)]


def _bands(ends: tuple[float, ...], values: np.ndarray, hits: np.ndarray) -> list[tuple[str, int, float | None]]:
    """For each band of the values, its name, how many are in it, and the fraction of hits. ends: the lower ones, descending."""
    out = []
    for low, high in zip((*ends, -np.inf), (np.inf, *ends)):
        rows = (values >= low) & (values < high)
        name = f">= {low}" if high == np.inf else f"< {high}" if low == -np.inf else f"{low}-{high}"
        out.append((name, int(rows.sum()), float(hits[rows].mean()) if rows.any() else None))
    return out
