"""The training loop: steps, scores, saves."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from transformers import PreTrainedTokenizerBase

from v2t_cli import __version__
from v2t_cli.core.config import Config, DecodeConfig
from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.decoding.generate import generate
from v2t_cli.decoding.search import FittedSearch, resolve_search
from v2t_cli.io.signature import EncoderIdentity
from v2t_cli.models import metadata
from v2t_cli.models.checkpoint import save_checkpoint
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.metadata import CheckpointInfo, HeldOutScores
from v2t_cli.training.augment import Augmenter
from v2t_cli.training.batches import BatchPlan, Examples
from v2t_cli.training.callbacks import LOG_STEPS, Callbacks, EvalReport, StepReport
from v2t_cli.training.dataset import Corpus
from v2t_cli.training.history import History
from v2t_cli.training.schedule import Schedule
from v2t_cli.training.state import Progress, save_state, saving


@dataclass(frozen=True)
class TrainingData:
    """What is learned, and what is measured.

    held_out: empty if no text was held out. augmenter: None to learn the texts as they are. identity: of the encoder; None if it
    is unknown.
    """

    corpus: Corpus
    examples: Examples
    held_out: Examples
    augmenter: Augmenter | None
    identity: EncoderIdentity | None

    @property
    def longest(self) -> int:
        """About how many tokens the longest text has that is learned, the end-of-text included."""
        return self.augmenter.longest if self.augmenter else int(self.examples.lengths.max())


@dataclass(frozen=True)
class Models:
    """inverter: the bare module; wrapped: the same, as accelerate runs it."""

    inverter: Inverter
    wrapped: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    optimizers: list[torch.optim.Optimizer]


@dataclass
class TrainResult:
    checkpoint: Path
    finished: bool
    scores: HeldOutScores | None


class Trainer:
    """Trains a run from where its progress says."""

    def __init__(
        self, config: Config, accelerator: Accelerator, data: TrainingData, models: Models, progress: Progress, callbacks: Callbacks
    ):
        self.config, self.accelerator, self.data, self.models = config, accelerator, data, models
        self.progress, self.callbacks, self.output = progress, callbacks, Path(config.output)
        settings = config.train
        per_step = settings.gradient_accumulation * accelerator.num_processes
        self._plan = BatchPlan(data.examples.lengths, settings.batch_size, per_step, config.seed)
        self._schedule = self._resumed_schedule(max(1, round(settings.epochs * self._plan.steps_per_epoch)))
        self._saved = progress.step or None  # the step of the state on disk; a resumed one is saved
        self._history = History(self.output)
        self._peaks = dict(zip(("decoder", "adapter"), settings.learning_rates(config.decoder.scratch is not None)))

    @property
    def _sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    def _resumed_schedule(self, total_steps: int) -> Schedule:
        """The schedule of this run. If a resumed run got another length, it continues from its point to the new end."""
        settings, progress = self.config.train, self.progress
        new = Schedule(total_steps, settings.max_minutes, settings.warmup, progress.schedule_start)
        length = (total_steps, settings.max_minutes)
        if progress.length not in (None, length):
            before = replace(new, total_steps=progress.length[0], max_minutes=progress.length[1])
            reached = before.fraction(progress.step, progress.seconds)
            begun = new.fraction(progress.step, progress.seconds)
            progress.schedule_start = (begun, before.position(reached))
            new = replace(new, start=progress.schedule_start)
            log.info(
                f"the run now ends after {_in_words(length)}, not {_in_words(progress.length)}: "
                f"the learning rate continues from {before.factor(reached):.0%} of its peak"
            )
        progress.length = length
        return new

    def length(self) -> str:
        """When the run ends, in words."""
        return _in_words((self._schedule.total_steps, self.config.train.max_minutes))

    def fraction(self) -> float:
        """How much of the run is done, 0 to 1."""
        return self._schedule.fraction(self.progress.step, self.progress.seconds)

    def train(self, should_stop: Callable[[], bool]) -> TrainResult:
        """Train to the end, or until told to stop; leave a complete checkpoint either way. Raises V2TError if the loss diverges."""
        settings, losses = self.config.train, _RunningLoss()
        scores, scored_at = None, -1
        if self.fraction() >= 1:
            log.info("this run is already finished; to continue it, raise train.epochs or train.max_minutes")
            if info := self._finished():
                return TrainResult(self.output, True, info.held_out)
        while True:
            fraction, stopped = self._agree(self.fraction(), should_stop())
            if stopped or fraction >= 1:
                break
            self._timed_step(fraction, losses)
            step = self.progress.step
            if step % settings.eval_steps == 0:
                scores, scored_at = self.evaluate(), step
            if step % settings.save_steps == 0:
                losses.check(step)
                self.save(scores if scored_at == step else None, finished=False, ended=False)
        losses.check(self.progress.step)
        if stopped:
            scores = None  # stopping should be quick; a resumed run measures again
        elif scored_at != self.progress.step:
            scores = self.evaluate()
        self.save(scores, finished=not stopped)
        return TrainResult(self.output, not stopped, scores)

    def _finished(self) -> CheckpointInfo | None:
        """What the checkpoint of this run says, if it is whole, its last and, where that is possible, measured."""
        with suppress(RequestError):  # none, or a damaged one, which saving the state again mends
            info = metadata.read_info(self.output)
            metadata.check_files(self.output, info)
            measured = info.held_out is not None or not len(self.data.held_out)
            if info.training.finished and info.training.steps == self._saved == self.progress.step and measured:
                return info
        return None

    def _timed_step(self, fraction: float, losses: _RunningLoss) -> None:
        """One optimizer step, its time, and every LOG_STEPS steps a report."""
        start = time.perf_counter()
        losses.add(*self._step(fraction))
        self.progress.step += 1
        reported = self.progress.step % LOG_STEPS == 0
        if reported:
            losses.check(self.progress.step)  # waits for the device, so it belongs to the time of training
        seconds = time.perf_counter() - start
        self.progress.seconds += seconds
        losses.seconds += seconds
        if reported:
            self._report(fraction, *losses.close(self.progress.step))

    def _report(self, fraction: float, loss: float, tokens_per_second: float) -> None:
        minutes, rate = self.progress.seconds / 60, self._peaks["decoder"] * self._schedule.factor(fraction)
        self.callbacks.step(StepReport(self.progress.step, self.fraction(), minutes, rate, loss, tokens_per_second))
        self._log("step", minutes=minutes, learning_rate=rate, loss=loss, tokens_per_second=tokens_per_second)

    def _log(self, event: str, **values: Any) -> None:
        """Write an event to log.jsonl, and its numbers to the trackers."""
        if self.accelerator.is_main_process:
            self._history.add(event, step=self.progress.step, **values)
        numbers = {f"{event}/{name}": value for name, value in values.items() if isinstance(value, float)}
        if numbers:
            self.accelerator.log(numbers, step=self.progress.step)

    def _agree(self, fraction: float, stop: bool) -> tuple[float, bool]:
        """The furthest clock, and whether any process wants to stop: the same on all processes."""
        if self.accelerator.num_processes == 1:
            return fraction, stop
        both = torch.tensor([fraction, float(stop)], device=self.accelerator.device)
        both = self.accelerator.gather(both).view(-1, 2).max(dim=0).values.tolist()
        return both[0], bool(both[1])

    def _micro_batches(self) -> list[np.ndarray]:
        """Those of the current step, of all processes. Each needs one, even if an epoch's last step has too few."""
        batches = self._plan.step(self.progress.step)
        missing = max(0, self.accelerator.num_processes - len(batches))
        return batches + [batches[i % len(batches)] for i in range(missing)]

    def _step(self, fraction: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step. Returns the summed loss of this process's texts, in nats, and their tokens."""
        accelerator, model, optimizers = self.accelerator, self.models.wrapped, self.models.optimizers
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = self._peaks[group["name"]] * self._schedule.factor(fraction)
            group["weight_decay"] = self.config.train.weight_decay
        model.train()
        all_batches = self._micro_batches()
        mine = range(len(all_batches))[accelerator.process_index :: accelerator.num_processes]
        batches = [self._tensors(all_batches[i], i) for i in mine]
        # These stay on the device: reading them would wait for the step.
        loss_sum, tokens = torch.zeros((), device=accelerator.device), torch.stack([lengths.sum() for _, _, lengths in batches]).sum()
        total = accelerator.reduce(tokens, reduction="sum")
        for i, (vectors, ids, lengths) in zip(mine, batches):
            with nullcontext() if i == mine[-1] else accelerator.no_sync(model):
                with accelerator.autocast():
                    nll = model(vectors, ids, lengths).sum()
                # Gradients are averaged over processes. The factor undoes that, so that each token has the same weight.
                accelerator.backward(nll * accelerator.num_processes / total)
            loss_sum += nll.detach()
        accelerator.clip_grad_norm_(model.parameters(), self.config.train.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss_sum, tokens

    def _tensors(self, batch: np.ndarray, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of the model for a batch. number: of the batch in this step."""
        pad_id, device = self.models.tokenizer.pad_token_id, self.accelerator.device
        if self.data.augmenter is None:
            return self.data.examples.tensors(batch, pad_id, device)
        rng = np.random.default_rng([self.config.seed, self.progress.step, number])  # so that a run can resume anywhere
        return self.data.augmenter.tensors(batch, pad_id, device, rng)

    def evaluate(self) -> HeldOutScores | None:
        """Score the held-out texts, decode a few, and report both."""
        scores = self._scores()
        if scores is not None and (self.accelerator.is_main_process or self._sharded):  # a sharded model runs on all processes
            report = EvalReport(self.progress.step, self.progress.seconds / 60, scores, self._samples())
            if self.accelerator.is_main_process:
                self.callbacks.evaluation(report)
                self._log("evaluation", minutes=report.minutes, **scores.model_dump(), samples=report.samples)
        return scores

    def _scores(self) -> HeldOutScores | None:
        held_out, inverter = self.data.held_out, self.models.inverter
        if not len(held_out):
            return None
        inverter.eval()
        with self.accelerator.autocast():
            loss = held_out.loss(inverter, self.models.tokenizer.pad_token_id)
        if not math.isfinite(loss):
            raise V2TError(f"the held-out loss is {loss} at step {self.progress.step}; lower train.learning_rate and start again")
        return HeldOutScores(texts=len(held_out), loss=loss, perplexity=math.exp(min(loss, 700)))

    def _samples(self) -> list[tuple[str, str]]:
        held_out, tokenizer, count = self.data.held_out, self.models.tokenizer, self.config.train.samples
        if not count:
            return []
        # The same ones each time, spread over the file, so that their progress can be watched.
        chosen = np.unique(np.linspace(0, len(held_out) - 1, count).round().astype(np.int64))
        vectors = held_out.tensors(chosen, tokenizer.pad_token_id, self.accelerator.device)[0]
        wanted = DecodeConfig(strategy="greedy", max_new_tokens=int(held_out.lengths.max()), batch_size=len(chosen))
        search = FittedSearch(**resolve_search(wanted).model_dump())
        with self.accelerator.autocast():
            written = generate(self.models.inverter, tokenizer, vectors, search)
        return [(held_out.split.texts[i], of_vector[0].text) for i, of_vector in zip(chosen, written)]

    def save(self, scores: HeldOutScores | None, finished: bool, ended: bool = True) -> None:
        """Save the resume state, then a complete checkpoint; if killed between the two, a run resumes from the state.

        Raises V2TError if they cannot be written, for example on a full disk. The earlier ones are then still there.
        """
        with saving(self.output):
            self._save(scores, finished, ended)

    def _save(self, scores: HeldOutScores | None, finished: bool, ended: bool) -> None:
        progress, settings = self.progress, self.config.train
        save_state(self.accelerator, self.output, progress, same=self._saved == progress.step)
        self._saved = progress.step
        weights = self.accelerator.get_state_dict(self.models.wrapped) if self._sharded else None  # of all processes, to the first
        if self.accelerator.is_main_process:
            info = self._info(scores, finished)
            picture = self._history.picture() if ended else None  # takes a second, so only at the end
            dtype = getattr(torch, settings.save_precision)
            held_out = self.data.held_out.split.texts
            save_checkpoint(
                self.output, self.models.inverter, self.models.tokenizer, info, held_out, self.data.corpus.lexicon, dtype, weights, picture
            )
            self._log("save")
            self.callbacks.save(progress.step)

    def _info(self, scores: HeldOutScores | None, finished: bool) -> CheckpointInfo:
        config, data, tokenizer = self.config, self.data, self.models.tokenizer
        limits = {"min_chars": config.data.min_chars, "max_chars": config.data.max_chars}
        counts = {"texts": len(data.corpus.texts), "held_out": len(data.corpus.held_out)}
        model = None if config.decoder.scratch else config.decoder.model
        packages = ("torch", "transformers", "sentence-transformers")
        return CheckpointInfo(
            dim=data.examples.vectors.shape[1],
            encoder=data.identity,
            adapter=metadata.AdapterInfo(kind=config.adapter.kind, tokens=config.adapter.tokens),
            decoder=metadata.DecoderInfo(model=model, eos_token=tokenizer.eos_token, pad_token=tokenizer.pad_token),
            lengths=metadata.LengthInfo(max_tokens=data.longest, **limits),
            data=metadata.DataInfo(sha256=data.corpus.sha256, source=config.data.source, seed=config.seed, **counts),
            training=metadata.TrainingInfo(
                steps=self.progress.step,
                epochs=round(self.progress.step / self._plan.steps_per_epoch, 4),
                minutes=round(self.progress.seconds / 60, 2),
                finished=finished,
            ),
            held_out=scores,
            versions={"v2t": __version__, **{name: importlib.metadata.version(name) for name in packages}},
        )


class _RunningLoss:
    """The losses and the speed since the last report. seconds: of training, without evaluations and saves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        # Tensors from the first step on: reading them waits for the device.
        self._loss: Any = 0.0
        self._tokens: Any = 0

    def add(self, loss: torch.Tensor, tokens: torch.Tensor) -> None:
        self._loss, self._tokens = self._loss + loss, self._tokens + tokens

    def check(self, step: int) -> float:
        """The mean loss in nats per token. Raises V2TError if it is not a number, before anything is saved."""
        mean = float(self._loss) / max(1, int(self._tokens))
        if not math.isfinite(mean):
            raise V2TError(f"the loss became {mean} before step {step}; lower train.learning_rate and start again")
        return mean

    def close(self, step: int) -> tuple[float, float]:
        """The mean as of `check`, and the tokens a second; then start over."""
        found = self.check(step), int(self._tokens) / self.seconds
        self._loss, self._tokens, self.seconds = 0.0, 0, 0.0
        return found


def _in_words(length: tuple[int, float | None]) -> str:
    steps, minutes = length
    return f"{steps:,} steps" + (f" or {minutes:g} minutes of training, whichever comes first" if minutes else "")
