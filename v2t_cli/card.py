"""The README.md of a checkpoint folder."""

from __future__ import annotations

from v2t_cli.info import CheckpointInfo


def model_card(info: CheckpointInfo) -> str:
    """Markdown that says what the checkpoint reads, how it was made, how good it is and how to use it."""
    encoder = info.encoder.name.rsplit("/", 1)[-1] if info.encoder else "vectors made elsewhere"
    decoder = info.decoder.model or "a GPT-2 from scratch"
    if decoder.startswith(("/", ".", "~")):  # a folder of the author's says nothing to the reader
        decoder = decoder.rsplit("/", 1)[-1]
    scores = "No texts were held out, so nothing was measured."
    if info.held_out:
        scores = (
            f"On {info.held_out.texts:,} held-out texts: {info.held_out.loss:.3f} nats a token "
            f"(perplexity {info.held_out.perplexity:.1f}). `v2t eval` gives the rest."
        )
    corrected = ""
    if info.correction:
        part = info.correction
        corrected = (
            f"It also learned to correct what it writes: from {part.hypotheses:,} wrong texts ({part.epochs:.2f} epochs, "
            f"{part.steps:,} steps, {part.minutes:.1f} minutes).\n"
            + (f"Those were made from: {part.source}.\n" if part.source not in (None, info.data.source) else "")
        )
    source = f"The texts: {info.data.source}.\n" if info.data.source else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [v2t, embedding-inversion]
---

# Text from vectors of {encoder}

Writes back the sentence that a sentence vector of {info.dim} numbers was made from. Decoder: {decoder};
adapter: {info.adapter.kind}, {info.adapter.tokens} prefix position(s).

    v2t embed texts.txt --checkpoint THIS_FOLDER -o vecs.npy
    v2t decode vecs.npy --checkpoint THIS_FOLDER

Trained on {info.data.texts - info.data.held_out:,} texts of {info.lengths.min_chars} to {info.lengths.max_chars} characters
({info.training.epochs:.2f} epochs, {info.training.steps:,} steps, {info.training.minutes:.1f} minutes). {scores}
{source}{corrected}What it was not trained on, longer texts and other languages or kinds of text, it reads worse.
"""
