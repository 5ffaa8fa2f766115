"""Temporary files, which nobody else sees, and the errors of the disk that holds them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedRandom

from v2t_cli.core.errors import V2TError


def temporary_file(stack: ExitStack) -> BufferedRandom:
    """A new file, to write and read. stack: closes it, and so deletes it."""
    file = tempfile.TemporaryFile()
    stack.callback(_discard, file)
    return file


def _discard(file: BufferedRandom) -> None:
    with suppress(OSError):  # on a full disk, closing writes once more: that error would hide the first, which was reported
        file.close()


@contextmanager
def copying(name: str) -> Iterator[None]:
    """Turn an error of the disk with the temporary files into a V2TError."""
    try:
        yield
    except OSError as error:
        where = f"cannot be copied to {tempfile.gettempdir()}: {error.strerror}"
        raise V2TError(f"{name}: {where}; TMPDIR names another folder") from None
