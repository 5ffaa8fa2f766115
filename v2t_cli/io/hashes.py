"""Checksums: whether a file still holds what was written, and which files belong together. All of them are SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SEAL = "sha256"  # the key of a sealed JSON object that holds the hash of the others


def file_hash(path: str | Path) -> str:
    """The hash (hex) of a file: about a second for a gigabyte. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The hash of each of these files of a folder."""
    return {name: file_hash(folder / name) for name in sorted(names)}


def differing(folder: Path, hashes: dict[str, str]) -> str | None:
    """The first of the files that is missing, cannot be read, or differs from its hash; None if all are as they were."""
    for name, expected in hashes.items():
        try:
            if file_hash(folder / name) != expected:
                return name
        except (OSError, ValueError):  # the latter for a NUL in a damaged name
            return name
    return None


def checksum(data: Any) -> str:
    """Of some bytes: 16 hexadecimal digits, enough against accidents."""
    return hashlib.sha256(data).hexdigest()[:16]


def sealed(values: dict[str, Any]) -> bytes:
    """A JSON object with a hash of itself, so that `unsealed` sees any change."""
    values = {key: value for key, value in values.items() if key != SEAL}
    return json.dumps({**values, SEAL: _seal(values)}, ensure_ascii=False).encode()


def unsealed(data: bytes, required: bool = True) -> dict[str, Any]:
    """What `sealed` was given. required: whether there must be a seal; version 0.1.0 wrote none. Raises ValueError for damage."""
    values = json.loads(data)
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    seal = values.pop(SEAL, None)
    if seal is None and required:
        raise ValueError("it has no checksum; version 0.1.0 wrote none")
    if seal is not None and seal != _seal(values):
        raise ValueError("its checksum differs")
    return values


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
