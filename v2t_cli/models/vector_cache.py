"""The cache of vectors: texts that are needed again and again are embedded once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from v2t_cli.core.console import Track, log, silent
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.processes import ALONE
from v2t_cli.io.atomic import replacing
from v2t_cli.io.hashes import file_hash, sealed, unsealed
from v2t_cli.io.resumable import ResumableVectors
from v2t_cli.io.signature import Signature
from v2t_cli.io.texts import fingerprint
from v2t_cli.models.encoder import CHUNK_TEXTS, Encoder, embed_chunks

HASH = "vectors"  # the key of a description that holds the hash of the .npy


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
    described = path.with_suffix(".json")
    # The lock lets several runs, and the processes of one, embed the same texts only once.
    with FileLock(path.with_suffix(".lock")):
        if path.exists():
            if (damage := _damage(path, described, signature)) is None:
                log.debug(f"using cached vectors from {path}")
                return path
            if damage:
                log.warning(f"{path}: {damage}; embedding the {what} anew")
        for outdated in (path, path.with_suffix(".part"), described):  # .part: of version 0.1.0
            outdated.unlink(missing_ok=True)
        _embed_into(path, described, texts, encoder, signature, what, track)
        log.info(f"embedded {len(texts):,} {what}; cached in {path}")
    return path


def _embed_into(path: Path, described: Path, texts: list[str], encoder: Encoder, signature: Signature, what: str, track: Track) -> None:
    """Embed the texts that an interrupted run of the same signature has not embedded. described: the file that will say what they are."""
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
        with replacing(described) as stream:  # before the vectors are there: whatever ends this run, they are not embedded twice
            stream.write(sealed({**signature.model_dump(mode="json"), HASH: file_hash(parts.path)}))
        parts.finish()


def _damage(path: Path, described: Path, signature: Signature) -> str | None:
    """Why cached vectors cannot be used: "" if they are of another encoder, None if they can."""
    try:
        description = unsealed(described.read_bytes())
        # The name of an encoder says little about what its folder holds today: its probe vector decides.
        Signature.model_validate(description).check(signature, str(described))
        return None if description[HASH] == file_hash(path) else "is not what was cached there"
    except RequestError:
        return ""
    except (OSError, ValueError, KeyError) as error:
        return f"cannot be checked: {one_line(error)}"
