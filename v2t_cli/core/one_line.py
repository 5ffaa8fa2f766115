"""Text that must stay on one line and harmless on a terminal."""

# Every character that some program takes for the end of a line, and the other controls, with which terminals are steered.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), " ")


def to_line(text: str) -> str:
    """The text with newlines and control characters as spaces."""
    return text.translate(_CONTROLS)


def one_line(error: BaseException) -> str:
    """The message of an exception from elsewhere, folded to a single line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
