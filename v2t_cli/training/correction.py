"""Learned correction: a second stage that teaches the decoder to improve hypotheses, given what their vectors lack.

The first stage leaves some texts out. In the second the inverter decodes their vectors, its wrong texts are embedded, and the
decoder learns to write the right text after the wrong one: the scheme of vec2text (Morris et al. 2023).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock

from v2t_cli.core.config import Config, DecodeConfig, DecoderConfig
from v2t_cli.core.console import Track, log
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line, to_line
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.atomic import replacing
from v2t_cli.io.vectors import Block, grid, map_vectors, write_vectors
from v2t_cli.models.adapters import ADAPTERS, Adapter, Learned
from v2t_cli.models.checkpoint import Checkpoint
from v2t_cli.models.encoder import CHUNK_TEXTS, Encoder, embed
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.language_model import tokenize_corpus
from v2t_cli.models.metadata import RESUME, is_checkpoint, read_info
from v2t_cli.training import state
from v2t_cli.training.batches import Examples
from v2t_cli.training.dataset import Corpus, Split, has_encoder, split_held_out, statistics
from v2t_cli.training.trainer import TrainingData


def base_of(config: Config) -> Path | None:
    """The checkpoint that is only taught to correct; None if an inverter is trained first. Raises RequestError."""
    correction, base = config.train.correction, Path(config.decoder.model)
    if correction is None:
        if not config.train.epochs:
            raise RequestError("train.epochs is 0: there is nothing to train")
        return None
    if not has_encoder(config):
        raise RequestError("train.correction embeds what the inverter writes: name the encoder of data.vectors with encoder.model")
    if config.data.held_out + correction.texts >= 1:
        together = f"{config.data.held_out + correction.texts:.0%}"
        raise RequestError(f"data.held_out and train.correction.texts leave no texts to train on: together they take {together}")
    if config.train.epochs:
        return None
    if config.decoder.scratch is not None or not is_checkpoint(base):
        raise RequestError("train.epochs is 0: to train only the correction, name a v2t checkpoint as decoder.model")
    return base


def inverter_config(config: Config) -> Config:
    """The configuration of the first stage: without the texts that are set aside for the second, if there is one."""
    correction = config.train.correction
    if correction is None:
        return config
    return _updated(config, train={"correction": None}, data={"held_out": config.data.held_out + correction.texts})


def correction_config(config: Config, base: Path) -> Config:
    """The configuration of the second stage, which starts from the checkpoint of the first with rates of its own."""
    correction, adapter = config.train.correction, read_info(base).adapter
    assert correction is not None  # otherwise there is no second stage
    decoder_rate, adapter_rate = config.train.learning_rates(config.decoder.scratch is not None)
    settings = {
        "epochs": correction.epochs,
        "max_minutes": correction.max_minutes,
        "learning_rate": correction.learning_rate or decoder_rate,
        "adapter_learning_rate": correction.adapter_learning_rate or adapter_rate,
    }
    new = _updated(config, train=settings, adapter={"kind": adapter.kind, "tokens": adapter.tokens})
    return new.model_copy(update={"decoder": DecoderConfig(model=str(base), trust_remote_code=config.decoder.trust_remote_code)})


def _updated(config: Config, **sections: dict[str, Any]) -> Config:
    parts = {name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    return config.model_copy(update=parts)


def check_room(inverter: Inverter) -> None:
    """Raise RequestError if the decoder has no positions for a hypothesis."""
    room = inverter.n_correction_positions
    if room is not None and room < 2:
        prefix = 3 * inverter.adapter.tokens
        advice = "use fewer adapter.tokens, or a decoder with more positions"
        raise RequestError(f"train.correction: after {prefix} prefix positions the decoder has no room for a hypothesis; {advice}")


@dataclass
class Teacher:
    """Makes the examples of the second stage."""

    config: Config
    accelerator: Accelerator
    inverter: Inverter
    tokenizer: Any
    encoder: Encoder | None
    track: Track

    def add_hypotheses(self, data: TrainingData, base: Path, made: bool) -> tuple[TrainingData, Adapter]:
        """Add what the inverter gets wrong of texts set aside and of held-out ones; also returns an adapter for differences.

        made: whether an earlier part of this run wrote the hypotheses already. All processes return the same.
        """
        checkpoint = Checkpoint(base, self.inverter.to(self.accelerator.device).eval(), self.tokenizer, read_info(base))
        vectors = data.examples[0].vectors
        pairs, of_held_out = self._hypotheses(checkpoint, data, vectors, made)
        difference = _difference(pairs, self.inverter.adapter).to(self.accelerator.device)
        measured = list(data.held_out)
        if len(of_held_out):
            measured += [Examples(of_held_out.split, vectors), of_held_out]
        return replace(data, examples=[*data.examples, pairs], held_out=measured, corrected=checkpoint.info), difference

    def _hypotheses(self, checkpoint: Checkpoint, data: TrainingData, vectors: np.ndarray, made: bool) -> list[Examples]:
        output, limit, correction = Path(self.config.output), self.inverter.n_positions, self.config.train.correction
        assert correction is not None and self.encoder is not None  # base_of asks for both
        kept = set_aside(data.corpus, self.config.data.held_out, correction.texts, self.config.seed)
        kept = kept.tokenized(self.tokenizer, limit, "set-aside")
        held_out = data.held_out[0].split if data.held_out else data.corpus.held_out.tokenized(self.tokenizer, limit, "held-out")
        folder, parts = output / RESUME, {"hypotheses": (kept, correction.hypotheses), "held_out": (held_out, 1)}
        if not made:
            if self.accelerator.is_main_process:
                if checkpoint.folder != output:  # otherwise the first stage's state stays until there is another
                    state.drop_state(output)
                for path in folder.glob("h*"):  # of a run that ended before it was saved
                    path.unlink()
            self.accelerator.wait_for_everyone()
            for name, (split, count) in parts.items():
                make_hypotheses(folder / name, checkpoint, self.encoder, split, vectors, count, self.track)
        room = self.inverter.n_correction_positions
        read = [read_hypotheses(folder / name, split, vectors, self.tokenizer, room) for name, (split, _) in parts.items()]
        if not len(read[0]):
            raise RequestError("train.correction: no wrong hypothesis to learn from; raise train.correction.texts")
        return read


def set_aside(corpus: Corpus, held_out: float, fraction: float, seed: int) -> Split:
    """The training texts that a run with data.held_out = held_out + fraction would also have held out."""
    count = len(corpus.texts)
    train, _ = split_held_out(count, held_out, seed)
    _, wider = split_held_out(count, held_out + fraction, seed)
    return corpus.train.keep(np.flatnonzero(np.isin(train, wider)))


def _difference(pairs: Examples, adapter: Adapter) -> Adapter:
    """A new adapter, of the kind and scale of the other, for target minus hypothesis."""
    difference = ADAPTERS[adapter.kind](adapter.dim, adapter.hidden, adapter.tokens)
    lacking = pairs.vectors[pairs.split.rows] - pairs.hypothesis_vectors
    difference.set_statistics(*(torch.from_numpy(part) for part in statistics(lacking, np.arange(len(lacking)))))
    if isinstance(adapter, Learned):
        difference.match_scale(adapter.gain.item())
    return difference


def make_hypotheses(
    path: Path, checkpoint: Checkpoint, encoder: Encoder, split: Split, vectors: np.ndarray, count: int, track: Track
) -> None:
    """Decode `count` texts from the vector of each text of the split, and write the wrong ones and their vectors.

    path.jsonl gets a line [position in the split, text] for each, path.npy its vector. One process does this while the
    others wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if path.with_suffix(".npy").exists():  # which is written last
            return
        log.info(f"making {count} {'hypotheses' if count > 1 else 'hypothesis'} for each of {len(split):,} texts")
        search = resolve_search(DecodeConfig(quality="fast", candidates=count, max_new_tokens=checkpoint.info.lengths.max_tokens))
        order = np.argsort(split.lengths, kind="stable")  # texts of one length end together
        rows = split.rows[order]
        chunks = grid(len(rows), CHUNK_TEXTS)
        blocks = (Block(part.start, np.asarray(vectors[rows[part.start : part.stop]], dtype=np.float32)) for part in chunks)
        wrong = []
        with track("making hypotheses", len(split)) as advance:
            for i, row in zip(order.tolist(), decode(checkpoint, blocks, fit(checkpoint, search))):
                right = to_line(split.texts[i]).strip()
                wrong += [(i, candidate.text) for candidate in row.candidates if candidate.text and candidate.text != right]
                advance(1)
        with replacing(path.with_suffix(".jsonl")) as stream:
            stream.writelines((json.dumps(it, ensure_ascii=False) + "\n").encode() for it in wrong)
        output = str(path.with_suffix(".npy"))
        with track("embedding hypotheses", len(wrong)) as advance, write_vectors(output, vectors.shape[1]) as write:
            for chunk in embed(encoder, (text for _, text in wrong)):
                write(chunk)
                advance(len(chunk))


def read_hypotheses(path: Path, split: Split, vectors: np.ndarray, tokenizer: Any, limit: int | None) -> Examples:
    """The texts of the split, once for each of their hypotheses, without those that do not fit.

    limit: room for the tokens of both; None for no limit. Raises RequestError if the files are damaged.
    """
    try:
        with open(path.with_suffix(".jsonl"), encoding="utf-8", newline="\n") as stream:
            lines = [json.loads(line) for line in stream]
        of_hypotheses = map_vectors(path.with_suffix(".npy"))
    except (OSError, ValueError, RequestError) as error:
        raise RequestError(f"{path.parent}: damaged, so the run cannot resume: {one_line(error)}; --overwrite starts over") from None
    owners = np.array([i for i, _ in lines], dtype=np.int64)
    ids = tokenize_corpus(tokenizer, [text for _, text in lines])
    both = ids.lengths + split.lengths[owners]
    fits = np.arange(len(ids)) if limit is None else np.flatnonzero(both <= limit)
    if len(fits) < len(ids):
        log.warning(f"{len(ids) - len(fits):,} hypotheses dropped: with their texts longer than the {limit} tokens that fit the decoder")
    return Examples(split.keep(owners[fits]), vectors, ids.keep(fits), of_hypotheses[fits])
