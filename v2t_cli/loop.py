"""The training loop: steps, scores, saves."""

from __future__ import annotations

import importlib.metadata
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from v2t_cli import resume
from v2t_cli.batching import bucketed, sorted_batches
from v2t_cli.checkpoint import save_checkpoint
from v2t_cli.config import Config
from v2t_cli.console import Track, log, silent
from v2t_cli.dataset import Corpus, Split
from v2t_cli.encoder import EncoderIdentity
from v2t_cli.errors import V2TError
from v2t_cli.info import AdapterInfo, CheckpointInfo, DataInfo, DecoderInfo, LengthInfo, Scores, TrainingInfo
from v2t_cli.model import Inverter, pad
from v2t_cli.texts import to_line

LOG_STEPS = 20
EVAL_BATCH = 128
FINAL_LEARNING_RATE = 0.05  # of the peak


@dataclass
class StepReport:
    """Where the run is: called back every LOG_STEPS steps."""

    step: int
    fraction: float  # of the whole run, 0 to 1
    loss: float  # nats per token over the last LOG_STEPS steps
    tokens_per_second: float


@dataclass
class EvalReport:
    """What the held-out texts say: called back every train.eval_steps and at the end."""

    step: int
    minutes: float
    loss: float
    samples: list[tuple[str, str]]  # source, generated


@dataclass
class Hooks:
    """What a caller may want to see and decide while a run goes on."""

    step: Callable[[StepReport], None] = lambda report: None
    evaluation: Callable[[EvalReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False
    track: Track = silent


@dataclass
class TrainResult:
    checkpoint: Path
    finished: bool
    scores: Scores | None


@dataclass
class Run:
    """A prepared training run."""

    config: Config
    hooks: Hooks
    accelerator: Accelerator
    corpus: Corpus
    train_split: Split
    held_out: Split
    vectors: np.ndarray
    identity: EncoderIdentity | None
    inverter: Inverter  # the bare module
    model: torch.nn.Module  # the same, as accelerate wraps it
    optimizer: torch.optim.Optimizer
    tokenizer: object
    progress: resume.TrainingProgress = field(default_factory=resume.TrainingProgress)

    def __post_init__(self):
        self.progress.signature = self.signature
        per_step = self.config.train.batch_size * self.config.train.gradient_accumulation * self.accelerator.num_processes
        self.steps_per_epoch = math.ceil(len(self.train_split) / per_step)
        self.total_steps = max(1, round(self.config.train.epochs * self.steps_per_epoch))
        self._plan: tuple[int, list] = (-1, [])

    @property
    def signature(self) -> str:
        """What must be the same for two runs to be parts of one, as JSON."""
        config = self.config
        return json.dumps({
            "texts": self.corpus.sha256[:12],
            "held_out": config.data.held_out,
            "seed": config.seed,
            "dim": self.vectors.shape[1],
            "decoder": config.decoder.scratch.model_dump() if config.decoder.scratch else config.decoder.model,
            "adapter": config.adapter.model_dump(),
            "batch": [config.train.batch_size, config.train.gradient_accumulation, self.accelerator.num_processes],
        })

    def fraction(self) -> float:
        """How much of the run is done, 0 to 1, by steps or by the clock, whichever is ahead."""
        by_clock = self.progress.seconds / 60 / self.config.train.max_minutes if self.config.train.max_minutes else 0.0
        return min(1.0, max(self.progress.step / self.total_steps, by_clock))

    def loop(self) -> TrainResult:
        settings = self.config.train
        if self.fraction() >= 1:
            log.info("this run is finished already; more train.epochs or train.max_minutes would go on with it")
            return TrainResult(Path(self.config.output), True, self._scores())
        losses, tokens, since, last_eval = [], 0, time.perf_counter(), -1
        stopped = False
        scores = None
        while True:
            fraction, stopped = self._agree(self.fraction(), self.hooks.should_stop())
            if stopped or fraction >= 1:
                break
            start = time.perf_counter()
            loss, count = self._step(fraction)
            self.progress.step += 1
            losses.append(loss)
            tokens += count
            self.progress.seconds += time.perf_counter() - start
            step = self.progress.step
            if step % LOG_STEPS == 0:
                mean = torch.stack(losses).mean().item()
                if not math.isfinite(mean):
                    raise V2TError(f"the loss became {mean} before step {step}; lower train.learning_rate and start again")
                now = time.perf_counter()
                self.hooks.step(StepReport(step, self.fraction(), mean, tokens / (now - since)))
                losses, tokens, since = [], 0, now
            if step % settings.eval_steps == 0:
                scores, last_eval = self.evaluate(), step
            if step % settings.save_steps == 0:
                self.save(scores if last_eval == step else None, finished=False)
        if last_eval != self.progress.step and not stopped:
            scores = self.evaluate()
        elif stopped:
            scores = None  # a stop should be quick; resuming measures again
        self.save(scores, finished=not stopped)
        return TrainResult(Path(self.config.output), not stopped, scores)

    def _agree(self, fraction: float, stop: bool) -> tuple[float, bool]:
        """The furthest clock and any process's wish to stop, the same on all processes."""
        if self.accelerator.num_processes == 1:
            return fraction, stop
        both = torch.tensor([fraction, float(stop)], device=self.accelerator.device)
        both = self.accelerator.gather(both).view(-1, 2).max(dim=0).values.tolist()
        return both[0], bool(both[1])

    def _learning_rate(self, fraction: float) -> float:
        """Share of the peak: a linear rise during the warm-up, then a cosine down to FINAL_LEARNING_RATE."""
        warmup = self.config.train.warmup
        if fraction < warmup:
            # The first step is not free: half a step into the warm-up.
            return max(fraction, 0.5 / self.total_steps) / warmup
        down = (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup))) / 2
        return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * down

    def _group(self) -> list[np.ndarray]:
        """The micro-batches of the current step, of all processes. The plan of an epoch follows from seed and epoch alone."""
        epoch, position = divmod(self.progress.step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._plan = epoch, bucketed(self.train_split.lengths, self.config.train.batch_size, rng)
        batches = self._plan[1]
        size = self.config.train.gradient_accumulation * self.accelerator.num_processes
        group = batches[position * size : (position + 1) * size]
        # Every process needs a batch, also where the epoch's last step has too few.
        short = max(0, self.accelerator.num_processes - len(group))
        return group + [batches[i % len(batches)] for i in range(short)]

    def _step(self, fraction: float) -> tuple[torch.Tensor, int]:
        """One optimizer step. Returns the loss in nats per token over this process's texts, and the tokens of all."""
        accelerator = self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._learning_rate(fraction)
        self.model.train()
        everyone = self._group()
        mine = everyone[accelerator.process_index :: accelerator.num_processes]
        lengths = self.train_split.lengths
        total = int(sum(lengths[batch].sum() for batch in everyone))
        loss_sum = torch.zeros((), device=accelerator.device)
        for i, batch in enumerate(mine):
            last = i == len(mine) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    nll = self.model(*self._tensors(self.train_split, batch)).sum()
                # Gradients are averaged over processes: the product undoes that, so that each token weighs the same.
                accelerator.backward(nll * accelerator.num_processes / total)
            loss_sum += nll.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), self.config.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss_sum / int(sum(lengths[batch].sum() for batch in mine)), total

    def _tensors(self, split: Split, batch: np.ndarray):
        device = self.accelerator.device
        ids, lengths = pad([split.ids[i] for i in batch], self.tokenizer.pad_token_id, device)
        vectors = torch.from_numpy(np.asarray(self.vectors[split.rows[batch]], dtype=np.float32)).to(device)
        return vectors, ids, lengths

    def evaluate(self) -> Scores | None:
        """Score the held-out texts, show some pairs, and report both."""
        scores = self._scores()
        if scores is not None and self.accelerator.is_main_process:
            report = EvalReport(self.progress.step, self.progress.seconds / 60, scores.loss, self._samples())
            self.hooks.evaluation(report)
        return scores

    @torch.inference_mode()
    def _scores(self) -> Scores | None:
        if not len(self.held_out):
            return None
        self.inverter.eval()
        total = 0.0
        for batch in sorted_batches(self.held_out.lengths, EVAL_BATCH):
            with self.accelerator.autocast():
                total += self.inverter(*self._tensors(self.held_out, batch)).sum().item()
        loss = total / int(self.held_out.lengths.sum())
        return Scores(texts=len(self.held_out), loss=loss, perplexity=math.exp(min(loss, 700)))

    def _samples(self) -> list[tuple[str, str]]:
        if not (len(self.held_out) and self.config.train.samples):
            return []
        # The same ones each time, spread over the file: their progress can be watched.
        chosen = np.unique(np.linspace(0, len(self.held_out) - 1, self.config.train.samples).round().astype(np.int64))
        vectors, _, lengths = self._tensors(self.held_out, chosen)
        longest = int(self.held_out.lengths.max())
        with self.accelerator.autocast():
            ids = self.inverter.generate(vectors, max_new_tokens=longest, do_sample=False)
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [(self.held_out.texts[i], to_line(text)) for i, text in zip(chosen, texts)]

    def save(self, scores: Scores | None, finished: bool) -> None:
        """Leave a complete checkpoint and the state to resume from."""
        if self.accelerator.is_main_process:
            info = self._info(scores, finished)
            save_checkpoint(Path(self.config.output), self.inverter, self.tokenizer, info, self.held_out.texts)
        resume.save_state(self.accelerator, Path(self.config.output), self.progress)

    def _info(self, scores: Scores | None, finished: bool) -> CheckpointInfo:
        config, corpus = self.config, self.corpus
        packages = ("v2t", "torch", "transformers", "sentence-transformers")
        return CheckpointInfo(
            dim=self.vectors.shape[1],
            encoder=self.identity,
            adapter=AdapterInfo(kind=config.adapter.kind, tokens=config.adapter.tokens),
            decoder=DecoderInfo(
                model=None if config.decoder.scratch else config.decoder.model,
                eos_token=self.tokenizer.eos_token,
                pad_token=self.tokenizer.pad_token,
            ),
            lengths=LengthInfo(
                min_chars=config.data.min_chars, max_chars=config.data.max_chars, max_tokens=int(self.train_split.lengths.max())
            ),
            data=DataInfo(sha256=corpus.sha256, texts=len(corpus.train) + len(corpus.held_out), held_out=len(corpus.held_out)),
            training=TrainingInfo(
                steps=self.progress.step,
                epochs=round(self.progress.step / self.steps_per_epoch, 4),
                minutes=round(self.progress.seconds / 60, 2),
                finished=finished,
            ),
            held_out=scores,
            versions={name: importlib.metadata.version(name) for name in packages},
        )
