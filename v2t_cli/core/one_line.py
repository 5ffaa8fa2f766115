"""Strings that must fit on one line and cannot steer a terminal."""

import json
from typing import Any

# Line separators of any kind, and control characters, which can steer a terminal.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")
# Characters that show others in another order, such as U+202E, or switch how they look. Hebrew and Arabic texts may hold some.
_DIRECTIONS = dict.fromkeys((0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x2070), *range(0xFFF9, 0xFFFC)))
_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029, *_DIRECTIONS)}  # JSON escapes those below 32 itself


def to_row(text: str) -> str:
    """The text as one line of data: newlines and control characters become spaces."""
    return text.translate(_CONTROLS)


def in_order(text: str) -> str:
    """The text for a terminal, without the characters that would show it in another order."""
    return text.translate(_DIRECTIONS)


def to_line(text: str) -> str:
    """The text as one line to look at, which cannot steer a terminal."""
    return in_order(to_row(text))


def to_json(value: Any) -> str:
    """JSON on one line, as UTF-8 where that is readable; what `to_line` would change is escaped, so nothing is lost."""
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


def one_line(error: BaseException) -> str:
    """The message of a library's exception, folded to a single line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
