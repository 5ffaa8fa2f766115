"""Output files that several processes, or several runs of the same command, write together.

Until the file is complete, a folder beside it holds the finished rows and run.json, which describes the run. The file appears
in one step at the end.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.processes import Processes
from v2t_cli.io.atomic import check_target, make_folder, replacing, set_mode
from v2t_cli.io.hashes import checksum, sealed, unsealed
from v2t_cli.io.npy import write_header
from v2t_cli.io.signature import Signature
from v2t_cli.io.vectors import as_bytes, grid

RUN, LOCK, COMPLETE = "run.json", "lock", "complete"
HINT = "to continue, run the same command with --resume"
ROWS = "rows-"  # followed by the number of the first row
SUM_BYTES = 17  # at the beginning of a line: the checksum and a tab
LONGEST_NAME = 240  # bytes; most file systems allow 255


def is_resumable(source: str, output: str, processes: Processes, resume: bool, overwrite: bool) -> bool:
    """Whether the output is written in parts: if the source is a file or a folder, which can be read again,
    and the output can be a file.

    Raises RequestError if not, but several processes, --resume or --overwrite ask for it.
    """
    target = Path(output)
    if (Path(source).is_file() or Path(source).is_dir()) and output != "-" and (target.is_file() or target.is_dir() or not target.exists()):
        if resume and overwrite:
            raise RequestError("--resume and --overwrite exclude each other")
        if resume and not _is_begun(target) and target.is_file() and target.stat().st_mtime < _changed(Path(source)):
            raise RequestError(f"{output}: already exists and is older than {source}; --overwrite creates it again")
        return True
    if source == "-" or Path(source).exists():  # otherwise that is the mistake to report
        for asked, what in ((resume, "--resume"), (overwrite, "--overwrite"), (processes.count > 1, "several processes")):
            if asked:
                raise RequestError(f"{what}: needs an input file and -o FILE, not stdin, stdout or a pipe")
    return False


def _changed(source: Path) -> float:
    """When a file, or the last file of a folder, was changed."""
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else []
    return max(path.stat().st_mtime for path in (source, *files))


def _is_begun(target: Path) -> bool:
    """Whether an unfinished run has left its parts there."""
    return (_folder(target) / RUN).exists()


def _folder(target: Path) -> Path:
    target = check_target(target)
    name = os.fsencode(target.name)
    short = target.name if len(name) <= LONGEST_NAME else hashlib.sha256(name).hexdigest()[:32]
    return target.with_name(f".{short}.parts")


class ResumableLines:
    """Lines, one per row, that become a file.

    Each process appends to files named by their first row, which show what is done: an interruption loses no more than the
    block in progress. Each line begins with its checksum, so that damage is seen. Use it as a context manager: an error keeps
    the parts that exist.
    """

    def __init__(self, output: str | Path, processes: Processes, resume: bool = False, overwrite: bool = False, hint: str = HINT):
        """resume: continue an interrupted run; overwrite: drop it; both: drop it if it is damaged or another one.

        hint: how to continue, told after an interruption. Raises RequestError if there can be no such file.
        """
        self.output = check_target(output)
        self.untouched = False  # whether the output was complete already
        self._folder = _folder(self.output)
        self._processes, self._resume, self._overwrite, self._hint = processes, resume, overwrite, hint
        self._header: list[str] = []
        self._rows = self._size = 0
        self._stream: BinaryIO | None = None
        self._next = -1  # the row that comes next in the stream
        self._lock: Any = None
        self._empty = False  # begun by this run, and no row written yet

    def begin(self, rows: int, size: int, signature: Signature, header: Sequence[str] = ()) -> list[range]:
        """The blocks that this process must do: its part of those that are not done.

        size: rows of a block; a resumed run keeps its own. header: lines before the rows. Raises RequestError if another run,
        or one that was not to be resumed, is in the way, and V2TError if the disk has no room.
        """
        if self._processes.by_main(self._is_complete):
            self.untouched = True
            log.warning(f"{self.output}: already exists; left unchanged and not checked. --overwrite creates it again")
            return []
        size, done = self._processes.by_main(lambda: self._begin(rows, size, signature))
        if not self._processes.is_main:
            self._lock = self._acquire(f"{LOCK}-{platform.node()}-{os.getpid()}")
        self._header, self._rows, self._size = list(header), rows, size
        finished = {start for first, stop in done for start in range(first, stop, size)}
        if done:
            log.info(f"{sum(stop - first for first, stop in done):,} of {rows:,} rows are already done")
        return self._processes.split([block for block in grid(rows, size) if block.start not in finished])

    def write(self, first: int, lines: list[str]) -> None:
        """Append the lines of consecutive rows."""
        if first != self._next:
            self._close()
            self._stream = open(self._part(first), "wb")
        assert self._stream is not None
        self._stream.writelines(_summed(row, line.encode()) for row, line in enumerate(lines, first))
        self._stream.flush()
        self._next, self._empty = first + len(lines), False

    def finish(self) -> None:
        """Put the output in its place, once every process has made this call.

        Raises V2TError if a row is missing: it was damaged meanwhile.
        """
        self._close()
        if self._lock is not None and not self._processes.is_main:
            self._lock.release()  # before the main process removes the folder
        self._processes.wait()
        if not self._processes.is_main or self._lock is None:
            return
        done = self._done(self._rows, self._size)
        if [first for first, _ in done] + [self._rows] != [0, *(stop for _, stop in done)]:
            raise V2TError(f"{self.output}: some rows are missing, so nothing was written; --resume computes them again")
        complete = self._assemble()
        set_mode(complete, self.output)
        os.replace(complete, self.output)
        self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._close()
        except OSError:  # a full disk, which was reported already
            if error is None:
                raise
        finally:
            if error is not None and self._lock is not None:
                if self._empty and self._processes.count == 1:
                    self._clear()
                    if not isinstance(error, Exception):  # Ctrl-C and its like
                        log.info(f"{self.output}: stopped before the first block of rows was finished; nothing is kept")
                else:
                    if self._size:  # 0 if this run was refused: the same command would be refused again
                        log.info(f"{self.output}: {self._so_far()}finished rows are kept; {self._hint}")
                    self._lock.release()

    def _so_far(self) -> str:
        if self._processes.count > 1:  # others may still be writing
            return ""
        try:
            kept = sum(stop - first for first, stop in self._done(self._rows, self._size))
        except OSError:  # which ended this run, and was reported
            return ""
        return f"stopped after {kept:,} of {self._rows:,} rows; "

    def _clear(self) -> None:
        """Remove all parts; run.json first, because without it nothing counts as begun."""
        (self._folder / RUN).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()  # only now, so that nobody else begins here; NFS keeps a file that is open, and its folder
        with suppress(OSError):
            self._folder.rmdir()

    def _is_complete(self) -> bool:
        """Whether the run to resume has already finished. A job may be requeued just after it finished."""
        return self._resume and self.output.exists() and not _is_begun(self.output)

    def _begin(self, rows: int, size: int, signature: Signature) -> tuple[int, list[tuple[int, int]]]:
        begun = _is_begun(self.output)
        if begun and not (self._resume or self._overwrite):
            raise RequestError(f"{self.output}: a run was interrupted there; --resume continues it, --overwrite starts over")
        self._lock = self._acquire(LOCK)
        if begun and self._resume:
            try:
                size = self._check(signature)
                return size, self._done(rows, size)
            except RequestError:
                if not self._overwrite:
                    raise
                log.warning(f"{self.output}: starting over; what an interrupted run left is damaged, or of another run")
            except OSError as error:
                raise V2TError(f"{self.output}: {error.strerror}") from None
        self._empty = True
        (self._folder / RUN).unlink(missing_ok=True)  # first: without it nothing counts as begun
        for path in self._folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        try:
            self._prepare()
            with replacing(self._folder / RUN) as stream:
                stream.write(sealed({"size": size, **signature.model_dump(mode="json")}))
        except OSError as error:
            raise V2TError(f"{self.output}: {error.strerror}") from None
        return size, []

    def _acquire(self, name: str) -> Any:
        """A lock of this process. The main one's also needs the others to be free: a killed run may have left processes behind."""
        from filelock import FileLock, Timeout

        mine = FileLock(self._folder / name, timeout=0)
        try:
            make_folder(self._folder.parent)
            self._folder.mkdir(mode=0o700, exist_ok=True)  # what it holds may be private
            mine.acquire()
            for other in self._folder.glob(f"{LOCK}-*") if name == LOCK else ():
                name = other.name
                with FileLock(other, timeout=0):
                    pass
        except Timeout:
            mine.release()
            who = name.removeprefix(LOCK).removeprefix("-")
            raise RequestError(f"{self.output}: another v2t process{who and f' ({who})'} is writing it; end it, or wait") from None
        except OSError as error:
            raise RequestError(f"{self.output}: cannot be written: {error.strerror}") from None
        return mine

    def _check(self, signature: Signature) -> int:
        """The block size of the interrupted run, if it is the same run."""
        path = self._folder / RUN
        try:
            run = unsealed(path.read_bytes())
            size, before = int(run["size"]), Signature.model_validate(run)
            if size < 1:
                raise ValueError(f"size {size}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path}: damaged, so the run cannot continue: {one_line(error)}; --overwrite starts over") from None
        before.check(signature, str(self.output))
        return size

    def _done(self, rows: int, size: int) -> list[tuple[int, int]]:
        """First row and end of each part, in ascending order, cut to whole blocks of which no two hold the same row."""
        done: list[tuple[int, int]] = []
        for path in sorted(self._folder.glob(f"{ROWS}*")):
            number = path.name.removeprefix(ROWS)
            first = int(number) if number.isdecimal() else -1
            stop = self._cut(path, first, size, rows) if first in range(0, rows, size) else 0
            if stop <= max([first, *(end for _, end in done)]):
                path.unlink()
                continue
            if done and done[-1][1] > first:  # a process of a killed run went on
                before = done.pop()[0]
                done.append((before, self._cut(self._part(before), before, size, first)))
            done.append((first, stop))
        return done

    def _part(self, first: int) -> Path:
        return self._folder / f"{ROWS}{first:015d}"

    def _cut(self, path: Path, first: int, size: int, end: int) -> int:
        """Cut a part to whole blocks of sound rows before `end`. Returns the row that would come next."""
        stop, kept, offset = first, 0, 0
        with open(path, "r+b") as stream:
            for row, line in enumerate(stream, first):
                if row == end or not line.endswith(b"\n"):
                    break
                content = line[SUM_BYTES:-1]
                if line != _summed(row, content) or not self._is_sound(row, content):
                    log.warning(f"{path}: row {row} is damaged; it is made again, with those that follow it there")
                    break
                offset += len(line)
                if (row + 1 - first) % size == 0 or row + 1 == end:
                    stop, kept = row + 1, offset
            stream.truncate(kept)
        return stop

    def _is_sound(self, row: int, line: bytes) -> bool:
        """Whether what the line of a row stands for is there."""
        return True

    def _prepare(self) -> None:
        """Create what must be there before any row."""

    def _assemble(self) -> Path:
        """The file that becomes the output."""
        path = self._folder / COMPLETE
        with open(path, "wb") as complete:
            complete.writelines(f"{line}\n".encode() for line in self._header)
            for part in sorted(self._folder.glob(f"{ROWS}*")):
                with open(part, "rb") as stream:
                    complete.writelines(line[SUM_BYTES:] for line in stream)
        return path

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream, self._next = None, -1


def _summed(row: int, line: bytes) -> bytes:
    """A line of a part: its checksum, which also covers the row's number, a tab, and the line."""
    return checksum(b"%d\t%b" % (row, line)).encode() + b"\t" + line + b"\n"


class ResumableVectors(ResumableLines):
    """Vectors that become a .npy of float32.

    All processes write into one file at their rows' places; a line with the checksum of each row counts what is done. Not
    through a memory map: on a full disk that would kill the process.
    """

    def __init__(self, output: str | Path, processes: Processes, shape: tuple[int, int], **settings: Any):
        """shape: (rows, dim) of the output; settings: as in ResumableLines."""
        super().__init__(output, processes, **settings)
        self._shape = shape
        self.path = self._folder / "vectors.npy"  # until it is complete
        self._file: BinaryIO | None = None
        self._stored: BinaryIO | None = None  # while rows are checked
        header = io.BytesIO()
        write_header(header, *shape)
        self._offset = header.tell()

    def write_vectors(self, first: int, vectors: np.ndarray) -> None:
        """vectors: (rows, dim), consecutive rows from `first` on."""
        dim = self._shape[1]
        if self._file is None:
            # Write-only: reading would let a network file system write back whole pages, with rows of other machines.
            self._file = os.fdopen(os.open(self.path, os.O_WRONLY), "wb", buffering=0)
        data = as_bytes(vectors)
        self._file.seek(self._offset + first * dim * 4)
        while data:  # a single write ends at 2 GiB, or where the disk is full
            data = data[self._file.write(data) :]
        os.fsync(self._file.fileno())  # before the lines that say that they are there
        self.write(first, [checksum(as_bytes(row)) for row in vectors])

    def _prepare(self) -> None:
        rows, dim = self._shape
        with open(self.path, "ab") as stream:  # which creates it
            pass
        with open(self.path, "r+b") as stream:
            write_header(stream, rows, dim)
            size = self._offset + rows * dim * 4
            if size - os.fstat(stream.fileno()).st_size > shutil.disk_usage(self._folder).free:  # better now than after hours
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            stream.truncate(size)

    def _done(self, rows: int, size: int) -> list[tuple[int, int]]:
        if not self.path.exists() and self.output.is_file():
            shutil.copyfile(self.output, self.path)  # it has arrived, and the run was killed before it could clean up
        self._prepare()
        with open(self.path, "rb") as self._stored:
            return super()._done(rows, size)

    def _is_sound(self, row: int, line: bytes) -> bool:
        assert self._stored is not None
        bytes_of_row = self._shape[1] * 4
        self._stored.seek(self._offset + row * bytes_of_row)
        return line == checksum(self._stored.read(bytes_of_row)).encode()

    def _assemble(self) -> Path:
        return self.path

    def _close(self) -> None:
        super()._close()
        if self._file is not None:
            self._file.close()
            self._file = None
