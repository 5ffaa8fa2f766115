"""v2t.json: what a checkpoint says about itself, and the encoder it belongs to. Read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from v2t_cli.config import EncoderConfig
from v2t_cli.console import log
from v2t_cli.encoder import Encoder, EncoderIdentity, open_encoder
from v2t_cli.errors import RequestError, one_line
from v2t_cli.files import settle

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


def checkpoint_encoder(info: CheckpointInfo, named: str | None, base: EncoderConfig, device: str, needed: bool = False) -> Encoder | None:
    """The encoder that belongs to a checkpoint, checked by the probe vector.

    named: one that the user insists on; base: the settings that the checkpoint leaves open. Without a name, and unless
    it is needed, an encoder that cannot be had gives None and a note: texts are then chosen by log-probability alone.

    Raises RequestError for an encoder that is not the checkpoint's, naming both.
    """
    own = info.encoder
    if named is None and own is None:
        if needed:
            raise RequestError("the checkpoint was trained on vectors from elsewhere and knows no encoder; name one with --encoder")
        log.info("the checkpoint knows no encoder: no cosine, no re-ranking (--encoder names one)")
        return None
    config = own.config(base) if own else base
    if named is not None:
        config = config.model_copy(update={"model": named, "revision": None})
    try:
        encoder = open_encoder(config, device)
    except RequestError as error:
        if named is not None or needed:
            raise
        log.warning(f"no cosine and no re-ranking, the texts are chosen by log-probability: {error}")
        return None
    if own:
        own.check(encoder.identity, "the checkpoint")
    elif encoder.identity.dim != info.dim:
        raise RequestError(f"encoder '{named}' makes vectors of {encoder.identity.dim} numbers, the checkpoint reads {info.dim}")
    return encoder
