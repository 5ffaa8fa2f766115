"""Aligning: from few texts with vectors of an encoder that cannot be had to a checkpoint that decodes such vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from transformers import AutoConfig

from v2t_cli.core.config import Config
from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import are_several
from v2t_cli.models.alignment import fit_alignment, left_out
from v2t_cli.models.checkpoint import open_checkpoint, save_checkpoint
from v2t_cli.models.metadata import AlignmentInfo, is_checkpoint, read_info
from v2t_cli.models.vector_cache import cached_vectors
from v2t_cli.training.dataset import corpus_vectors, read_corpus
from v2t_cli.training.history import History
from v2t_cli.training.state import drop_state, saving


def align(config: Config, track: Track = silent) -> None:
    """Write the checkpoint decoder.model to config.output, with a map from data.vectors to the vectors it was trained on.

    All texts count. Up to 200 of them, mapped by fits that left them out, become the held-out texts of the checkpoint.
    Raises RequestError if something does not fit together.
    """
    folder, output = Path(config.decoder.model), Path(config.output)
    if config.data.vectors is None:
        raise RequestError("adapter.align needs data.vectors, the vectors of data.texts by the encoder that you do not have")
    if config.decoder.scratch is not None or not is_checkpoint(folder):
        raise RequestError("adapter.align needs decoder.model, a checkpoint of v2t whose texts the vectors shall become")
    if read_info(folder).alignment:
        raise RequestError(f"{folder}: is aligned already; name the checkpoint that it was made from")
    if are_several():
        raise RequestError("adapter.align takes seconds; start a single process")
    corpus = read_corpus(config.data.model_copy(update={"held_out": 0.0}), config.seed)
    whole = config.decode.model_copy(update={"precision": "float32"})  # the decoder is saved again, and must not be rounded
    opened = open_checkpoint(folder, config.model_copy(update={"decode": whole}), config.device, use="required")
    assert opened.encoder is not None  # it was required
    foreign = np.array(corpus_vectors(config.data, corpus, None)[corpus.train.rows], dtype=np.float32)
    own = np.load(cached_vectors(corpus.train.texts, opened.encoder, config.data.cache, track=track))
    fitted = fit_alignment(foreign, own)
    rows, fitted.alignment.held_out = left_out(foreign, own)
    held_out = [corpus.train.texts[i] for i in rows]
    dim, kind = fitted.alignment.dim, fitted.kind
    alignment = AlignmentInfo(dim=dim, kind=kind, pairs=len(own), cosine=round(fitted.cosine, 4), held_out=len(rows))
    log.info(f"aligned with {len(own):,} pairs by {fitted.kind}: other vectors reach cosine {fitted.cosine:.3f} with the encoder's own")
    info = opened.info.model_copy(update={"alignment": alignment})
    stored = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=config.decoder.trust_remote_code).dtype
    with saving(output):
        drop_state(output)  # of a training that this replaces: it must not be resumed
        History(output).drop()
        save_checkpoint(output, opened.inverter, opened.tokenizer, info, held_out, opened.lexicon, stored, alignment=fitted.alignment)
