"""The errors v2t raises on purpose. The message is the whole output: one line, what, where, what to do."""


class V2TError(Exception):
    """Something failed while working."""

    exit_code = 1


class RequestError(V2TError):
    """The request was wrong: options, configuration, missing or invalid input, the wrong checkpoint."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """The message of an exception from elsewhere, folded to a single line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
