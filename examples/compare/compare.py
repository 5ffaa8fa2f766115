"""Train the configurations of this folder for the same time and compare their scores.

    python examples/compare/compare.py TRAIN.txt HELD_OUT.txt --minutes 20 --rows peers

They differ in adapter and decoding. Rows with the same adapter share one training, and a training that is finished in
runs/compare is not repeated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from v2t_cli.core.config import load_config
from v2t_cli.io.texts import fingerprint, read_lines

HERE = Path(__file__).parent
# Name of the row, configuration, settings of the training, settings of the decoding.
PEERS = [
    ("the original: zero_pad, sampled", "original", [], []),
    ("GEIA: linear, 5 beams", "geia", [], []),
    ("vec2text's first stage: mlp x 16, greedy", "vec2text", [], []),
    ("the same, balanced", "vec2text", [], ["decode.strategy=beam", "decode.rerank=true"]),
    ("v2t greedy: linear", "v2t", [], ["decode.strategy=greedy", "decode.rerank=false"]),
    ("v2t fast: linear, 2 beams re-ranked", "v2t", [], ["decode.quality=fast"]),
    ("v2t balanced: linear, 8 beams, corrected", "v2t", [], []),
    ("v2t best: linear, 32 beams, corrected", "v2t", [], ["decode.quality=best"]),
]
SHAPES = [("zero_pad", 1), *((kind, tokens) for kind in ("linear", "mlp") for tokens in (1, 2, 4))]
ADAPTERS = [(f"{kind} x {tokens}", "v2t", [f"adapter={{kind: {kind}, tokens: {tokens}}}"], []) for kind, tokens in SHAPES]


def v2t(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", "v2t_cli", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def sets(settings: list[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="training texts, one per line")
    parser.add_argument("held_out", help="texts to measure on; none may be a training text")
    parser.add_argument("--minutes", type=float, default=20, help="minutes of each training")
    parser.add_argument("--rows", choices=("peers", "adapters"), default="peers")
    parser.add_argument("--set", nargs="*", default=[], help="settings for every training, such as train.precision=bf16")
    parser.add_argument("--only", nargs="*", type=int, help="numbers of the rows, from 0")
    arguments = parser.parse_args()
    print("| | loss | exact match | BLEU | chrF | cosine | ms a vector |\n|---|---|---|---|---|---|---|")
    texts = fingerprint(read_lines(arguments.train)).sha256[:8]  # so that other texts make another training
    rows = {"peers": PEERS, "adapters": ADAPTERS}[arguments.rows]
    for number in range(len(rows)) if arguments.only is None else arguments.only:
        name, config, training, decoding = rows[number]
        adapter = load_config(HERE / f"{config}.yaml", training).adapter
        trained = [f"{adapter.kind}-{adapter.tokens}-{arguments.minutes:g}min", texts, *arguments.set]
        folder = Path("runs/compare") / "-".join(trained).replace("=", "-")
        common = ["--config", str(HERE / f"{config}.yaml"), *sets([f"output={folder}", f"data.texts={arguments.train}"])]
        if not finished(folder):
            v2t("train", *common, *sets([f"train.max_minutes={arguments.minutes}", *arguments.set, *training]), "--overwrite")
        found = json.loads(v2t("eval", *common, *sets(decoding), "--texts", arguments.held_out, "--json"))
        low, high = found["intervals"]["exact_match"]
        exact = f"{found['exact_match']:.1%} ({100 * low:.1f} to {100 * high:.1f})"
        scores = f"{found['bleu']:.1f} | {found['chrf']:.1f} | {found['cosine']:.3f} | {found['milliseconds']:.0f}"
        print(f"| {name} | {found['loss']:.3f} | {exact} | {scores} |", flush=True)


def finished(folder: Path) -> bool:
    if not (folder / "v2t.json").exists():
        return False
    return json.loads((folder / "v2t.json").read_text(encoding="utf-8"))["training"]["finished"]


if __name__ == "__main__":
    main()
