"""Output files that are whole or not there."""

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


_GONE = ".gone"  # behind the name of a file that has no successor


def check_target(path: str | Path) -> Path:
    """The absolute path of a file to write: a link stays, the file it leads to is replaced. Raises RequestError for a folder."""
    if Path(path).is_dir():
        raise RequestError(f"{path}: is a folder, expected the name of a file to write")
    return Path(path).resolve()


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Parent folders are created. Raises RequestError where the place cannot be written.
    """
    path = check_target(path)
    if path.exists() and not path.is_file():  # /dev/null, a named pipe: nothing that could be replaced
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
        open_to_others(temporary)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def open_to_others(path: str | Path) -> None:
    """Give a file that was made for its owner alone, as temporary ones are, the permissions that open() would give."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def move_in(new: Path, folder: Path, gone: Iterable[str] = ()) -> None:
    """Let all files of the folder `new`, on the same disk, take their places in `folder`, and those named in `gone` leave it.

    At once: from its renaming on they count as there, and whoever is killed on the way leaves the rest to `settle`.
    """
    for name in gone:
        (new / f"{name}{_GONE}").touch()
    os.replace(new, folder / _ARRIVED)
    settle(folder)


def settle(folder: Path) -> None:
    """Bring what `move_in` has left on the way to its place. Does nothing where there is nothing."""
    arrived = folder / _ARRIVED
    if arrived.is_symlink() or not arrived.is_dir():  # a link would bring files from elsewhere
        return
    with suppress(FileNotFoundError):  # another process is at it too
        for path in arrived.iterdir():
            with suppress(FileNotFoundError):
                if path.suffix == _GONE:
                    (folder / path.stem).unlink(missing_ok=True)
                    path.unlink()
                else:
                    os.replace(path, folder / path.name)
        arrived.rmdir()
