"""Decoding, greedy and re-ranked, beside plain loops over transformers."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from tests.benchmarks.common import Settings, in_turn, ratios, show, spread
from v2t_cli.core.config import DecodeConfig
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import Checkpoint, load_checkpoint

BATCHES = (256, 1024)  # of what stands beside v2t: the quicker of them
BEAMS = 8
MAX_NEW_TOKENS = 61  # with the prefix and the end, what the shipped checkpoints have positions for


def original_loop(checkpoint: Checkpoint, vectors: np.ndarray) -> list[str]:
    """One vector at a time; for each token everything is computed again."""
    lm, tokenizer, look_up = checkpoint.inverter.lm, checkpoint.tokenizer, checkpoint.inverter.lm.get_input_embeddings()
    texts = []
    for vector in torch.from_numpy(vectors).to(lm.device):
        with torch.no_grad():
            embeds = checkpoint.inverter.adapter(vector[None]).to(look_up.weight.dtype)
            ids: list[int] = []
            while len(ids) < MAX_NEW_TOKENS:
                token = lm(inputs_embeds=embeds, use_cache=False).logits[0, -1].argmax()
                if token == tokenizer.eos_token_id:
                    break
                ids.append(int(token))
                embeds = torch.cat([embeds, look_up(token)[None, None]], dim=1)
        texts.append(tokenizer.decode(ids))
    return texts


def plain_generate(checkpoint: Checkpoint, vectors: np.ndarray, batch: int, beams: int = 1) -> list[str]:
    """transformers' generate in batches, in the order of the file: `beams` texts a vector."""
    lm, tokenizer = checkpoint.inverter.lm, checkpoint.tokenizer
    texts = []
    for start in range(0, len(vectors), batch):
        with torch.no_grad():
            prefix = checkpoint.inverter.adapter(torch.from_numpy(vectors[start : start + batch]).to(lm.device))
            prefix = prefix.to(lm.get_input_embeddings().weight.dtype)
            mask = torch.ones(prefix.shape[:2], dtype=torch.long, device=lm.device)
            ids = lm.generate(
                inputs_embeds=prefix,
                attention_mask=mask,
                do_sample=False,
                num_beams=beams,
                num_return_sequences=beams,
                max_new_tokens=MAX_NEW_TOKENS,
            )
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def plain_rerank(checkpoint: Checkpoint, vectors: np.ndarray, encode: Callable[[list[str]], np.ndarray]) -> list[str]:
    """Plain beams, and of each vector's texts the one that comes nearest, re-embedded batch by batch."""
    best = []
    for start in range(0, len(vectors), BATCHES[0]):
        batch = vectors[start : start + BATCHES[0]]
        texts = plain_generate(checkpoint, batch, len(batch), BEAMS)
        embedded = encode(texts).reshape(len(batch), BEAMS, -1)
        chosen = np.einsum("bkd,bd->bk", embedded, batch).argmax(axis=1)
        best += [texts[BEAMS * i + k] for i, k in enumerate(chosen)]
    return best


def sample(vectors: np.ndarray, count: int) -> np.ndarray:
    """About `count` of the vectors, from everywhere in the file."""
    return vectors[:: max(1, len(vectors) // count)]


def v2t_decode(checkpoint: Checkpoint, vectors: np.ndarray) -> list[str]:
    """What `v2t decode --strategy greedy` does without re-ranking, or, with an encoder, BEAMS beams re-ranked."""
    config = {"feedback": 0, "rounds": 0} if checkpoint.encoder else {"strategy": "greedy"}
    search = fit(checkpoint, resolve_search(DecodeConfig(max_new_tokens=MAX_NEW_TOKENS, **config)))
    return [row.best.text for row in decode(checkpoint, [Block(0, vectors)], search)]


def opened_plainly(checkpoint: Checkpoint) -> Checkpoint:
    """The same decoder as transformers opens it, without what v2t does to it."""
    lm = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=checkpoint.inverter.lm.dtype)
    plain = replace(checkpoint, inverter=copy(checkpoint.inverter))
    plain.inverter._modules = {**checkpoint.inverter._modules, "lm": lm.to(checkpoint.inverter.device).eval()}
    return plain


def run(settings: Settings) -> None:
    precision = "float32" if settings.device.type == "cpu" else "auto"  # as the other side, to write the same texts
    checkpoint = load_checkpoint(settings.checkpoint, settings.device, precision)
    plain = opened_plainly(checkpoint)
    greedy(settings, checkpoint, plain)
    usual = load_checkpoint(settings.checkpoint, settings.device)
    if usual.inverter.lm.dtype != checkpoint.inverter.lm.dtype:
        in_lower_precision(settings, usual, plain)
    reranked(settings, checkpoint, plain)


def greedy(settings: Settings, checkpoint: Checkpoint, plain: Checkpoint) -> None:
    vectors = settings.vectors
    size = min(
        BATCHES, key=lambda size: in_turn(1, lambda: plain_generate(plain, vectors[: max(BATCHES)], size), warm_up=not settings.quick)[0]
    )
    some = sample(vectors, settings.size(50, 5))  # the original loop takes minutes for all
    found: dict[str, list[str]] = {}

    def ours() -> None:
        found["v2t"] = v2t_decode(checkpoint, vectors)

    def generate() -> None:
        found["generate"] = plain_generate(plain, vectors, size)

    *turns, products = in_turn(
        settings.repeats, ours, generate, lambda: original_loop(plain, some), settings.matmul, warm_up=not settings.quick
    )
    each, generated, original = (
        [1e3 * seconds / count for seconds in side] for side, count in zip(turns, (len(vectors), len(vectors), len(some)))
    )
    what = f"decode, greedy, {len(vectors):,} vectors, ms each"
    theirs = f"the original loop ({len(some)} vectors) {spread(original, 1)}"
    show(what, spread(each, 2), theirs, f"{spread(ratios(original, each), 1)}x", ">= 30x")
    show(
        what,
        spread(each, 2),
        f"plain generate, {size} at a time {spread(generated, 2)}",
        f"{spread(ratios(generated, each), 2)}x",
        ">= 2.2x",
    )
    same = sum(one == other.strip() for one, other in zip(found["v2t"], found["generate"]))
    show("the same, row by row", f"{same:,} of {len(vectors):,} texts", "plain generate", "", "all")

    ids = checkpoint.tokenizer(found["v2t"], add_special_tokens=False)["input_ids"]
    tokens = sum(len(row) + 1 for row in ids) / len(vectors)
    needed = tokens * sum(weight.numel() for weight in checkpoint.inverter.lm.parameters())
    limit = [1e3 * settings.matmul.seconds_at_least(needed, seconds) for seconds in products]
    theirs = f"the limit {spread(limit, 2)}, {tokens:.1f} tokens each"
    show(what, spread(each, 2), theirs, f"{spread(ratios(limit, each), 2)} of it", ">= 0.60")


def in_lower_precision(settings: Settings, checkpoint: Checkpoint, plain: Checkpoint) -> None:
    """The decoder as `v2t decode` opens it on this machine, beside float32."""
    vectors, dtype = settings.vectors, str(checkpoint.inverter.lm.dtype).removeprefix("torch.")
    turns = in_turn(
        settings.repeats,
        lambda: v2t_decode(checkpoint, vectors),
        lambda: plain_generate(plain, vectors, BATCHES[0]),
        warm_up=not settings.quick,
    )
    each, generated = ([1e3 * seconds / len(vectors) for seconds in side] for side in turns)
    theirs = f"plain generate in float32, {BATCHES[0]} at a time {spread(generated, 2)}"
    show(f"decode, greedy in {dtype}, ms each", spread(each, 2), theirs, f"{spread(ratios(generated, each), 2)}x", "")


def reranked(settings: Settings, checkpoint: Checkpoint, plain: Checkpoint) -> None:
    vectors = sample(settings.vectors, settings.size(500, 5))  # plain beams take minutes for all
    with_encoder = replace(checkpoint, encoder=settings.encoder)
    turns = in_turn(
        max(1, settings.repeats // 2),
        lambda: v2t_decode(with_encoder, vectors),
        lambda: plain_rerank(plain, vectors, settings.plain_encode),
        warm_up=not settings.quick,
    )
    each, plain_each = ([1e3 * seconds / len(vectors) for seconds in side] for side in turns)
    what = f"decode, {BEAMS} beams re-ranked, {len(vectors):,} vectors, ms each"
    show(what, spread(each, 1), f"plain beams, re-embedded {spread(plain_each, 1)}", f"{spread(ratios(plain_each, each), 2)}x", ">= 1.5x")
