"""log.jsonl in a run's folder: its course, one event a line; and loss.png, the picture of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from v2t_cli.files import replacing

LOG, PICTURE = "log.jsonl", "loss.png"
TRACKED = "v2t"  # the folder in which TensorBoard keeps its files


class History:
    """The events of a training, in the order in which they came: "step", "evaluation" and "save"."""

    def __init__(self, folder: Path):
        self._path = folder / LOG

    def add(self, event: str, **values: Any) -> None:
        """Append an event; its values must be what JSON knows."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, **values}, ensure_ascii=False) + "\n")

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
        """The loss of a run by step, in training and on held-out texts, as a PNG; None where nothing was logged."""
        losses = {name: [(it["step"], it["loss"]) for it in self.events() if (it["event"], it["run"]) == (name, run)] for name in _LABELS}
        if not any(losses.values()):
            return None
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        for (name, points), style in zip(losses.items(), _STYLES):
            if points:
                axes.plot(*zip(*points), label=_LABELS[name], **style)
        axes.set(xlabel="step", ylabel="loss, nats a token")
        axes.grid(alpha=0.3)
        axes.legend()
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=120)
        return out.getvalue()


_STYLES: tuple[dict[str, Any], ...] = ({"linewidth": 1, "alpha": 0.7}, {"marker": "o"})
_LABELS = {"step": "training", "evaluation": "held-out texts"}
