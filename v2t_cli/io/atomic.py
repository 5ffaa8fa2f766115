"""Output files that are either complete or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from v2t_cli.core.errors import RequestError

_ARRIVED = ".arrived"
_GONE = ".gone"  # marks a file to delete


def check_target(path: str | Path) -> Path:
    """The absolute path of a file to write. Links are followed: the target is replaced. Raises RequestError for a folder."""
    if Path(path).is_dir():
        raise RequestError(f"{path}: is a folder; expected a file name")
    return Path(path).resolve()


def obstacle(folder: Path) -> str | None:
    """Why no file can be created in a folder, which need not exist yet; None if nothing is in the way."""
    place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not place.is_dir():
        return f"{place} is a file"
    return None if os.access(place, os.W_OK) else f"{place} is not writable"


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends without an error, and disappears otherwise.

    Parent folders are created. Raises RequestError if the file cannot be written.
    """
    path = check_target(path)
    if path.exists() and not path.is_file():  # /dev/null or a named pipe, which cannot be replaced
        with tempfile.TemporaryFile() as stream:
            yield stream
            stream.seek(0)
            with open(path, "wb") as out:
                shutil.copyfileobj(stream, out)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RequestError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
        set_default_mode(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def set_default_mode(path: str | Path) -> None:
    """Give a temporary file, which only its owner may read, the permissions that open() would give."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def move_in(new: Path, folder: Path, gone: Iterable[str] = ()) -> None:
    """Move all files of the folder `new`, on the same disk, into `folder`, and remove those named in `gone` from it.

    A single rename commits the move. If the process is killed after it, `settle` finishes.
    """
    for name in gone:
        (new / f"{name}{_GONE}").touch()
    os.replace(new, folder / _ARRIVED)
    settle(folder)


def settle(folder: Path) -> None:
    """Finish what an interrupted `move_in` left over. Does nothing if there is nothing to finish."""
    arrived = folder / _ARRIVED
    if arrived.is_symlink() or not arrived.is_dir():  # a link would bring files from elsewhere
        return
    with suppress(FileNotFoundError):  # another process does the same
        for path in arrived.iterdir():
            with suppress(FileNotFoundError):
                if path.suffix == _GONE:
                    (folder / path.stem).unlink(missing_ok=True)
                    path.unlink()
                else:
                    os.replace(path, folder / path.name)
        arrived.rmdir()
