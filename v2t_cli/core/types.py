"""The values of options with a fixed choice. A separate module, so that `v2t --help` does not load pydantic."""

from typing import Literal

Quality = Literal["fast", "balanced", "best"]
Strategy = Literal["greedy", "beam", "sample"]
Format = Literal["text", "jsonl", "tsv"]
