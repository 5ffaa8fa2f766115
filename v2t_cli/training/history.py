"""The history of a training: log.jsonl in its folder, one event per line, and loss.png, which shows it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from v2t_cli.core.console import log
from v2t_cli.core.one_line import one_line, to_json
from v2t_cli.io.atomic import replacing
from v2t_cli.models.metadata import LOG, PICTURE, TRACKED

EVENTS = ".tfevents."  # in the names of TensorBoard's files


class History:
    """The events of a training in their order: "step", "evaluation" and "save"."""

    def __init__(self, folder: Path):
        self._path = folder / LOG

    def add(self, event: str, **values: Any) -> None:
        """Append an event. The values must be such as JSON can hold."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(to_json({"event": event, **values}) + "\n")

    def is_ours(self) -> bool:
        """Whether a History wrote the file that is there."""
        events = list(self.events())
        return len(events) == len(list(self._values())) and (bool(events) or not self._path.stat().st_size)

    def drop(self) -> None:
        """Remove what an earlier run wrote, with its picture and its TensorBoard files."""
        self._path.unlink(missing_ok=True)
        self._path.with_name(PICTURE).unlink(missing_ok=True)
        for path in self._path.with_name(TRACKED).rglob(f"*{EVENTS}*"):
            path.unlink(missing_ok=True)

    def events(self) -> Iterator[dict[str, Any]]:
        """The events so far, without an incomplete last line and what else is none."""
        for event in self._values():
            if isinstance(event, dict) and {"event", "step"} <= event.keys() and isinstance(event["step"], int):
                yield event

    def _values(self) -> Iterator[Any]:
        if self._path.exists():
            with open(self._path, encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    with suppress(ValueError, RecursionError):
                        yield json.loads(line)

    def go_back(self, step: int) -> None:
        """Drop what was written after this step, from which the run resumes."""
        kept = [event for event in self.events() if event["step"] <= step]
        if self._path.exists():
            with replacing(self._path) as stream:
                stream.writelines((to_json(event) + "\n").encode() for event in kept)

    def picture(self) -> bytes | None:
        """The loss by step, in training and on held-out texts, as a PNG.

        None if nothing was logged, or if drawing fails: a picture must not cost hours of training.
        """
        try:
            return self._picture()
        except Exception as error:  # the user's matplotlib settings may ask for things that are missing
            log.warning(f"cannot plot the losses: {one_line(error)}")
            return None

    def _picture(self) -> bytes | None:
        losses = {name: [(it["step"], it["loss"]) for it in self.events() if it["event"] == name] for name in _LABELS}
        if not any(losses.values()):
            return None
        from matplotlib import style
        from matplotlib.figure import Figure

        with style.context("default"):  # not the user's settings
            figure = Figure(figsize=(7, 3.5), layout="constrained")
            axes = figure.subplots()
            for (name, points), looks in zip(losses.items(), _LOOKS):
                if points:
                    axes.plot(*zip(*points), label=_LABELS[name], **looks)
            axes.set(xlabel="step", ylabel="loss, nats per token")
            axes.grid(alpha=0.3)
            axes.legend()
            out = io.BytesIO()
            figure.savefig(out, format="png", dpi=120)
        return out.getvalue()


_LOOKS: tuple[dict[str, Any], ...] = ({"linewidth": 1, "alpha": 0.7}, {"marker": "o"})
_LABELS = {"step": "training", "evaluation": "held-out texts"}
