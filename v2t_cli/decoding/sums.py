"""Sums of edits: several edits move a text's vector by nearly the sum of what each does alone.

So the best pairs, triples and quadruples of single edits are predicted from the vectors of the single edits, and only the most
promising are embedded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from v2t_cli.decoding.edits import Edit, together

SINGLES = 200  # edits that are combined: those that bring the text nearest
STARTS = 60  # of them begin a sum
KEPT = 120  # sums of a size that grow further
LARGEST = 4  # edits in a sum


def sums(edits: list[Edit], vectors: np.ndarray, own: np.ndarray, target: np.ndarray) -> Iterator[Edit]:
    """Sums of disjoint edits, by the cosine that they are expected to reach.

    vectors: (n, dim), of the edited texts; own: (dim,), of the text itself; target: (dim,). All have length 1.
    """
    moving = np.flatnonzero(np.square(vectors - own).sum(axis=1) > 1e-9)  # unlike a change of case, to an encoder blind to it
    best = moving[np.argsort(-(vectors[moving] @ target), kind="stable")[:SINGLES]]
    if len(best) < 2:
        return
    moves = vectors[best] - own
    gram, apart = moves @ moves.T, _disjoint([edits[i] for i in best])
    # The dot product with the target, and the square of the length, grow with each move by:
    nearer, longer = moves @ target, gram.diagonal() + 2 * moves @ own
    members = np.arange(min(STARTS, len(best)))[:, None]  # (sums, size), places in `best`
    dots, squares = own @ target + nearer[members[:, 0]], 1 + longer[members[:, 0]]
    crossed, free = gram[members[:, 0]], apart[members[:, 0]]
    found: dict[tuple[int, ...], float] = {}
    for _ in range(LARGEST - 1):
        expected = (dots[:, None] + nearer) / np.sqrt(np.maximum(squares[:, None] + longer + 2 * crossed, 1e-6))
        expected = np.where(free, expected, -np.inf)
        top = np.argsort(-expected, axis=None, kind="stable")[: KEPT * LARGEST]
        top = top[np.isfinite(expected.ravel()[top])]
        grown, added = np.divmod(top, len(best))
        larger = np.sort(np.concatenate([members[grown], added[:, None]], axis=1), axis=1)
        first = np.sort(np.unique(larger, axis=0, return_index=True)[1])[:KEPT]  # each set grows in several orders
        if not len(first):
            break
        top, grown, added, members = top[first], grown[first], added[first], larger[first]
        dots, squares = dots[grown] + nearer[added], squares[grown] + longer[added] + 2 * crossed[grown, added]
        crossed, free = crossed[grown] + gram[added], free[grown] & apart[added]
        found |= zip(map(tuple, members.tolist()), expected.ravel()[top].tolist())
    for chosen in sorted(found, key=lambda it: -found[it]):
        yield together(edits[best[i]] for i in chosen)


def _disjoint(edits: list[Edit]) -> np.ndarray:
    """Which edits can be made at once, because no spans overlap, and only one flips the case: bool (n, n)."""
    spans = max(len(it.spans) for it in edits)
    limits = np.full((len(edits), max(1, spans), 2), -1)  # before the text: apart from every span
    for i, it in enumerate(edits):
        limits[i, : len(it.spans)] = [span[:2] for span in it.spans] or np.empty((0, 2))
    start, stop = limits[..., 0], limits[..., 1]
    before = stop[:, None, :, None] <= start[None, :, None, :]
    flips = np.array([it.flip for it in edits])
    apart = (before | before.transpose(1, 0, 3, 2)).all(axis=(2, 3)) & ~(flips[:, None] & flips)
    np.fill_diagonal(apart, False)
    return apart
