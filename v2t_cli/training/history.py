"""log.jsonl in a run's folder: its course, one event a line; and loss.png, the picture of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from v2t_cli.core.console import log
from v2t_cli.core.one_line import one_line
from v2t_cli.io.atomic import replacing

LOG, PICTURE = "log.jsonl", "loss.png"


TRACKED, EVENTS = "v2t", ".tfevents."  # the folder in which TensorBoard keeps its files, and what is in their names


class History:
    """The events of a training, in the order in which they came: "step", "evaluation" and "save"."""

    def __init__(self, folder: Path):
        self._path = folder / LOG

    def add(self, event: str, **values: Any) -> None:
        """Append an event; its values must be what JSON knows."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, **values}, ensure_ascii=False) + "\n")

    def is_ours(self) -> bool:
        """Whether a History wrote what is there."""
        events = list(self.events())
        known = all(isinstance(event, dict) and {"event", "run", "step"} <= event.keys() for event in events)
        return known and (bool(events) or not self._path.stat().st_size)

    def drop(self) -> None:
        """Remove what an earlier run wrote, its picture and what it gave to TensorBoard too."""
        self._path.unlink(missing_ok=True)
        self._path.with_name(PICTURE).unlink(missing_ok=True)
        for path in self._path.with_name(TRACKED).rglob(f"*{EVENTS}*"):
            path.unlink(missing_ok=True)

    def events(self) -> Iterator[dict[str, Any]]:
        """What was written so far; a line that a kill has cut short is left out."""
        if self._path.exists():
            with open(self._path, encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    with suppress(ValueError):
                        yield json.loads(line)

    def go_back(self, run: int, step: int) -> None:
        """Forget what a run that goes on from this step has written after it."""
        kept = [event for event in self.events() if (event["run"], event["step"]) <= (run, step)]
        if kept or self._path.exists():
            with replacing(self._path) as stream:
                stream.writelines((json.dumps(event, ensure_ascii=False) + "\n").encode() for event in kept)

    def picture(self, run: int) -> bytes | None:
        """The loss of a run by step, in training and on held-out texts, as a PNG; None where nothing was logged.

        Or where it cannot be drawn: hours of training are not lost for a picture.
        """
        try:
            return self._picture(run)
        except Exception as error:  # matplotlib's settings are the user's, and may ask for what is not there
            log.warning(f"the losses cannot be drawn: {one_line(error)}")
            return None

    def _picture(self, run: int) -> bytes | None:
        losses = {name: [(it["step"], it["loss"]) for it in self.events() if (it["event"], it["run"]) == (name, run)] for name in _LABELS}
        if not any(losses.values()):
            return None
        from matplotlib import style
        from matplotlib.figure import Figure

        with style.context("default"):  # not the user's, which may ask for what is not there
            figure = Figure(figsize=(7, 3.5), layout="constrained")
            axes = figure.subplots()
            for (name, points), looks in zip(losses.items(), _LOOKS):
                if points:
                    axes.plot(*zip(*points), label=_LABELS[name], **looks)
            axes.set(xlabel="step", ylabel="loss, nats a token")
            axes.grid(alpha=0.3)
            axes.legend()
            out = io.BytesIO()
            figure.savefig(out, format="png", dpi=120)
        return out.getvalue()


_LOOKS: tuple[dict[str, Any], ...] = ({"linewidth": 1, "alpha": 0.7}, {"marker": "o"})


_LABELS = {"step": "training", "evaluation": "held-out texts"}
