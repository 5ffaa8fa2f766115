"""`v2t decode`: a file or store of vectors to a file of texts, and to an HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from v2t_cli.core import console, streams
from v2t_cli.core.config import Config
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import in_order
from v2t_cli.core.processes import launched
from v2t_cli.core.types import Format
from v2t_cli.decoding.decode import decode, search_settings
from v2t_cli.decoding.search import FittedSearch, Search, fit, resolve_search
from v2t_cli.evaluation.calibration import calibrate
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.evaluation.leak import Leak, Tally
from v2t_cli.evaluation.leak_report import leak_facts, leak_report
from v2t_cli.evaluation.redaction import Redactor
from v2t_cli.io.atomic import check_target, refuse_input, replacing
from v2t_cli.io.resumable import ResumableLines, is_resumable
from v2t_cli.io.signature import Signature
from v2t_cli.io.stores.batch import Columns
from v2t_cli.io.vectors import Block, grid, open_vectors
from v2t_cli.models.checkpoint import Checkpoint, EncoderUse, open_checkpoint
from v2t_cli.models.forms import LEARNED, read_form
from v2t_cli.models.metadata import HELD_OUT
from v2t_cli.models.origin import choose_checkpoint
from v2t_cli.pipelines.formats import formatter, header, read_rows


def decode_file(
    vectors: str,
    output: str,
    config: Config,
    checkpoints: Sequence[Path],
    encoder: str | None = None,
    form: Format = "text",
    resume: bool = False,
    overwrite: bool = False,
    column: str | None = None,
    report: Path | None = None,
    redact: bool = False,
) -> None:
    """Decode a .npy of shape (rows, dim), or a store; write one line per row, in order. `-` is stdin or stdout.

    checkpoints: of several, the one that the vectors fit is taken. encoder: the one that the user named, in place of its own. resume,
    overwrite: as in ResumableLines. column: the one of a store that holds the vectors. report: the HTML page to write on what the rows give
    away; redact: mask names, numbers and the like in the texts that it shows.

    Raises RequestError for vectors, checkpoints, encoders and settings that do not fit together.
    """
    search = resolve_search(config.decode)
    refuse_input(output, vectors)
    if report:
        _check_report(report, vectors, output, checkpoints, search)
    line, on_terminal = formatter(form, search.candidates), output == "-" and streams.to_terminal()
    with ExitStack() as stack:
        processes, device = stack.enter_context(launched(config.device))
        resumable = is_resumable(vectors, output, processes, resume, overwrite)
        if report and resumable and form != "jsonl":
            raise RequestError(f"--report reads the rows back from {output}, which needs --format jsonl")
        # Fails now, on all processes, if it cannot be written.
        page = processes.on_all(lambda: stack.enter_context(replacing(report)) if report and processes.is_main else None)
        reader = processes.on_all(lambda: stack.enter_context(open_vectors(vectors, Columns(column), console.progress_bar)))
        checkpoint, info, stored = choose_checkpoint(checkpoints, reader.array, reader.name, config.decode.form)
        if report and info.alignment and not info.alignment.held_out:
            raise RequestError(f"{checkpoint}: keeps no pairs to measure how sure a row is; align again, with 13 pairs or more")
        digest = reader.digest(processes)  # reads, and so checks, all values before a model is loaded in vain
        use: EncoderUse = "required" if report or stored in LEARNED else "optional" if search.rerank else "none"
        opened = open_checkpoint(checkpoint, config, device, encoder, use)
        fitted = fit(opened, search, config.data.cache, console.progress_bar)
        opened, restore = read_form(opened, reader.array, stored)
        size = reader.fitting(fitted.batch_size)
        writing = stack.enter_context(ExitStack())
        if resumable:
            parts = writing.enter_context(ResumableLines(output, processes, resume, overwrite))
            settings = {"vectors": digest[:12], "format": form, "seed": config.seed, **search_settings(opened, fitted)}
            if form != "text" and reader.ids is not None:
                settings["ids"] = reader.ids.digest()[:12]
            signature = Signature(settings=settings, encoder=opened.encoder.identity if opened.encoder else None)
            blocks = parts.begin(reader.rows, size, signature, header(form, reader.ids is not None))
            out: ResumableLines | _Stream = parts
        else:
            out = _Stream(streams.stdout() if output == "-" else writing.enter_context(replacing(output)), patient=report is not None)
            out.write(0, header(form, reader.ids is not None))
            blocks = grid(reader.rows, size)
        tally = None
        if report:
            calibration = calibrate(opened, fitted, config.seed, console.progress_bar, processes)
            tally = Tally(calibration, EntityFinder(opened.lexicon), config.seed)
        # On a terminal the rows themselves show the progress.
        track = console.silent if on_terminal else console.progress_bar
        advance = writing.enter_context(track("decoding", sum(map(len, blocks))))
        restored = (Block(first, restore(given)) for first, given in reader.blocks(blocks))
        for row in decode(opened, restored, fitted, config.seed, processes, advance=advance):
            if reader.ids is not None:
                row = replace(row, id=reader.ids[row.index])
            out.write(row.index, [in_order(line(row)) if on_terminal else line(row)])
            if tally and not resumable:
                tally.add(row)
        out.finish()
        writing.close()
        if tally and page:
            if resumable:  # with the rows of other processes and of earlier runs
                _count(output, reader.rows, tally)
            unchecked = isinstance(out, ResumableLines) and out.untouched
            page.write(_page(tally.result(), opened, fitted, reader.name, digest, unchecked, redact))
    if page:
        console.log.info(f"{report}: written")
    if isinstance(out, _Stream) and out.broken:
        raise out.broken


def _check_report(report: Path, vectors: str, output: str, checkpoints: Sequence[Path], search: Search) -> None:
    """Raise RequestError, before anything is loaded, if there can be no such page beside the output."""
    refuse_input(report, vectors, *(str(checkpoint / HELD_OUT) for checkpoint in checkpoints))
    if output != "-" and check_target(report) == check_target(output):
        raise RequestError(f"{report}: is also the output of the rows; choose another name for the report")
    if not search.rerank:
        raise RequestError("--report needs the cosine of each row, which decode.rerank=false leaves out")


def _page(leak: Leak, opened: Checkpoint, search: FittedSearch, vectors: str, digest: str, unchecked: bool, redact: bool) -> bytes:
    """vectors, digest: as in leak_facts. unchecked: whether all rows are those of an earlier run."""
    facts = leak_facts(leak, vectors, digest, opened.folder, opened.info, search, redact)
    if unchecked:
        facts["rows"] = "of an earlier run; whether it had this checkpoint and search was not checked"
    return leak_report(Redactor(opened.lexicon).leak(leak) if redact else leak, facts, redact, opened.alignment is not None).encode()


def _count(path: str, rows: int, tally: Tally) -> None:
    """Add the rows of a finished output to a tally. Raises RequestError if they are not those of this run."""
    found = 0
    with console.progress_bar("counting what the rows hold", rows) as advance:
        for row in read_rows(path):
            if row.best.cosine is None:
                raise RequestError(f"{path}: row {row.index} has no cosine, which --report needs; --overwrite decodes again")
            tally.add(row)
            found += 1
            advance(1)
    if found != rows:
        raise RequestError(f"{path}: holds {found:,} rows for {rows:,} vectors; --overwrite decodes again")


class _Stream:
    """Lines that are written as they come: to stdout, or to what is no regular file, such as /dev/null.

    broken: the error, if the reader left early (`| head -1`) and the stream is patient: it then goes on without a reader.
    """

    def __init__(self, stream: BinaryIO, patient: bool = False):
        self._stream, self._patient = stream, patient
        self.broken: BrokenPipeError | None = None

    def write(self, first: int, lines: list[str]) -> None:
        if self.broken:
            return
        try:
            self._stream.writelines(f"{line}\n".encode() for line in lines)
            self._stream.flush()
        except BrokenPipeError as error:
            if not self._patient:
                raise
            self.broken = error

    def finish(self) -> None:
        pass
