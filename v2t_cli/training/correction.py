"""Hypotheses for training the correction: what the inverter makes of vectors, with the vectors of what it made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.console import Track, log
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line, to_line
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import resolve_search
from v2t_cli.io.atomic import replacing
from v2t_cli.io.vectors import Block, grid, write_vectors
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import Encoder, embed
from v2t_cli.models.language_model import tokenize_corpus
from v2t_cli.training.batches import Examples
from v2t_cli.training.dataset import Split

CHUNK = 4096  # vectors that are decoded between two reports of progress


def make_hypotheses(
    path: Path, checkpoint: Checkpoint, encoder: Encoder, split: Split, vectors: np.ndarray, count: int, track: Track
) -> None:
    """Write the wrong ones of the `count` likeliest texts that the checkpoint makes of the vector of each text of the split.

    To path.jsonl, a line [position in the split, text] for each, and to path.npy, the vectors of these texts. Of several
    processes one does it, while the others wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.with_suffix(".npy").exists():  # which is written last
            return
        log.info(f"making {count} {'hypotheses' if count > 1 else 'hypothesis'} for each of {len(split):,} texts")
        search = replace(resolve_search(DecodeConfig(quality="fast", candidates=count)), max_new_tokens=checkpoint.info.lengths.max_tokens)
        order = np.argsort(split.lengths, kind="stable")  # texts of one length end together
        rows = split.rows[order]
        blocks = (Block(part.start, np.asarray(vectors[rows[part.start : part.stop]], dtype=np.float32)) for part in grid(len(rows), CHUNK))
        wrong = []
        with track("making hypotheses", len(split)) as advance:
            for i, row in zip(order.tolist(), decode(checkpoint, blocks, search)):
                right = to_line(split.texts[i]).strip()
                wrong += [(i, candidate.text) for candidate in row.candidates if candidate.text and candidate.text != right]
                advance(1)
        with replacing(path.with_suffix(".jsonl")) as stream:
            stream.writelines((json.dumps(it, ensure_ascii=False) + "\n").encode() for it in wrong)
        output = str(path.with_suffix(".npy"))
        with track("embedding hypotheses", len(wrong)) as advance, write_vectors(output, vectors.shape[1]) as writer:
            for chunk in embed(encoder, (text for _, text in wrong)):
                writer.write(chunk)
                advance(len(chunk))


def read_hypotheses(path: Path, split: Split, vectors: np.ndarray, tokenizer: Any, limit: int | None) -> Examples:
    """The texts of the split, each once for every hypothesis that was made for it, but those that do not fit.

    limit: tokens of both together that the decoder has room for; None for no limit. Raises RequestError where the files
    are damaged.
    """
    try:
        lines = list(_lines(path.with_suffix(".jsonl")))
        of_hypotheses = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path.parent}: damaged, the run cannot go on from it: {one_line(error)}") from None
    owners = np.array([i for i, _ in lines], dtype=np.int64)
    ids = tokenize_corpus(tokenizer, [text for _, text in lines])
    both = ids.lengths + split.lengths[owners]
    fits = np.arange(len(ids)) if limit is None else np.flatnonzero(both <= limit)
    if len(fits) < len(ids):
        log.warning(
            f"{len(ids) - len(fits):,} hypotheses dropped: more than the {limit} tokens the decoder has room for, text and hypothesis"
        )
    return Examples(split.keep(owners[fits]), vectors, ids.keep(fits), of_hypotheses[fits])


def _lines(path: Path) -> Iterator[list[Any]]:
    with open(path, encoding="utf-8", newline="\n") as stream:
        yield from map(json.loads, stream)
