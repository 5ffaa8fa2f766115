"""Name the clusters of a vector file: run k-means and print, for each cluster, its most central member and the centroid's text.

The member is shown as its true text (with --texts) or as the text decoded from its vector. A centroid has a smaller norm than the
members. So it is decoded twice, as it is and rescaled to their norm, and the text with the higher cosine is printed. ru-mini is a
small model and makes up words where it is not sure.

$ v2t embed examples/natural.txt -o vecs.npy --checkpoint examples/ru-mini
$ python examples/clusters.py vecs.npy --clusters 8 --texts examples/natural.txt
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from v2t_cli import V2T, RequestError
from v2t_cli.io.texts import read_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path, help=".npy of shape (rows, dim)")
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--texts", type=Path, help="the texts of the vectors, one per line")
    parser.add_argument("--checkpoint", default=Path(__file__).parent / "ru-mini")
    parser.add_argument("--quality", default="balanced", choices=("fast", "balanced", "best"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        vectors = np.load(given.vectors, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error if isinstance(error, OSError) else f'{given.vectors}: {error}'}")
    texts = list(read_lines(str(given.texts))) if given.texts else []
    if vectors.ndim != 2 or not 1 <= given.clusters <= len(vectors):
        sys.exit(f"error: {given.vectors}: shape {vectors.shape}, expected at least {given.clusters} rows")
    if not np.isfinite(vectors).all():
        sys.exit(f"error: {given.vectors}: holds NaN or infinity")
    if texts and len(texts) != len(vectors):
        sys.exit(f"error: {given.texts}: {len(texts)} lines for {len(vectors)} vectors")

    inverter = V2T(given.checkpoint)
    means = MiniBatchKMeans(given.clusters, random_state=given.seed, n_init=3).fit(vectors)
    of_row = means.labels_
    print("size\tnearest member\tcentroid\tcosine")
    for cluster in np.argsort(-np.bincount(of_row, minlength=given.clusters)):
        members = np.flatnonzero(of_row == cluster)
        if not len(members):
            continue
        near = np.asarray(vectors[members], dtype=np.float32)
        centroid = near.mean(axis=0)
        rescaled = centroid * (np.linalg.norm(near, axis=1).mean() / max(np.linalg.norm(centroid), 1e-12))
        nearest = np.argmin(np.linalg.norm(near - centroid, axis=1))
        member, *names = (row.best for row in inverter.decode([near[nearest], centroid, rescaled], quality=given.quality))
        name = max(names, key=lambda best: best.logprob if best.cosine is None else best.cosine)
        known = texts[members[nearest]] if texts else member.text
        print(len(members), known, name.text, "" if name.cosine is None else f"{name.cosine:.3f}", sep="\t")


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        sys.exit(f"error: {error}")
