"""Metadata of a checkpoint: v2t.json, the model card, and the names of its files. Read without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError, field_validator, model_validator

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line, to_line
from v2t_cli.io.atomic import settle
from v2t_cli.io.hashes import differing, file_hashes
from v2t_cli.io.signature import EncoderIdentity
from v2t_cli.io.vectors import MAX_DIM

FORMAT: Literal[1] = 1
INFO, ADAPTER, HELD_OUT, LEXICON, CARD = "v2t.json", "adapter.safetensors", "held_out.txt", "lexicon.txt", "README.md"
LOG, PICTURE = "log.jsonl", "loss.png"  # of a training
TRACKED = "v2t"  # the folder that TensorBoard reads
RESUME = ".resume"  # the folder that `train --resume` reads
KEPT_HELD_OUT = 2000  # held-out texts that are stored and measured


MAX_TOKENS = 2**16  # prefix positions, far more than a decoder has


class AdapterInfo(BaseModel):
    kind: str
    tokens: int = Field(ge=1, le=MAX_TOKENS)


class DecoderInfo(BaseModel):
    model: str | None  # None: trained from scratch
    eos_token: str
    pad_token: str


class LengthInfo(BaseModel):
    min_chars: int
    max_chars: int
    max_tokens: int  # of the longest training text, joined ones and the end-of-text included


class DataInfo(BaseModel):
    sha256: str
    source: str | None = None
    texts: int
    held_out: int
    seed: int | None = None  # of the split into training and held-out texts


class TrainingInfo(BaseModel):
    steps: int
    epochs: FiniteFloat
    minutes: FiniteFloat
    finished: bool


class AlignmentInfo(BaseModel):
    """Of a map from other vectors into the space that the checkpoint was trained on; see alignment.py."""

    dim: int = Field(ge=1, le=MAX_DIM)  # of the other vectors
    kind: str
    pairs: int  # of texts and vectors that it was fitted to
    cosine: FiniteFloat  # mean, of other vectors that were mapped without having been fitted to, with the encoder's own
    held_out: int = 0  # of these pairs, whose texts are kept


class HeldOutScores(BaseModel):
    """On the held-out texts: nats per token, the end of the text counted as one."""

    texts: int
    loss: FiniteFloat
    perplexity: FiniteFloat


class CheckpointInfo(BaseModel):
    """The contents of v2t.json.

    dim: of the vectors that it was trained on; alignment: if it decodes other vectors; files: the hash of each file that belongs to
    it, empty in version 0.1.0.
    """

    format: Literal[1] = FORMAT
    dim: int = Field(ge=1, le=MAX_DIM)
    encoder: EncoderIdentity | None
    alignment: AlignmentInfo | None = None
    adapter: AdapterInfo
    decoder: DecoderInfo
    lengths: LengthInfo
    data: DataInfo
    training: TrainingInfo
    held_out: HeldOutScores | None
    versions: dict[str, str]
    files: dict[str, str] = {}

    @field_validator("files")
    @classmethod
    def files_lie_in_the_folder(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if Path(name).name != name:
                raise ValueError(f"'{name}' is not the name of a file in the folder")
        return files

    @model_validator(mode="after")
    def encoder_has_as_many_dimensions(self) -> CheckpointInfo:
        if self.encoder and self.encoder.dim != self.dim:
            raise ValueError(f"dim is {self.dim}, but encoder.dim is {self.encoder.dim}")
        return self

    @property
    def width(self) -> int:
        """Numbers of a vector that it decodes."""
        return self.alignment.dim if self.alignment else self.dim

    @property
    def encoder_name(self) -> str:
        """Of the vectors that it decodes, for people; that of vectors made elsewhere is unknown."""
        return self.encoder.name if self.encoder and not self.alignment else "an unknown encoder"


def is_checkpoint(folder: Path) -> bool:
    settle(folder)
    return (folder / INFO).is_file()


def read_info(folder: Path) -> CheckpointInfo:
    """Read v2t.json. Raises RequestError for a folder that is not a v2t checkpoint."""
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
        place = ".".join(map(str, first["loc"]))
        raise RequestError(f"{path}: not a valid {INFO}: {place and f'{place}: '}{first['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not a valid {INFO}: {one_line(error)}") from None


def hashes_of(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The hashes of the files that belong to a checkpoint: all that decoding or evaluating reads, besides v2t.json.

    known: hashes that need not be computed again.
    """
    kinds = {".safetensors", ".json", ".txt", ".model"}
    names = {path.name for path in folder.iterdir() if path.suffix in kinds and path.name != INFO}
    return {**known, **file_hashes(folder, names - known.keys())}


def check_files(folder: Path, info: CheckpointInfo, *names: str) -> None:
    """Raise RequestError, naming the file, if one is not what was saved with v2t.json.

    names: the files to check; if there are none, all but the held-out texts, which only evaluation reads, and who publishes a
    checkpoint may remove. Without hashes, as in version 0.1.0, nothing is checked.
    """
    wanted = {name: known for name, known in info.files.items() if (name in names if names else name != HELD_OUT)}
    if name := differing(folder, wanted):
        path = folder / name
        if not path.exists():
            raise RequestError(f"{path}: missing; the checkpoint is incomplete; copy the folder again")
        advice = f"copy the folder again; if you changed this file on purpose, remove its line from 'files' in {INFO}"
        raise RequestError(f"{path}: damaged, or of another checkpoint: it is not the file that {INFO} describes; {advice}")


def model_card(info: CheckpointInfo, pictured: bool = False) -> str:
    """The README.md of a checkpoint, in Markdown. pictured: whether a picture of the losses lies beside it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = PackageLoader("v2t_cli.models", ".")
    environment = Environment(loader=folder, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters.update(cell=_cell, public=_public, encoder=_encoder)
    kept = info.alignment.held_out if info.alignment else min(info.data.held_out, KEPT_HELD_OUT)
    return environment.get_template("card.md.jinja").render(info=info, picture=PICTURE if pictured else None, kept=kept)


def _public(name: str) -> str:
    """A model's name. Of a folder of the author's only the last part says something to the reader; the hub's cache has the name in it."""
    for part in Path(name).parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) else name


def _encoder(name: str) -> str:
    """An encoder's name: of a folder, what the card in it says."""
    try:
        card = (Path(name) / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return _public(name)
    body = card.partition("\n---")[2] if card.startswith("---") else card
    found = re.search(r"^# +(?:SentenceTransformer based on )?(\S.{0,99})$", body, re.MULTILINE)
    title = found[1].strip() if found else "SentenceTransformer"
    return _public(name if title == "SentenceTransformer" else title)


def _cell(text: str) -> str:
    """For a Markdown table, whose cells end with the line and at a bar."""
    return to_line(text).replace("|", "\\|")
