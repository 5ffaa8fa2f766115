"""How soon the command line answers: whole processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from tests.benchmarks.common import Settings, in_turn, ratios, show, spread

TYPER = """
import typer
app = typer.Typer()
@app.command()
def one(name: str) -> None:
    "Say one thing."
@app.command()
def other(name: str) -> None:
    "Say another."
app()
"""
LOADING = """
import sys, torch
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
"""


def run(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "one.npy", settings.vectors[:1])
        typer_app, loading = folder / "bare.py", folder / "loading.py"
        typer_app.write_text(TYPER)
        loading.write_text(LOADING)
        v2t, load = [sys.executable, "-m", "v2t_cli"], [sys.executable, str(loading), str(settings.checkpoint)]
        decode = [
            "decode",
            str(folder / "one.npy"),
            "--checkpoint",
            str(settings.checkpoint),
            "--strategy",
            "greedy",
            "--set",
            "decode.rerank=false",
        ]
        compare(settings, "v2t --help", [*v2t, "--help"], "a bare Typer app's", [sys.executable, str(typer_app), "--help"], "<= 1.5x")
        compare(settings, "v2t decode, one vector, greedy", [*v2t, *decode], "imports and weights", load, "<= 1.3x")


def compare(settings: Settings, what: str, ours: list[str], beside: str, other: list[str], goal: str) -> None:
    runs = [partial(subprocess.run, command, capture_output=True, check=True) for command in (ours, other)]
    mine, theirs = in_turn(settings.repeats, *runs, warm_up=not settings.quick)
    show(f"{what}, s", spread(mine, 2), f"{beside} {spread(theirs, 2)}", f"{spread(ratios(mine, theirs), 2)}x", goal)
