"""What the HTML pages share: how a template becomes a page that loads nothing else, and the facts that each of them states.

page.html.jinja is their frame and style, texts.html.jinja shows decoded texts.
"""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from v2t_cli import __version__
from v2t_cli.core.one_line import in_order, to_line, to_row
from v2t_cli.decoding.candidates import SureWord
from v2t_cli.evaluation.evaluate import SURE_BANDS
from v2t_cli.evaluation.metrics import Interval
from v2t_cli.models.lexicon import WORD
from v2t_cli.models.metadata import CheckpointInfo

SURE, UNSURE = SURE_BANDS[0], SURE_BANDS[2]  # probabilities from which, and below which, a word is marked


class DecodedText(Protocol):
    """A text, and how sure each of its words is, where that is known."""

    @property
    def text(self) -> str: ...
    @property
    def words(self) -> list[SureWord] | None: ...


def render(template: str, **values: Any) -> str:
    """The page as HTML. Every value is escaped; a name that the template was not given is an error."""
    folder = PackageLoader("v2t_cli", "evaluation")
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"percent": percent, "thousands": "{:,}".format, "interval": _interval, "one_line": to_line, "marked": marked}
    return environment.get_template(template).render(**values)


def checkpoint_facts(folder: Path, info: CheckpointInfo, redacted: bool) -> dict[str, str]:
    """The date, and what decoded, by name. folder and info: of the checkpoint; redacted: without paths."""
    encoder = info.encoder.name if info.encoder and not info.alignment else "unknown"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "checkpoint": folder.name if redacted else str(folder),
        "encoder of the vectors": f"{Path(encoder).name if redacted else encoder}, {info.width} numbers",
    }


def search_fact(quality: str, strategy: str, max_new_tokens: int) -> str:
    """How the texts were searched for. max_new_tokens: the longest text that the decoder may write."""
    return f"quality {quality}: {strategy}; at most {max_new_tokens} tokens"


def versions_fact() -> str:
    libraries = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    return ", ".join([f"v2t {__version__}", *libraries, f"Python {platform.python_version()}"])


def marked(it: DecodedText) -> list[tuple[str, str]]:
    """The decoded text in parts, each with the class that shows how sure it is, or none."""
    text, parts, end = to_row(it.text), [], 0  # its words are those of `words`; without marks of direction two may become one
    for match, sure in zip(WORD.finditer(text), it.words or []):
        how = "sure" if sure.probability >= SURE else "unsure" if sure.probability < UNSURE else ""
        parts += [(text[end : match.start()], ""), (match.group(), how)]
        end = match.end()
    return [(in_order(part), how) for part, how in [*parts, (text[end:], "")]]


def percent(fraction: float) -> str:
    """0% only for none and 100% only for all."""
    if fraction in (0, 1) or 0.1 <= fraction < 0.9:
        return f"{fraction:.0%}"
    return f"{min(max(fraction, 0.001), 0.999):.1%}"


def _interval(bounds: Interval) -> str:
    return "{:.0%} to {:.0%}".format(*bounds)
