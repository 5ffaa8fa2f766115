"""Signatures: settings and hashes that must be the same for two runs to be parts of one."""

from __future__ import annotations

import json
from typing import Any

from v2t_cli.core.errors import RequestError


def check_unchanged(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raise RequestError, with the differences, where a run is to go on as another one."""
    before, now = flat(before), flat(json.loads(json.dumps(now)))  # as it comes back from a file
    if changed := [key for key in now | before if before.get(key) != now.get(key)]:
        differences = ", ".join(f"{key} ({before.get(key)} then, {now.get(key)} now)" for key in changed)
        raise RequestError(f"{where}: the run there is another one, changed: {differences}; --overwrite starts anew")


def flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys as one, joined by dots."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        out |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return out
