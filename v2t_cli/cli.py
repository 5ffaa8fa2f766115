"""The command line: four thin commands over plain functions. Typer makes a command's options from its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from v2t_cli import __version__
from v2t_cli import options as opt
from v2t_cli.boundary import Commands
from v2t_cli.core import console, streams
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import to_json
from v2t_cli.core.signals import StopRequest

if TYPE_CHECKING:
    from v2t_cli.evaluation.evaluate import Evaluation

app = typer.Typer(
    name="v2t",
    cls=Commands,
    help="""Turn sentence vectors back into text.

    Example, from texts to vectors and back:

    v2t embed texts.txt -o vecs.npy --checkpoint my-inverter

    v2t decode vecs.npy --checkpoint my-inverter

    v2t train creates a checkpoint. v2t eval measures how well it decodes.
    """,
    epilog="v2t --install-completion sets up your shell to complete commands and options.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"v2t {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command("embed")
def embed_command(
    texts: opt.TextsArgument,
    output: opt.VectorsOutput,
    encoder: opt.EncoderOption = None,
    checkpoint: opt.EmbedCheckpointOption = None,
    batch_size: opt.EncoderBatchOption = None,
    resume: opt.ResumeOption = False,
    overwrite: opt.OverwriteOption = False,
    device: opt.DeviceOption = None,
    trust_remote_code: opt.TrustOption = False,
    config: opt.ConfigOption = None,
    set_: opt.SetOption = None,
    quiet: opt.QuietOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Turn texts into vectors: a float32 .npy of shape (lines, dim), row i for line i.

    Example: v2t embed texts.txt -o vecs.npy --encoder usem3
    """
    typed = {"encoder.model": encoder, "encoder.batch_size": batch_size, "device": device}
    settings = opt.settings_of(config, set_, typed, trust_remote_code)
    opt.check_writable(output)
    from v2t_cli.pipelines.embed import embed_file

    embed_file(texts, output, settings, checkpoint, opt.encoder_of(encoder, set_, settings), resume, overwrite)


@app.command()
def train(
    texts: opt.TrainTextsOption = None,
    encoder: opt.TrainEncoderOption = None,
    output: opt.FolderOutput = None,
    resume: opt.ResumeOption = False,
    overwrite: opt.OverwriteOption = False,
    push_to_hub: opt.PushOption = None,
    device: opt.DeviceOption = None,
    trust_remote_code: opt.TrustOption = False,
    config: opt.ConfigOption = None,
    set_: opt.SetOption = None,
    quiet: opt.QuietOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Train an inverter on texts, and print the path of its checkpoint.

    Ctrl-C leaves a complete checkpoint; --resume continues from it.

    Example: v2t train --config cfg.yaml --texts my.txt --output my-inverter
    """
    typed = {"data.texts": texts or None, "encoder.model": encoder, "output": str(output) if output else None, "device": device}
    settings = opt.settings_of(config, set_, typed, trust_remote_code)
    from v2t_cli.io.texts import check_readable
    from v2t_cli.models.hub import check_push, push

    for file in settings.data.texts:  # before torch is loaded: the most common first mistake
        check_readable(file, "; name yours with --texts")
    if settings.data.vectors:
        opt.check_vectors(settings.data.vectors, settings.data.column)
    opt.check_writable(settings.output, folder=True)
    if push_to_hub:
        check_push(push_to_hub)
    console.quiet_libraries()
    from v2t_cli.training.callbacks import Callbacks, TrainingView
    from v2t_cli.training.train import train as run_training

    stop, view = StopRequest(), TrainingView()

    @contextmanager
    def stoppable() -> Iterator[StopRequest]:
        with stop.listening(), view.shown():
            yield stop

    result = run_training(settings, resume, overwrite, Callbacks(view.step, view.evaluation, view.save, stoppable, console.progress_bar))
    if console.is_main_process():
        print(result.checkpoint)
    if not result.finished:
        console.log.info(f"stopped; to continue, run the same command with --resume. {result.checkpoint} can already be used")
        raise typer.Exit(stop.exit_code)
    if push_to_hub and console.is_main_process():
        console.log.info(f"pushed to {push(result.checkpoint, push_to_hub)}")


@app.command("decode")
def decode_command(
    vectors: opt.VectorsArgument,
    checkpoint: opt.CheckpointsOption = None,
    output: opt.TextsOutput = "-",
    column: opt.ColumnOption = None,
    form: opt.FormOption = None,
    format_: opt.FormatOption = "text",
    report: opt.LeakReportOption = None,
    redact: opt.LeakRedactOption = False,
    quality: opt.QualityOption = None,
    strategy: opt.StrategyOption = None,
    candidates: opt.CandidatesOption = None,
    encoder: opt.EncoderOption = None,
    seed: opt.SeedOption = None,
    batch_size: opt.DecodeBatchOption = None,
    resume: opt.ResumeOption = False,
    overwrite: opt.OverwriteOption = False,
    device: opt.DeviceOption = None,
    trust_remote_code: opt.TrustOption = False,
    config: opt.ConfigOption = None,
    set_: opt.SetOption = None,
    quiet: opt.QuietOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Turn vectors back into texts, one line per row, in order.

    Example: v2t decode vecs.npy --checkpoint my-inverter --format jsonl
    """
    typed: dict[str, Any] = {"seed": seed, "device": device, "decode.quality": quality, "decode.strategy": strategy}
    typed |= {"decode.candidates": candidates, "decode.batch_size": batch_size, "decode.form": form}
    settings = opt.settings_of(config, set_, typed, trust_remote_code)
    if settings.decode.candidates > 1 and format_ != "jsonl":
        raise RequestError(f"{settings.decode.candidates} candidates need --format jsonl: {format_} has one text per vector")
    if redact and not report:
        raise RequestError("--redact needs --report: the decoded rows themselves are not masked")
    folders, named = opt.checkpoints_of(checkpoint, settings), opt.encoder_of(encoder, set_, settings)
    opt.check_vectors(vectors, column)
    opt.check_writable(output)
    if report:
        opt.check_writable(report)
    console.quiet_libraries()
    from v2t_cli.pipelines.decode import decode_file

    decode_file(vectors, output, settings, folders, named, format_, resume, overwrite, column, report, redact)


@app.command("eval")
def eval_command(
    checkpoint: opt.CheckpointOption = None,
    texts: opt.EvalTextsOption = None,
    vectors: opt.EvalVectorsOption = None,
    column: opt.ColumnOption = None,
    text_column: opt.TextColumnOption = None,
    form: opt.FormOption = None,
    train_texts: opt.BaselineOption = None,
    as_json: opt.JsonOption = False,
    report: opt.ReportOption = None,
    noise: opt.NoiseOption = True,
    redact: opt.RedactOption = False,
    quality: opt.QualityOption = None,
    encoder: opt.EncoderOption = None,
    device: opt.DeviceOption = None,
    trust_remote_code: opt.TrustOption = False,
    config: opt.ConfigOption = None,
    set_: opt.SetOption = None,
    quiet: opt.QuietOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Measure how well texts are recovered from their vectors.

    Example: v2t eval --checkpoint my-inverter --texts other.txt
    """
    settings = opt.settings_of(config, set_, {"device": device, "decode.quality": quality, "decode.form": form}, trust_remote_code)
    folder, named = opt.checkpoint_of(checkpoint, settings), opt.encoder_of(encoder, set_, settings)
    from v2t_cli.io.texts import check_readable

    streams.stdout()  # fails now if the scores cannot be written
    for path in filter(None, (texts, train_texts)):
        check_readable(path)
    if (column or text_column) and not vectors:
        raise RequestError(f"{'--column' if column else '--text-column'} belongs to --vectors, which is missing")
    if texts and text_column:
        raise RequestError("--texts and --text-column exclude each other: both name the texts behind the vectors")
    if vectors and not (texts or text_column):
        way = "--texts, the texts behind these vectors, or --text-column, if the store holds them"
        raise RequestError(f"--vectors needs {way}; to decode without texts, use v2t decode")
    if vectors:
        opt.check_vectors(vectors, column, text_column)
    if report:
        opt.check_writable(report)
    console.quiet_libraries()
    from v2t_cli.evaluation.tables import evaluation_tables
    from v2t_cli.io.stores.batch import Columns
    from v2t_cli.pipelines.evaluate import evaluate_files

    def show(result: Evaluation) -> None:
        print(to_json(result.as_dict()) if as_json else evaluation_tables(result), flush=True)

    evaluate_files(folder, settings, show, texts, vectors, train_texts, named, report, noise, redact, Columns(column, text_column))
