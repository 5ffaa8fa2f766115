"""Text files: one text a line, and what of them a model is trained on."""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from v2t_cli.errors import RequestError, one_line

MAX_LINE = 2**20  # bytes: longer ones are no sentences, and could fill the memory


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
                    raise RequestError(f"{name}, line {number}: more than {MAX_LINE:,} bytes; expected one sentence a line")
                if b"\0" in raw:
                    raise RequestError(f"{name}, line {number}: holds a NUL byte; expected UTF-8 text, one sentence a line")
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                yield line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise RequestError(f"{name}, line {number}: not UTF-8 ({error.reason}); convert the file first") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise RequestError(f"{name}: damaged .gz file after line {number}: {one_line(error)}") from None


def read_blocks(path: str, ranges: Iterable[range]) -> Iterator[list[str]]:
    """Yield the lines of these numbers, ascending, counted from 0. Raises RequestError as `read_lines` does."""
    lines, following = read_lines(path), 0
    for rows in ranges:
        yield list(islice(lines, rows.start - following, rows.stop - following))
        following = rows.stop


@dataclass(frozen=True)
class Survey:
    """What a file of texts is: its lines, and SHA-256 (hex) of them."""

    lines: int
    sha256: str


def survey(path: str) -> Survey:
    """Read a file to its end. Raises RequestError as `read_lines` does."""
    digest, lines = hashlib.sha256(), 0
    for text in read_lines(path):
        digest.update(text.encode() + b"\n")
        lines += 1
    return Survey(lines, digest.hexdigest())


def check_readable(path: str, way: str = "") -> None:
    """Raise RequestError for a file that cannot be opened: before a model is loaded for its sake. way: out of its absence."""
    with _open(path, way):
        pass


@contextmanager
def _open(path: str, way: str = "") -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        stream: Any = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file of texts{way}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    with stream:
        yield stream


@dataclass(frozen=True)
class Selection:
    """The lines that are kept for training, and how many fell to which filter."""

    rows: np.ndarray  # int64, ascending: kept lines of the file
    texts: list[str]  # the same lines' texts
    limits: tuple[int, int]  # characters that a text must and may have
    duplicates: int
    too_short: int
    too_long: int

    def __str__(self) -> str:
        shorter, longer = (
            f"{how} than data.{key} {limit}" for how, key, limit in zip(("shorter", "longer"), ("min_chars", "max_chars"), self.limits)
        )
        dropped = {"seen before": self.duplicates, shorter: self.too_short, longer: self.too_long}
        total = len(self.texts) + sum(dropped.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)
        return f"{len(self.texts):,} of {total:,} texts kept" + (f" (dropped: {reasons})" if reasons else "")


def select(lines: Iterable[str], min_chars: int, max_chars: int) -> Selection:
    """Keep the first of equal texts whose length in characters lies in min_chars … max_chars, both included."""
    rows, texts, seen = array("q"), [], set()
    duplicates = too_short = too_long = 0
    for row, text in enumerate(lines):
        if len(text) < min_chars or not text.strip():
            too_short += 1
        elif len(text) > max_chars:
            too_long += 1
        elif text in seen:
            duplicates += 1
        else:
            seen.add(text)
            rows.append(row)
            texts.append(text)
    return Selection(np.array(rows, dtype=np.int64), texts, (min_chars, max_chars), duplicates, too_short, too_long)


def split_held_out(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0 … count-1 into (training, held out), both ascending int64, the same for the same seed.

    Raises RequestError where a side that should hold something would be empty.
    """
    held = max(1, round(count * share)) if share else 0
    if count - held < 1:
        raise RequestError(f"data.texts: {count} usable texts cannot be split into training and {share:.0%} held out")
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def fingerprint(texts: Iterable[str]) -> str:
    """SHA-256 (hex) of the texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()
