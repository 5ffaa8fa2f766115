"""The baseline of copying: the training text with the nearest vector instead of a decoded one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import ALONE, Processes
from v2t_cli.core.similarity import unit_rows
from v2t_cli.evaluation.metrics import TextScores, score_texts
from v2t_cli.io.vectors import grid
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import CHUNK_TEXTS, embed_chunks


def nearest_texts(
    checkpoint: Checkpoint,
    train_texts: Iterable[str],
    texts: list[str],
    vectors: np.ndarray,
    track: Track = silent,
    processes: Processes = ALONE,
) -> TextScores:
    """Scores of the training texts whose vectors are nearest to those of the texts; their vectors are not kept in memory.

    vectors: float32 (len(texts), dim). The texts that the run held out are left out of the training texts, since each would
    find itself. Raises RequestError if there is no encoder, or no training text.
    """
    encoder = checkpoint.encoder
    if encoder is None:
        raise RequestError("train_texts: finding the nearest training text needs the encoder; name it with --encoder")
    held_out = set() if checkpoint.alignment else set(checkpoint.held_out())  # an alignment holds out texts that it knows all the same
    known = [text for text in train_texts if text not in held_out]
    if not known:
        raise RequestError("train_texts: no text besides those that the run held out")
    unit = unit_rows(vectors)
    cosines = np.full(len(texts), -np.inf, dtype=np.float32)
    found = [""] * len(texts)
    blocks = processes.split(grid(len(known), CHUNK_TEXTS))
    log.info(f"embedding {len(known):,} training texts to find the nearest ones")
    with track("nearest training texts", sum(map(len, blocks))) as advance:
        chunks = embed_chunks(encoder, (known[rows.start : rows.stop] for rows in blocks), processes, advance)
        for chunk, rows in zip(chunks, blocks):
            similarity = unit @ unit_rows(chunk).T  # (texts, chunk)
            place = similarity.argmax(axis=1)
            value = similarity[np.arange(len(texts)), place]
            for i in np.flatnonzero(value > cosines):
                cosines[i], found[i] = value[i], known[rows.start + place[i]]
    best = [max(of_text, key=lambda it: it[0]) for of_text in zip(*processes.gather([list(zip(cosines.tolist(), found))]))]
    return score_texts([text for _, text in best], texts, np.array([cosine for cosine, _ in best]))
