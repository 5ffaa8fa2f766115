"""A training step, beside the original's: batches padded to the longest text of all, vectors as Python lists."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.benchmarks.common import Settings, in_turn, ratios, show, spread, synchronize
from v2t_cli.core.config import load_config
from v2t_cli.models.metadata import read_info
from v2t_cli.training.callbacks import Callbacks
from v2t_cli.training.prepare import prepare
from v2t_cli.training.trainer import Trainer

BATCH = 128


class Original:
    """The original's step with the same decoder: everything padded to the longest text, vectors and tokens as Python lists."""

    def __init__(self, checkpoint: Path, texts: list[str], vectors: list[list[float]], longest: int, device: torch.device):
        self.device = device
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.lm = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).to(device)
        hidden = self.lm.config.hidden_size
        tokens = [self.tokenizer(text, add_special_tokens=False)["input_ids"] + [self.tokenizer.eos_token_id] for text in texts]
        self.samples = [
            (vector + [0.0] * (hidden - len(vector)), ids + [self.tokenizer.pad_token_id] * (longest - len(ids)), len(ids))
            for vector, ids in zip(vectors, tokens)
        ]
        self.optimizer = torch.optim.AdamW(self.lm.parameters(), lr=1e-5)
        self.place = 0

    def step(self) -> None:
        self.lm.train()
        batch = [self.samples[(self.place + i) % len(self.samples)] for i in range(BATCH)]
        self.place += BATCH
        vectors = torch.tensor([vector for vector, _, _ in batch], device=self.device)
        ids = torch.tensor([ids for _, ids, _ in batch], device=self.device)
        lengths = torch.tensor([length for _, _, length in batch], device=self.device)
        with torch.no_grad():
            tokens = self.lm.get_input_embeddings()(ids)
        labels = ids.masked_fill(torch.arange(ids.shape[1], device=self.device) >= lengths[:, None], -100)
        labels = torch.cat([torch.full_like(labels[:, :1], -100), labels], dim=1)
        loss = self.lm(inputs_embeds=torch.cat([vectors[:, None], tokens], dim=1), labels=labels).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()


def run(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _compare(settings, prepared_run(settings, Path(folder)))


def prepared_run(settings: Settings, folder: Path) -> Trainer:
    """A run of `v2t train` from the checkpoint, on texts of the corpus, with random vectors: a step does not care whose they are."""
    texts = settings.size(100_000, 1_000)
    lines = list(settings.lines(texts))
    (folder / "texts.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    np.save(
        folder / "vectors.npy", np.random.default_rng(0).normal(size=(len(lines), read_info(settings.checkpoint).dim)).astype(np.float32)
    )
    sets = [
        f"decoder.model={settings.checkpoint}",
        f"data.texts={folder / 'texts.txt'}",
        f"data.vectors={folder / 'vectors.npy'}",
        f"output={folder / 'out'}",
        f"device={settings.device}",
        f"train.batch_size={BATCH}",
        f"train.precision={'no' if settings.device.type == 'cpu' else 'auto'}",
    ]
    return prepare(load_config(None, sets), Callbacks(), False)


def _compare(settings: Settings, prepared: Trainer) -> None:
    steps = settings.size(20, 2)
    fewer = max(1, steps // 4)  # the original's are slow
    split = prepared.data.corpus.train
    longest = int(prepared.data.examples.lengths.max())
    held = split.rows[:20_000]  # as Python lists, which take 16 kB a text
    original = Original(
        settings.checkpoint, split.texts[: len(held)], prepared.data.examples.vectors[held].tolist(), longest, settings.device
    )
    trained = 0

    def ours() -> None:
        nonlocal trained
        prepared.progress.step, trained = 0, 0  # the same batches each time
        for _ in range(steps):
            trained += prepared._step(0.5)[1]
            prepared.progress.step += 1
        synchronize(settings.device)

    def theirs() -> None:
        for _ in range(fewer):
            original.step()

    *turns, products = in_turn(settings.repeats, ours, theirs, settings.matmul, warm_up=not settings.quick)
    rate, other_rate = ([BATCH * count / seconds for seconds in side] for side, count in zip(turns, (steps, fewer)))
    what = f"training, batches of {BATCH}, texts per second"
    beside = f"the original ({longest} tokens each) {spread(other_rate, 0)}"
    show(what, spread(rate, 0), beside, f"{spread(ratios(rate, other_rate), 2)}x", ">= 4x")
    tokens = trained / steps / BATCH
    needed = 3 * tokens * sum(weight.numel() for weight in prepared.models.inverter.lm.parameters())
    limit = [1 / settings.matmul.seconds_at_least(needed, seconds) for seconds in products]
    show(
        what,
        spread(rate, 0),
        f"the limit {spread(limit, 0)}, {tokens:.1f} tokens each",
        f"{spread(ratios(rate, limit), 2)} of it",
        ">= 0.65",
    )
