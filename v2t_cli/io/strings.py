"""Strings that are too many for memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from contextlib import ExitStack

import numpy as np

from v2t_cli.io.temporary import temporary_file


class Strings:
    """Strings in two temporary files, which nobody else sees: UTF-8 one after the other, and where each ends (int64)."""

    def __init__(self, stack: ExitStack):
        """stack: closes the files, and so deletes them."""
        self._data, self._ends = (temporary_file(stack) for _ in range(2))
        self._ends.write(np.int64(0).tobytes())
        self._size = 0
        self.count = 0

    def extend(self, strings: Iterable[str]) -> None:
        """Append strings, before any is read. What no UTF-8 can hold (half a surrogate pair) becomes `?`. Raises OSError on a full disk."""
        encoded = [string.encode("utf-8", "replace") for string in strings]
        ends = self._size + np.cumsum([len(data) for data in encoded], dtype=np.int64)
        self._data.writelines(encoded)
        self._ends.write(ends.tobytes())
        self.count += len(encoded)
        self._size = int(ends[-1]) if encoded else self._size

    def flush(self) -> None:
        """Write what is still in memory: so a full disk shows here, and not in `read`. Raises OSError then."""
        self._data.flush()
        self._ends.flush()

    def read(self, first: int, count: int) -> list[str]:
        """`count` strings from the number `first` on."""
        self._ends.seek(8 * first)
        ends = np.frombuffer(self._ends.read(8 * (count + 1)), dtype=np.int64)
        self._data.seek(int(ends[0]))
        data = io.BytesIO(self._data.read(int(ends[-1] - ends[0])))
        return [data.read(length).decode() for length in np.diff(ends).tolist()]

    def __getitem__(self, row: int) -> str:
        return self.read(row, 1)[0]

    def digest(self) -> str:
        """A hash (hex) of all of them."""
        digests = []
        for stream in (self._data, self._ends):
            stream.seek(0)
            digests.append(hashlib.file_digest(stream, "sha256").digest())
        return hashlib.sha256(b"".join(digests)).hexdigest()
