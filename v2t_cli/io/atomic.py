"""Output files that are either complete or absent."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError

_ARRIVED = ".arrived"
_GONE = ".gone"  # marks a file to delete


def check_target(path: str | Path) -> Path:
    """The absolute path of a file to write. Links are followed: the target is replaced.

    Raises RequestError for a folder, and for links that lead in a circle.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Path(path).resolve()
    except OSError as error:
        raise RequestError(f"{path}: cannot be written: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        raise RequestError(f"{path}: is a folder; expected a file name")
    return Path(path).resolve() if stat.S_ISREG(mode) else Path(path)  # the link to a pipe of the shell leads to no path


def refuse_input(output: str | Path, *inputs: str | None) -> None:
    """Raise RequestError if the output, `-` for stdout, is one of the inputs, `-` for stdin, by whatever name, or lies in one.

    A store may be a folder.
    """
    target = _status(output, sys.stdout)
    for path in filter(None, inputs):
        source = _status(path, sys.stdin)
        # A terminal or /dev/null may be both.
        if target and source and os.path.samestat(target, source) and (stat.S_ISREG(target.st_mode) or stat.S_ISFIFO(target.st_mode)):
            raise RequestError(f"{output}: is also the input, which would be lost; choose another output")
        if output != "-" and source and stat.S_ISDIR(source.st_mode) and _lies_in(output, path):
            raise RequestError(f"{output}: lies in the input folder {path}, which must not change; choose another output")


def _lies_in(path: str | Path, folder: str) -> bool:
    """Whether a file lies in a folder or below it, or a link to it does."""
    link = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return any(Path(place).is_relative_to(os.path.realpath(folder)) for place in (link, os.path.realpath(path)))


def _status(path: str | Path, stream: Any) -> os.stat_result | None:
    """Of a file, or of the stream that `-` stands for; None if there is no such file."""
    try:
        return os.fstat(stream.fileno()) if path == "-" else os.stat(path)
    except (AttributeError, OSError, ValueError):
        return None


def obstacle(folder: Path) -> str | None:
    """Why no file can be created in a folder, which need not exist yet; None if nothing is in the way."""
    place = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not place.is_dir():
        return f"{place} is a file"
    return None if os.access(place, os.W_OK) else f"{place} is not writable"


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends without an error, and disappears otherwise.

    Parent folders are created. The new file may be read by whom the old one could be. Raises RequestError if it cannot be written.
    """
    path = check_target(path)
    if path.exists() and not path.is_file():  # /dev/null or a pipe, which cannot be replaced
        with tempfile.TemporaryFile() as stream:
            yield stream
            stream.seek(0)
            with open(path, "wb") as out:
                shutil.copyfileobj(stream, out)
        return
    try:
        make_folder(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".v2t-")  # not the file's name, which may be as long as names can be
    except OSError as error:
        raise RequestError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
        set_mode(temporary, path)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def make_folder(path: Path) -> None:
    """Create a folder where there is none, and say so: its name may be a slip. Raises OSError."""
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        log.info(f"{path}: new folder")


def set_mode(temporary: str | Path, target: str | Path) -> None:
    """Give a temporary file the permissions of the file that it replaces, or those that open() would give."""
    try:
        mode = stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    os.chmod(temporary, mode)


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
