"""The errors v2t raises on purpose. The message is all the user sees: one line that says what, where, and what to do."""

from v2t_cli.core.one_line import to_line


class V2TError(Exception):
    """Something failed while working."""

    exit_code = 1

    def __init__(self, message: str):
        super().__init__(to_line(message))  # it may quote a file's contents


class RequestError(V2TError):
    """The request was wrong: options, configuration, missing or invalid input, the wrong checkpoint."""

    exit_code = 2
