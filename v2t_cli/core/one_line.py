"""Strings that must fit on one line and cannot steer a terminal."""

# Line separators of any kind, and control characters, which can steer a terminal.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), " ")


def to_line(text: str) -> str:
    """The text with newlines and control characters replaced by spaces."""
    return text.translate(_CONTROLS)


def one_line(error: BaseException) -> str:
    """The message of a library's exception, folded to a single line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
