"""The training loop: steps, scores, saves."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from transformers import PreTrainedTokenizerBase

from v2t_cli.core.config import Config, DecodeConfig
from v2t_cli.core.console import log
from v2t_cli.core.errors import V2TError
from v2t_cli.decoding.generate import generate
from v2t_cli.decoding.search import resolve_search
from v2t_cli.models.checkpoint import save_checkpoint
from v2t_cli.models.encoder import EncoderIdentity
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.metadata import (
    AdapterInfo,
    CheckpointInfo,
    CorrectionInfo,
    CorrectionScores,
    DataInfo,
    DecoderInfo,
    LengthInfo,
    Scores,
    TrainingInfo,
    is_checkpoint,
)
from v2t_cli.training import state as resume
from v2t_cli.training.batches import Batch, Examples, Plan
from v2t_cli.training.callbacks import LOG_STEPS, EvalReport, Hooks, StepReport, TrainResult
from v2t_cli.training.dataset import Corpus
from v2t_cli.training.history import History


def _told(length: tuple[int, float | None]) -> str:
    steps, minutes = length
    return f"{steps:,} steps" + (f" or {minutes:g} minutes of training, whichever comes first" if minutes else "")


@dataclass
class Run:
    """A prepared training run."""

    config: Config
    hooks: Hooks
    accelerator: Accelerator
    corpus: Corpus
    examples: list[Examples]  # to invert; then, where the run learns to correct, with hypotheses
    held_out: list[Examples]  # empty where no text was held out; those that were got wrong follow, without and with hypotheses
    identity: EncoderIdentity | None
    inverter: Inverter  # the bare module
    model: torch.nn.Module  # the same, as accelerate wraps it
    optimizer: torch.optim.Optimizer
    tokenizer: PreTrainedTokenizerBase
    progress: resume.TrainingProgress
    base: CheckpointInfo | None = None  # of the inverter that learns to correct, where this is the run that teaches it
    followed: bool = False  # whether such a run comes next

    def __post_init__(self) -> None:
        settings = self.config.train
        self._plan = Plan(
            self.examples, settings.batch_size, settings.gradient_accumulation * self.accelerator.num_processes, self.config.seed
        )
        self.steps_per_epoch = self._plan.steps_per_epoch
        self.total_steps = max(1, round(settings.epochs * self.steps_per_epoch))
        self._schedule = self._going_on()
        self._saved = self.progress.step or None  # the step of the state on disk; one that is resumed was saved
        self._history = History(Path(self.config.output))
        rates = settings.learning_rates(self.config.decoder.scratch is not None)
        self._peaks = dict(zip(("decoder", "adapter"), rates))

    @property
    def _sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    @property
    def _section(self) -> str:
        """Where in the configuration this run is described."""
        return "train.correction" if self.base else "train"

    def _going_on(self) -> Schedule:
        """The schedule of this run; one that was begun with another end goes on from where it is to the new one."""
        settings, progress = self.config.train, self.progress
        new = Schedule(self.total_steps, settings.max_minutes, settings.warmup, progress.schedule_start)
        length = (self.total_steps, settings.max_minutes)
        if progress.length not in (None, length):
            before = replace(new, total_steps=progress.length[0], max_minutes=progress.length[1])
            reached = before.fraction(progress.step, progress.seconds)
            begun = new.fraction(progress.step, progress.seconds)
            new.start = progress.schedule_start = (begun, before.position(reached))
            log.info(
                f"the run ends after {_told(length)} now, not {_told(progress.length)}: "
                f"the learning rate goes on from {before.share(reached):.0%} of its peak to there"
            )
        progress.length = length
        return new

    def length(self) -> str:
        """When the run ends, in words."""
        return _told((self.total_steps, self.config.train.max_minutes))

    def fraction(self) -> float:
        """How much of the run is done, 0 to 1."""
        return self._schedule.fraction(self.progress.step, self.progress.seconds)

    def loop(self, should_stop: Callable[[], bool]) -> TrainResult:
        """Train to the end, or until told to stop; leave a complete checkpoint either way."""
        settings = self.config.train
        scores, scored_at = None, -1
        window = Window(self._section)
        if self.fraction() >= 1 and not self.followed:
            section = self._section
            log.info(f"this run is finished already; more {section}.epochs or {section}.max_minutes would go on with it")
        while True:
            fraction, stopped = self._agree(self.fraction(), should_stop())
            if stopped or fraction >= 1:
                break
            start = time.perf_counter()
            window.add(*self._step(fraction))
            self.progress.step += 1
            step = self.progress.step
            if step % LOG_STEPS == 0:
                loss = window.close(step)  # waits for the device, so it belongs to the time of training
                self.progress.seconds += time.perf_counter() - start
                self._report(fraction, loss, window.tokens_per_second)
            else:
                self.progress.seconds += time.perf_counter() - start
            if step % settings.eval_steps == 0:
                scores, scored_at = self.evaluate(), step
            if step % settings.save_steps == 0:
                window.check(step)
                self.save(scores if scored_at == step else None, finished=False, ended=False)
        if stopped and not self.progress.step and self.base and is_checkpoint(Path(self.config.output)):
            # What stands there inverts, and would correct no better for an untrained adapter.
            return TrainResult(Path(self.config.output), False, None)
        window.check(self.progress.step)
        if stopped:
            scores = None  # a stop should be quick; a run that goes on measures again
        elif scored_at != self.progress.step:
            scores = self.evaluate()
        self.save(scores, finished=not stopped)
        if self.followed:
            _, stopped = self._agree(1.0, stopped or should_stop())
        return TrainResult(Path(self.config.output), not stopped, scores)

    def _report(self, fraction: float, loss: float, tokens_per_second: float) -> None:
        minutes, rate = self.progress.seconds / 60, self._peaks["decoder"] * self._schedule.share(fraction)
        report = StepReport(self.progress.step, self.fraction(), minutes, rate, loss, tokens_per_second)
        self.hooks.step(report)
        self._log("step", minutes=minutes, learning_rate=rate, loss=loss, tokens_per_second=tokens_per_second)

    def _log(self, event: str, **values: Any) -> None:
        """To log.jsonl, and the numbers to the trackers."""
        if self.accelerator.is_main_process:
            self._history.add(event, run=self.progress.run, step=self.progress.step, **values)
        section = "correction/" if self.base else ""
        numbers = {f"{section}{event}/{name}": value for name, value in values.items() if isinstance(value, float)}
        if numbers:
            self.accelerator.log(numbers, step=self.progress.step)

    def _agree(self, fraction: float, stop: bool) -> tuple[float, bool]:
        """The furthest clock and any process's wish to stop, the same on all processes."""
        if self.accelerator.num_processes == 1:
            return fraction, stop
        both = torch.tensor([fraction, float(stop)], device=self.accelerator.device)
        both = self.accelerator.gather(both).view(-1, 2).max(dim=0).values.tolist()
        return both[0], bool(both[1])

    def _group(self) -> list[Batch]:
        """The micro-batches of the current step, of all processes: each needs one, also where an epoch's last step has too few."""
        group = self._plan.step(self.progress.step)
        missing = max(0, self.accelerator.num_processes - len(group))
        return group + [group[i % len(group)] for i in range(missing)]

    def _step(self, fraction: float) -> tuple[torch.Tensor, int]:
        """One optimizer step. Returns the summed loss of this process's texts, in nats, and their tokens."""
        accelerator = self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self._peaks[group["name"]] * self._schedule.share(fraction)
            group["weight_decay"] = self.config.train.weight_decay
        self.model.train()
        everyone = self._group()
        mine = everyone[accelerator.process_index :: accelerator.num_processes]
        total = sum(int(part.lengths[batch].sum()) for part, batch in everyone)
        loss_sum = torch.zeros((), device=accelerator.device)  # stays on the device: reading it would wait for the step
        for i, (part, batch) in enumerate(mine):
            last = i == len(mine) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    nll = self.model(*part.tensors(batch, self.tokenizer.pad_token_id, accelerator.device)).sum()
                # Gradients are averaged over processes: the product undoes that, so that each token weighs the same.
                accelerator.backward(nll * accelerator.num_processes / total)
            loss_sum += nll.detach()
        accelerator.clip_grad_norm_(self.model.parameters(), self.config.train.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss_sum, sum(int(part.lengths[batch].sum()) for part, batch in mine)

    def evaluate(self) -> Scores | None:
        """Score the held-out texts, show some pairs, and report both."""
        scores = self._scores()
        if scores is not None and (self.accelerator.is_main_process or self._sharded):  # what is sharded is run by all
            report = EvalReport(self.progress.step, self.progress.seconds / 60, scores, self._samples())
            if self.accelerator.is_main_process:
                self.hooks.evaluation(report)
                self._log("evaluation", minutes=report.minutes, **scores.model_dump(exclude_none=True), samples=report.samples)
        return scores

    def _scores(self) -> Scores | None:
        if not self.held_out:
            return None
        self.inverter.eval()
        with self.accelerator.autocast():
            loss, *rest = (part.loss(self.inverter, self.tokenizer.pad_token_id) for part in self.held_out)
        for value in (loss, *rest):
            if not math.isfinite(value):
                rate = f"{self._section}.learning_rate"
                raise V2TError(f"the held-out loss is {value} at step {self.progress.step}; lower {rate} and start again")
        correction = None
        if rest:
            correction = CorrectionScores(texts=len(set(self.held_out[1].split.rows.tolist())), loss=rest[0], corrected_loss=rest[1])
        return Scores(texts=len(self.held_out[0]), loss=loss, perplexity=math.exp(min(loss, 700)), correction=correction)

    def _samples(self) -> list[tuple[str, str]]:
        if not (self.held_out and self.config.train.samples):
            return []
        # The same ones each time, spread over the file: their progress can be watched.
        held_out = self.held_out[0]
        chosen = np.unique(np.linspace(0, len(held_out) - 1, self.config.train.samples).round().astype(np.int64))
        vectors = held_out.tensors(chosen, self.tokenizer.pad_token_id, self.accelerator.device)[0]
        search = resolve_search(DecodeConfig(quality="fast", max_new_tokens=int(held_out.lengths.max())))
        with self.accelerator.autocast():
            written = generate(self.inverter, self.tokenizer, vectors, search)
        return [(held_out.split.texts[i], of_vector[0].text) for i, of_vector in zip(chosen, written)]

    def save(self, scores: Scores | None, finished: bool, ended: bool = True) -> None:
        """Leave the state to resume from and a complete checkpoint; killed between the two, a run goes on from the state."""
        progress, output = self.progress, Path(self.config.output)
        resume.save_state(self.accelerator, output, progress, same=self._saved == progress.step)
        self._saved = progress.step
        weights = self.accelerator.get_state_dict(self.model) if self._sharded else None  # of all processes, to the first
        if self.accelerator.is_main_process:
            info = self._info(scores, finished)
            dtype = getattr(torch, self.config.train.save_precision)
            held_out = self.held_out[0].split.texts if self.held_out else []
            picture = self._history.picture(progress.run) if ended else None  # takes a second: not at each save on the way
            save_checkpoint(output, self.inverter, self.tokenizer, info, held_out, dtype, weights, picture)
            self._log("save")
            self.hooks.save(progress.step)

    def _info(self, scores: Scores | None, finished: bool) -> CheckpointInfo:
        config, corpus = self.config, self.corpus
        part = {
            "steps": self.progress.step,
            "epochs": round(self.progress.step / self.steps_per_epoch, 4),
            "minutes": round(self.progress.seconds / 60, 2),
            "finished": finished,
        }
        if self.base is not None:
            correction = CorrectionInfo(source=config.data.source, hypotheses=len(self.examples[-1]), **part)
            return self.base.model_copy(update={"encoder": self.identity, "correction": correction, "held_out": scores})
        packages = ("v2t", "torch", "transformers", "sentence-transformers")
        return CheckpointInfo(
            dim=self.examples[0].vectors.shape[1],
            encoder=self.identity,
            adapter=AdapterInfo(kind=config.adapter.kind, tokens=config.adapter.tokens),
            decoder=DecoderInfo(
                model=None if config.decoder.scratch else config.decoder.model,
                eos_token=self.tokenizer.eos_token,
                pad_token=self.tokenizer.pad_token,
            ),
            lengths=LengthInfo(
                min_chars=config.data.min_chars, max_chars=config.data.max_chars, max_tokens=int(self.examples[0].lengths.max())
            ),
            data=DataInfo(
                sha256=corpus.sha256,
                source=config.data.source,
                texts=len(corpus.texts),
                held_out=len(corpus.held_out),
                seed=config.seed,
            ),
            training=TrainingInfo(**part),
            held_out=scores,
            versions={name: importlib.metadata.version(name) for name in packages},
        )


FINAL_LEARNING_RATE = 0.05  # of the peak


@dataclass
class Schedule:
    """A linear rise during the warm-up, then a cosine down to FINAL_LEARNING_RATE at the end of the run.

    The end is that of total_steps or, if it comes first, of max_minutes. start: a fraction of the run, and the position on
    the curve there: where a run was given another length, what was left of the curve stretches to the new end.
    """

    total_steps: int
    max_minutes: float | None
    warmup: float
    start: tuple[float, float] = (0.0, 0.0)

    def fraction(self, step: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1, by steps or by the clock, whichever is ahead."""
        by_clock = seconds / 60 / self.max_minutes if self.max_minutes else 0.0
        return min(1.0, max(step / self.total_steps, by_clock))

    def position(self, fraction: float) -> float:
        """Where on the curve the run is, 0 to 1, given how much of it is done."""
        begun, position = self.start
        if not begun:
            return fraction
        return position + (1 - position) * (fraction - begun) / (1 - begun) if begun < 1 else position

    def share(self, fraction: float) -> float:
        """Of the peak learning rate, given how much of the run is done."""
        position = self.position(fraction)
        if position < self.warmup:
            # The first step is not free: half a step into the warm-up.
            return max(position, 0.5 / self.total_steps) / self.warmup
        down = (1 + math.cos(math.pi * (position - self.warmup) / (1 - self.warmup))) / 2
        return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * down


class Window:
    """Sums of the steps since the last report."""

    def __init__(self, section: str):
        self.tokens_per_second = 0.0
        self._section = section  # of the configuration, which rules the learning rate
        self._start_anew()

    def _start_anew(self) -> None:
        self._loss: torch.Tensor | None = None
        self._tokens, self._since = 0, time.perf_counter()

    def add(self, loss: torch.Tensor, tokens: int) -> None:
        self._loss = loss if self._loss is None else self._loss + loss
        self._tokens += tokens

    def check(self, step: int) -> float:
        """The mean loss in nats per token. Raises V2TError where it is no number, before anything of it is saved."""
        mean = 0.0 if self._loss is None else self._loss.item() / self._tokens
        if not math.isfinite(mean):
            raise V2TError(f"the loss became {mean} before step {step}; lower {self._section}.learning_rate and start again")
        return mean

    def close(self, step: int) -> float:
        """As `check`, and the next window begins."""
        mean = self.check(step)
        self.tokens_per_second = self._tokens / (time.perf_counter() - self._since)
        self._start_anew()
        return mean
