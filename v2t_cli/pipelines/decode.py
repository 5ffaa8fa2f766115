"""`v2t decode`: a file or store of vectors to a file of texts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from v2t_cli.core import console, streams
from v2t_cli.core.config import Config
from v2t_cli.core.one_line import in_order
from v2t_cli.core.processes import launched
from v2t_cli.core.types import Format
from v2t_cli.decoding.decode import check_width, decode, search_settings
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.atomic import refuse_input, replacing
from v2t_cli.io.resumable import ResumableLines, is_resumable
from v2t_cli.io.signature import Signature
from v2t_cli.io.stores.batch import Columns
from v2t_cli.io.vectors import grid, open_vectors
from v2t_cli.models.checkpoint import open_checkpoint
from v2t_cli.models.metadata import read_info
from v2t_cli.pipelines.formats import formatter, header


def decode_file(
    vectors: str,
    output: str,
    config: Config,
    checkpoint: Path,
    encoder: str | None = None,
    form: Format = "text",
    resume: bool = False,
    overwrite: bool = False,
    column: str | None = None,
) -> None:
    """Decode a .npy of shape (rows, dim), or a store; write one line per row, in order. `-` is stdin or stdout.

    encoder: the one that the user named, in place of the checkpoint's own. resume, overwrite: as in ResumableLines.
    column: the one of a store that holds the vectors.
    Raises RequestError for vectors, checkpoints, encoders and settings that do not fit together.
    """
    search = resolve_search(config.decode)
    refuse_input(output, vectors)
    line, on_terminal = formatter(form, search.candidates), output == "-" and streams.to_terminal()
    with ExitStack() as stack:
        processes, device = stack.enter_context(launched(config.device))
        resumable = is_resumable(vectors, output, processes, resume, overwrite)
        reader = processes.on_all(lambda: stack.enter_context(open_vectors(vectors, Columns(column), console.progress_bar)))
        check_width(read_info(checkpoint), reader.dim, reader.name)
        digest = reader.digest(processes)  # reads, and so checks, all values before a model is loaded in vain
        opened = open_checkpoint(checkpoint, config, device, encoder, "optional" if search.rerank else "none")
        fitted = fit(opened, search, config.data.cache, console.progress_bar)
        size = reader.fitting(fitted.batch_size)
        if resumable:
            parts = stack.enter_context(ResumableLines(output, processes, resume, overwrite))
            settings = {"vectors": digest[:12], "format": form, "seed": config.seed, **search_settings(opened, fitted)}
            if form != "text" and reader.ids is not None:
                settings["ids"] = reader.ids.digest()[:12]
            signature = Signature(settings=settings, encoder=opened.encoder.identity if opened.encoder else None)
            blocks = parts.begin(reader.rows, size, signature, header(form, reader.ids is not None))
            out: ResumableLines | _Stream = parts
        else:
            out = _Stream(streams.stdout() if output == "-" else stack.enter_context(replacing(output)))
            out.write(0, header(form, reader.ids is not None))
            blocks = grid(reader.rows, size)
        # On a terminal the rows themselves show the progress.
        track = console.silent if on_terminal else console.progress_bar
        advance = stack.enter_context(track("decoding", sum(map(len, blocks))))
        for row in decode(opened, reader.blocks(blocks), fitted, config.seed, processes, advance=advance):
            written = line(row, reader.ids[row.index] if reader.ids is not None else None)
            out.write(row.index, [in_order(written) if on_terminal else written])
        out.finish()


class _Stream:
    """Lines that are written as they come: to stdout, or to what is no regular file, such as /dev/null."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def write(self, first: int, lines: list[str]) -> None:
        self._stream.writelines(f"{line}\n".encode() for line in lines)
        self._stream.flush()

    def finish(self) -> None:
        pass
