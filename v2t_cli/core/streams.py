"""The standard streams, of which the shell may have closed some (`>&-`, `<&-`)."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from v2t_cli.core.errors import RequestError


def reserve() -> None:
    """Occupy the numbers of closed streams, or the next file to be opened would get them, and what libraries print."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def stdin() -> BinaryIO:
    """Raises RequestError if it is closed."""
    if sys.stdin is None:
        raise RequestError("stdin: is closed; name a file")
    return sys.stdin.buffer


def stdout() -> BinaryIO:
    """Raises RequestError if it is closed."""
    if sys.stdout is None:
        raise RequestError("stdout: is closed; send it to a file or a pipe")
    return sys.stdout.buffer


def to_terminal() -> bool:
    """Whether stdout is shown on a terminal. Raises RequestError if it is closed."""
    stdout()
    return sys.stdout.isatty()
