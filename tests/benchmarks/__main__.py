"""v2t beside what one would write without it: both sides in one run, in turn, several times.

    python -m tests.benchmarks --quick
    python -m tests.benchmarks decoding training --texts ru_valid.txt --corpus ru_train.txt.gz

Prints a table in Markdown: medians (lowest to highest). The limit is what the machine's matrix multiplications (2,048
cubed, float32), measured in each turn, would need for the multiply-adds of the work.
"""

from __future__ import annotations

import argparse
import importlib
import platform
from pathlib import Path

import torch

from tests.benchmarks.common import EXAMPLES, note, settings, timed

SECTIONS = ("decoding", "training", "preparing", "embedding", "starting", "growth", "lengths")


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description=__doc__, formatter_class=plain)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes and one turn: whether everything runs")
    parser.add_argument("--repeats", type=int, help="turns that count; default: 5, in a quick run 1")
    parser.add_argument("--checkpoint", type=Path, default=EXAMPLES / "ru-mini", help="default: examples/ru-mini")
    parser.add_argument("--texts", type=Path, help="to decode; default: those that the checkpoint held out")
    parser.add_argument("--corpus", type=Path, default=EXAMPLES / "texts.txt", help="to train on and embed; default: examples/texts.txt")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    texts, repeats = given.texts or given.checkpoint / "held_out.txt", given.repeats or (1 if given.quick else 5)
    common = settings(given.checkpoint, given.quick, repeats, texts, given.corpus, given.device)
    threads = torch.get_num_threads()
    speed = common.matmul.gflops(timed(common.matmul)[0])
    note(f"{platform.machine()}, {threads} threads, {common.device}: {speed:,.0f} GFLOP/s in products of matrices at the start")
    print("| what | v2t | compared with | ratio | target |\n|---|---|---|---|---|", flush=True)
    for name in given.sections or SECTIONS:
        importlib.import_module(f"tests.benchmarks.{name}").run(common)


if __name__ == "__main__":
    main()
