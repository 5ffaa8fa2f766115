"""Where rows go: to a file, made in parts by several processes and runs if need be, or to a stream as they come.

Beside a file that is made in parts there is a folder until it is whole: what the run is to be (run.json), and the rows that
are done. The file itself appears at the end, at once.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.processes import Processes
from v2t_cli.io.atomic import check_target, replacing
from v2t_cli.io.signature import check_unchanged
from v2t_cli.io.vectors import grid
from v2t_cli.models.encoder import EncoderIdentity

RUN, LOCK, WHOLE = "run.json", "lock", "whole"


ROWS = "rows-"  # and the number of the first


def in_parts(source: str, output: str, processes: Processes, resume: bool, overwrite: bool) -> bool:
    """Whether an output is made in parts: from a file, which can be read again, to a file, which can take its place at the end.

    Raises RequestError where it cannot be, but several processes or --resume ask for it.
    """
    target = Path(output)
    if Path(source).is_file() and output != "-" and (target.is_file() or target.is_dir() or not target.exists()):
        if resume and overwrite:
            raise RequestError("--resume and --overwrite exclude each other")
        if resume and not _parts(target) and target.is_file() and target.stat().st_mtime < Path(source).stat().st_mtime:
            raise RequestError(f"{output}: is there already, and older than {source}; --overwrite makes it anew")
        return True
    if source == "-" or Path(source).exists():  # else that is the mistake to tell
        for asked, what in ((resume, "--resume"), (overwrite, "--overwrite"), (processes.count > 1, "several processes")):
            if asked:
                raise RequestError(f"{what}: for work from a file to a file, which -o names; not for stdin, stdout or a pipe")
    return False


def _parts(target: Path) -> bool:
    """Whether a run was begun there and has not ended."""
    return (_folder(target) / RUN).exists()


def _folder(target: Path) -> Path:
    target = target.resolve()
    return target.with_name(f".{target.name}.parts")


class Stream:
    """Lines that are written as they come, to stdout, or to a file that is no file, such as /dev/null."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream

    def write(self, first: int, lines: list[str]) -> None:
        self._stream.writelines(f"{line}\n".encode() for line in lines)
        self._stream.flush()

    def finish(self) -> None:
        pass


class Parts:
    """Lines, one a row, on their way into a file.

    Each process appends to files named by their first row, so that what is done can be told from them: nothing is lost
    but the block that a process was at. To be used as a context: an error keeps the parts where there are any.
    """

    def __init__(self, output: str, processes: Processes, resume: bool, overwrite: bool):
        """resume: what an interrupted run left; overwrite: to drop that. Raises RequestError where there can be no such file."""
        self.output = check_target(output)
        self._folder = _folder(self.output)
        self.left_alone = False  # the output, which was there already
        self._processes, self._resume, self._overwrite = processes, resume, overwrite
        self._header: list[str] = []
        self._rows = self._size = 0
        self._stream: BinaryIO | None = None
        self._next = -1  # the row that comes next in the stream
        self._lock: Any = None
        self._broken = False  # so that no resuming helps
        self._empty = False  # made by this run, and without a row so far

    def begin(
        self, rows: int, size: int, signature: dict[str, Any], encoder: EncoderIdentity | None, header: Sequence[str] = ()
    ) -> list[range]:
        """The blocks that this process is to do: its share of those that are not done.

        size: rows of a block; a run that was begun keeps its own. signature and encoder: what must be the same for two runs
        to be parts of one. header: lines that stand before the rows. Raises RequestError where there is another run, or one
        that was not to be resumed, and V2TError where there is no room.
        """
        if self._processes.by_main(self._is_whole):
            self.left_alone = True
            log.warning(f"{self.output}: is there already and stays as it is, unchecked; --overwrite makes it anew")
            return []
        size, done = self._processes.by_main(lambda: self._begin(rows, size, signature, encoder))
        self._header, self._rows, self._size = list(header), rows, size
        finished = {start for first, stop in done for start in range(first, stop, size)}
        if done:
            log.info(f"{sum(stop - first for first, stop in done):,} of {rows:,} rows are done already")
        return self._processes.share([block for block in grid(rows, size) if block.start not in finished])

    def write(self, first: int, lines: list[str]) -> None:
        """Append the lines of consecutive rows."""
        if first != self._next:
            self._close()
            self._stream = open(self._folder / f"{ROWS}{first:015d}", "wb")
        assert self._stream is not None
        self._stream.writelines(f"{line}\n".encode() for line in lines)
        self._stream.flush()
        self._next, self._empty = first + len(lines), False

    def finish(self) -> None:
        """Put the output in its place, once every process has come here.

        Raises V2TError where a row is missing or stands there twice: texts that changed, or a process that was thought dead.
        """
        self._close()
        self._processes.wait()
        if not self._processes.is_main or self._lock is None:
            return
        done = self._done(self._rows, self._size)
        if [first for first, _ in done] + [self._rows] != [0, *(stop for _, stop in done)]:
            self._broken = True
            raise V2TError(f"{self.output}: rows are missing or twice there, so that it is not written; --overwrite starts anew")
        whole = self._whole()
        if whole.exists():  # else it has arrived, and the run was killed before it could clear away
            os.replace(whole, self.output)
        self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._close()
        except OSError:  # of a full disk, which was told already
            if error is None:
                raise
        finally:
            if error is not None and self._lock is not None:
                if self._empty and self._processes.count == 1:
                    self._clear()
                else:
                    if not self._broken:
                        log.info(f"{self.output}: the rows that are done are kept; the same command with --resume goes on with the others")
                    self._lock.release()

    def _clear(self) -> None:
        """Remove all parts; run.json first, for without it nothing was begun."""
        (self._folder / RUN).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()  # so late that nobody else begins here; NFS keeps a file that is open, and its folder
        with suppress(OSError):
            self._folder.rmdir()

    def _is_whole(self) -> bool:
        """Whether a run that is to be resumed has ended: a job that was requeued a moment too late has nothing to do."""
        return self._resume and self.output.exists() and not _parts(self.output)

    def _begin(self, rows: int, size: int, signature: dict[str, Any], encoder: EncoderIdentity | None) -> tuple[int, list[tuple[int, int]]]:
        from filelock import FileLock, Timeout

        begun = _parts(self.output)
        if begun and not (self._resume or self._overwrite):
            raise RequestError(f"{self.output}: a run was interrupted there; --resume goes on with it, --overwrite starts anew")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._folder / LOCK, timeout=0)
            lock.acquire()
        except Timeout:
            raise RequestError(f"{self.output}: another v2t is writing it") from None
        except OSError as error:
            raise RequestError(f"{self.output}: cannot be written: {error.strerror}") from None
        self._lock = lock
        if begun and self._resume:
            size = self._check(signature, encoder)
            return size, self._done(rows, size)
        self._empty = True
        (self._folder / RUN).unlink(missing_ok=True)  # first: without it nothing was begun
        for path in self._folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        run = {"size": size, "signature": signature, "encoder": encoder.model_dump() if encoder else None}
        try:
            self._prepare()
            with replacing(self._folder / RUN) as stream:
                stream.write(json.dumps(run, ensure_ascii=False).encode())
        except OSError as error:
            raise V2TError(f"{self.output}: {error.strerror}") from None
        return size, []

    def _check(self, signature: dict[str, Any], encoder: EncoderIdentity | None) -> int:
        """The block size of the run that was begun, if it is the same."""
        path = self._folder / RUN
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            size, before = int(run["size"]), dict(run["signature"])
            known = EncoderIdentity.model_validate(run["encoder"]) if run["encoder"] else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path}: damaged, the run cannot go on from it: {one_line(error)}; --overwrite starts anew") from None
        check_unchanged(before, signature, str(self.output))
        if known and encoder:
            known.check(encoder, f"the run that makes {self.output}")
        elif known or encoder:
            had = "had an encoder" if known else "had no encoder"
            raise RequestError(f"{self.output}: the run there {had}; --overwrite starts anew")
        return size

    def _done(self, rows: int, size: int) -> list[tuple[int, int]]:
        """First row and end of each part, which is cut to whole blocks."""
        done = []
        for path in sorted(self._folder.glob(f"{ROWS}*")):
            first = int(path.name.removeprefix(ROWS))
            kept = end = offset = 0
            with open(path, "r+b") as stream:
                for count, line in enumerate(stream, 1):
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    if count % size == 0 or first + count == rows:
                        kept, end = count, offset
                stream.truncate(end)
            if kept:
                done.append((first, first + kept))
            else:
                path.unlink()
        return done

    def _prepare(self) -> None:
        """What must be there before any row."""

    def _whole(self) -> Path:
        """The file that is to become the output."""
        path = self._folder / WHOLE
        with open(path, "wb") as whole:
            whole.writelines(f"{line}\n".encode() for line in self._header)
            for part in sorted(self._folder.glob(f"{ROWS}*")):
                with open(part, "rb") as stream:
                    shutil.copyfileobj(stream, whole)
        return path

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream, self._next = None, -1


class VectorParts(Parts):
    """Vectors on their way into a .npy of float32. All processes write into the same file; the lines are empty, and count."""

    VECTORS = "vectors.npy"

    def __init__(self, output: str, processes: Processes, resume: bool, overwrite: bool, rows: int, dim: int):
        """As Parts; the shape is that of the output."""
        super().__init__(output, processes, resume, overwrite)
        self._shape = rows, dim
        self._file: BinaryIO | None = None
        self._offset = 0

    def write_vectors(self, first: int, vectors: np.ndarray) -> None:
        """vectors: (rows, dim), of consecutive rows from `first` on."""
        if self._file is None:
            # Without reading: a network file system would read and write back whole pages, and with them rows of other machines.
            self._file = os.fdopen(os.open(self._folder / self.VECTORS, os.O_WRONLY), "wb", buffering=0)
            self._offset = os.fstat(self._file.fileno()).st_size - self._shape[0] * self._shape[1] * 4
        data = np.ascontiguousarray(vectors, dtype="<f4").data.cast("B")
        self._file.seek(self._offset + first * self._shape[1] * 4)
        while data:  # a single write ends at 2 GiB, or where the disk is full
            data = data[self._file.write(data) :]
        os.fsync(self._file.fileno())  # before the lines that say that they are there
        self.write(first, [""] * len(vectors))

    def _prepare(self) -> None:
        with open(self._folder / self.VECTORS, "wb") as stream:
            npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": self._shape})
            stream.flush()
            size = stream.tell() + self._shape[0] * self._shape[1] * 4
            if size > shutil.disk_usage(self._folder).free:  # said now, and not after hours
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            stream.truncate(size)

    def _whole(self) -> Path:
        return self._folder / self.VECTORS

    def _close(self) -> None:
        super()._close()
        if self._file is not None:
            self._file.close()
            self._file = None
