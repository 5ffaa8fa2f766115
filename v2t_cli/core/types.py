"""The words between which options and configuration choose. Apart, so that `v2t --help` need not load the configuration's library."""

from typing import Literal

Quality = Literal["fast", "balanced", "best"]


Strategy = Literal["greedy", "beam", "sample"]


Format = Literal["text", "jsonl", "tsv"]
