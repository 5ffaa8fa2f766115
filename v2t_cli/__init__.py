"""v2t: turn sentence vectors back into text."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v2t_cli.api import V2T, Vectors, embed, train
    from v2t_cli.core.errors import RequestError, V2TError
    from v2t_cli.decoding.candidates import Candidate, Row
    from v2t_cli.evaluation.evaluate import Evaluation

__version__ = "0.3.0"
__all__ = ["V2T", "Candidate", "Evaluation", "RequestError", "Row", "V2TError", "Vectors", "__version__", "embed", "train"]
_HOMES = {
    "Candidate": "decoding.candidates",
    "Row": "decoding.candidates",
    "RequestError": "core.errors",
    "V2TError": "core.errors",
    "Evaluation": "evaluation.evaluate",
}


def __getattr__(name: str) -> Any:
    """Load the API on first use, so that the command line starts without torch."""
    if name not in __all__:
        raise AttributeError(f"module 'v2t_cli' has no attribute '{name}'")
    return getattr(import_module(f"v2t_cli.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    """The public names, for completion; listing them loads nothing."""
    return sorted({*globals(), *__all__})
