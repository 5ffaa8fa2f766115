"""The errors v2t raises on purpose. The message is the whole output: one line, what, where, what to do."""

from v2t_cli.lines import to_line


class V2TError(Exception):
    """Something failed while working."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(to_line(message))  # it may name what a file holds


class RequestError(V2TError):
    """The request was wrong: options, configuration, missing or invalid input, the wrong checkpoint."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The message of an exception from elsewhere, folded to a single line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
