"""Walk from the vector of one sentence to that of another, and decode each step.

Two versions: the plain mixture, which has a smaller norm than both ends, and the mixture rescaled to their norm.

$ python examples/interpolate.py "Где находится аптека?" "Когда откроется кафе?" --steps 5
share   mixture                                 cosine  rescaled                                cosine
0.00    Где находится аптека?                   1.000   Где находится аптека?                   1.000
0.25    Где находится аптека?                   0.960   Где находится аптека?                   0.960
0.50    Когда находится откроется кафе аптеку?  0.886   Когда находится откроется кафе аптеку?  0.886
0.75    Когда откроется кафе?                   0.960   Когда откроется кафе?                   0.960
1.00    Когда откроется кафе?                   1.000   Когда откроется кафе?                   1.000
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from v2t_cli import V2T, RequestError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start")
    parser.add_argument("end")
    parser.add_argument("--steps", type=int, default=7, help="sentences, both ends included (default: 7)")
    parser.add_argument("--checkpoint", default=Path(__file__).parent / "ru-mini")
    parser.add_argument("--quality", default="balanced", choices=("fast", "balanced", "best"))
    given = parser.parse_args()
    if given.steps < 2:
        parser.error("--steps: at least the two ends")

    inverter = V2T(given.checkpoint)
    start, end = inverter.embed([given.start, given.end])
    shares = np.linspace(0, 1, given.steps)[:, None]
    mixed = ((1 - shares) * start + shares * end).astype(np.float32)
    lengths = (1 - shares) * np.linalg.norm(start) + shares * np.linalg.norm(end)
    rescaled = (mixed * lengths / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)

    print("share\tmixture\tcosine\trescaled\tcosine")
    rows = (inverter.decode(vectors, quality=given.quality) for vectors in (mixed, rescaled))
    for share, *ways in zip(shares[:, 0], *rows):
        print(
            f"{share:.2f}", *(f"{row.best.text}\t{'' if row.best.cosine is None else f'{row.best.cosine:.3f}'}" for row in ways), sep="\t"
        )


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        sys.exit(f"error: {error}")
