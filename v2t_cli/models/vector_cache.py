"""The cache of vectors: texts that are needed again and again are embedded once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import ALONE
from v2t_cli.io.resumable import ResumableVectors
from v2t_cli.io.signature import Signature
from v2t_cli.io.texts import fingerprint
from v2t_cli.models.encoder import CHUNK_TEXTS, Encoder, embed_chunks


def cache_folder(named: str | None) -> Path:
    """The folder for embedded texts, created if need be: the one that the configuration names, or the user's own."""
    folder = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "v2t")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be used as the vector cache (data.cache): {error.strerror}") from None
    return folder


def cached_vectors(texts: list[str], encoder: Encoder, folder: str | None, what: str = "texts", track: Track = silent) -> Path:
    """The .npy file with the vectors of the texts, float32 (len(texts), dim); it is written now unless an earlier run did.

    folder: as for `cache_folder`. what: names the texts in messages.
    """
    from filelock import FileLock

    sha256, identity = fingerprint(texts).sha256, encoder.identity
    name = f"{sha256} {identity.name} {identity.prompt} {identity.normalize}"
    signature = Signature(settings={"texts": sha256, **identity.model_dump(include={"prompt", "normalize"})}, encoder=identity)
    path = cache_folder(folder) / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.npy"
    # The lock lets several runs, and the processes of one, embed the same texts only once.
    with FileLock(path.with_suffix(".lock")):
        # The name of an encoder says little about what its folder holds today: its probe vector decides.
        if path.exists() and _is_made_by(path.with_suffix(".json"), signature):
            log.debug(f"using cached vectors from {path}")
            return path
        for outdated in (path, path.with_suffix(".part")):  # the latter of version 0.1.0
            outdated.unlink(missing_ok=True)
        path.with_suffix(".json").write_text(signature.model_dump_json(), encoding="utf-8")
        _embed_into(path, texts, encoder, signature, what, track)
        log.info(f"embedded {len(texts):,} {what}; cached in {path}")
    return path


def _embed_into(path: Path, texts: list[str], encoder: Encoder, signature: Signature, what: str, track: Track) -> None:
    """Embed the texts that an interrupted run of the same signature has not embedded."""
    hint = f"to embed the rest of the {what}, run the same command again"
    shape = len(texts), encoder.identity.dim
    with ResumableVectors(path, ALONE, shape, resume=True, overwrite=True, hint=hint) as parts:
        blocks = parts.begin(len(texts), CHUNK_TEXTS, signature)
        left = sum(map(len, blocks))
        log.info(f"embedding {left:,} {what}")
        with track(f"embedding {what}", left) as advance:
            chunks = embed_chunks(encoder, (texts[block.start : block.stop] for block in blocks), advance=advance)
            for vectors, block in zip(chunks, blocks):  # in this order, so that `chunks` runs to its end and reports cut texts
                parts.write_vectors(block.start, vectors)
        parts.finish()


def _is_made_by(path: Path, signature: Signature) -> bool:
    try:
        Signature.model_validate_json(path.read_bytes()).check(signature, str(path))
    except (OSError, ValueError, RequestError):
        return False
    return True
