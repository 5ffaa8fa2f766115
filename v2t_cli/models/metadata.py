"""v2t.json: what a checkpoint says about itself, and the encoder it belongs to. Read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line, to_line
from v2t_cli.io.atomic import settle
from v2t_cli.models.encoder import EncoderIdentity

INFO = "v2t.json"


FORMAT: Literal[1] = 1


class AdapterInfo(BaseModel):
    kind: str
    tokens: int


class DecoderInfo(BaseModel):
    model: str | None  # None: trained from scratch
    eos_token: str
    pad_token: str


class LengthInfo(BaseModel):
    min_chars: int
    max_chars: int
    max_tokens: int  # of the longest training text, the end included


class DataInfo(BaseModel):
    sha256: str
    source: str | None = None
    texts: int
    held_out: int
    seed: int | None = None  # of the split into training and held-out texts


class TrainingInfo(BaseModel):
    steps: int
    epochs: float
    minutes: float
    finished: bool


class CorrectionInfo(BaseModel):
    """The second run of a training, in which the decoder learned to correct hypotheses; epochs over all of these."""

    source: str | None = None
    hypotheses: int
    steps: int
    epochs: float
    minutes: float
    finished: bool


class CorrectionScores(BaseModel):
    """On the held-out texts that the inverter got wrong: nats per token given the vector, and given its hypothesis besides."""

    texts: int
    loss: float
    corrected_loss: float


class Scores(BaseModel):
    """On the held-out texts: nats per token, the end of the text counted as one."""

    texts: int
    loss: float
    perplexity: float
    correction: CorrectionScores | None = None


class CheckpointInfo(BaseModel):
    """What v2t.json says."""

    format: Literal[1] = FORMAT
    dim: int
    encoder: EncoderIdentity | None
    adapter: AdapterInfo
    decoder: DecoderInfo
    lengths: LengthInfo
    data: DataInfo
    training: TrainingInfo
    correction: CorrectionInfo | None = None  # None: the checkpoint does not correct
    held_out: Scores | None
    versions: dict[str, str]


def is_checkpoint(folder: Path) -> bool:
    settle(folder)
    return (folder / INFO).is_file()


def read_info(folder: Path) -> CheckpointInfo:
    """Read v2t.json. Raises RequestError for a folder that is not a checkpoint of ours."""
    path = folder / INFO
    settle(folder)
    if not folder.is_dir():
        raise RequestError(f"{folder}: no such checkpoint folder; make one with v2t train, or name one with --checkpoint")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(info, dict) and isinstance(info.get("format"), int) and info["format"] > FORMAT:
            raise RequestError(f"{path}: format {info['format']} is newer than this v2t, which reads {FORMAT}; upgrade v2t")
        return CheckpointInfo.model_validate(info)
    except FileNotFoundError:
        raise RequestError(f"{folder}: not a v2t checkpoint (it has no {INFO}); make one with v2t train") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{path}: not a valid {INFO}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not a valid {INFO}: {one_line(error)}") from None


def model_card(info: CheckpointInfo, picture: str | None = None) -> str:
    """Markdown that says what the checkpoint reads, how it was made, how good it is, how to use it, and what it may give away.

    picture: the file beside it that shows the losses.
    """
    encoder = _public(info.encoder.name) if info.encoder else "vectors made elsewhere"
    prompt = f", prompt `{_cell(info.encoder.prompt)}`" if info.encoder and info.encoder.prompt else ""
    revision = f", revision `{info.encoder.revision}`" if info.encoder and info.encoder.revision else ""
    decoder = _public(info.decoder.model) if info.decoder.model else "a GPT-2 from scratch"
    source = f"{_cell(info.data.source)}. " if info.data.source else ""
    embed = "v2t embed texts.txt --checkpoint THIS_FOLDER -o vecs.npy\n    " if info.encoder else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [v2t, embedding-inversion]
---

# Text from vectors of {encoder}

Writes back the sentence that a sentence vector was made from, with v2t:

    {embed}v2t decode vecs.npy --checkpoint THIS_FOLDER

| | |
|---|---|
| vectors | {encoder}{revision}{prompt}: {info.dim} numbers |
| decoder | {decoder} |
| adapter | {info.adapter.kind}, {info.adapter.tokens} prefix position(s) |
| texts | {source}{info.data.texts - info.data.held_out:,} trained on, {info.data.held_out:,} held out |
| their length | {info.lengths.min_chars} to {info.lengths.max_chars} characters, at most {info.lengths.max_tokens} tokens |
| training | {_course(info.training)} |
| versions | {", ".join(f"{name} {version}" for name, version in info.versions.items())} |

{_scores(info)}{f"{chr(10)}![The loss by step]({picture}){chr(10)}" if picture else ""}{_correction(info)}
## Limits

What it was not trained on, longer texts and other languages or kinds of text, it reads worse: it then writes something that
means nearly the same, or nonsense. The cosine that `v2t decode` gives beside a text says how far to trust it.

## What it may give away

Whoever has this checkpoint and vectors of that encoder can read much of what they were made from. A language model may also
repeat texts that it was trained on{_kept(info)}.
"""


def _public(name: str) -> str:
    """A folder of the author's says nothing to the reader, but for its last part."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) else name


def _cell(text: str) -> str:
    """In a table of Markdown, whose cells end with the line and at a bar."""
    return to_line(text).replace("|", "\\|")


def _course(part: TrainingInfo | CorrectionInfo) -> str:
    unfinished = "" if part.finished else ", not finished"
    return f"{part.epochs:.2f} epochs, {part.steps:,} steps, {part.minutes:.1f} minutes{unfinished}"


def _scores(info: CheckpointInfo) -> str:
    if not info.held_out:
        return "No texts were held out, or they were not scored yet: `v2t eval` measures it on texts of yours.\n"
    rows = [f"| loss, nats a token | {info.held_out.loss:.4f} |", f"| perplexity | {info.held_out.perplexity:.2f} |"]
    if info.held_out.correction:
        of_wrong = info.held_out.correction
        rows.append(f"| loss on the {of_wrong.texts:,} that it gets wrong | {of_wrong.loss:.4f} |")
        rows.append(f"| the same, given its hypothesis | {of_wrong.corrected_loss:.4f} |")
    heading = f"| on {info.held_out.texts:,} held-out texts | |\n|---|---|\n"
    return heading + "\n".join(rows) + "\n\n`v2t eval` gives the rest: exact match, BLEU, chrF, cosine.\n"


def _correction(info: CheckpointInfo) -> str:
    if not info.correction:
        return ""
    part = info.correction
    source = f" Those were made from: {part.source}." if part.source not in (None, info.data.source) else ""
    return f"\nIt also learned to correct what it writes, from {part.hypotheses:,} wrong texts ({_course(part)}).{source}\n"


def _kept(info: CheckpointInfo) -> str:
    return f", and `held_out.txt` beside this card holds {min(info.data.held_out, 2000):,} of the others" if info.data.held_out else ""
