import itertools
import random

import numpy as np
import pytest
from tiny import disjoint

from v2t_cli.core.similarity import unit_rows
from v2t_cli.decoding import sums as module
from v2t_cli.decoding.edits import FLIP, Edit, Span, edit, together
from v2t_cli.decoding.sums import sums


def problem(count: int, seed: int = 0, dim: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of edited texts near that of the text, that one, and a target."""
    draw = np.random.default_rng(seed)
    own, target = unit_rows(draw.normal(size=(2, dim)))
    return unit_rows(own + 0.3 * draw.normal(size=(count, dim))), own, unit_rows((own + target)[None])[0]


def apart(count: int) -> list[Edit]:
    return [edit(Span(2 * i, 2 * i + 1, "x")) for i in range(count)]


def random_edits(count: int, seed: int) -> list[Edit]:
    """Of no span to three, some of which hold no characters."""
    draw, out = random.Random(seed), []
    while len(out) < count:
        limits = sorted(draw.randrange(13) for _ in range(2 * draw.randrange(4)))
        out.append(Edit(tuple(Span(start, stop, "x") for start, stop in zip(limits[::2], limits[1::2])), draw.random() < 0.3))
    return out


def test_sums_come_by_the_cosine_that_they_are_expected_to_reach():
    """All pairs, triples and quadruples of five edits, of which two exclude each other."""
    vectors, own, target = problem(5)
    edits = [*apart(4), edit(Span(0, 3, "y"))]
    expected = {}
    for size in (2, 3, 4):
        for chosen in itertools.combinations(range(5), size):
            if all(disjoint(edits[i], edits[j]) for i, j in itertools.combinations(chosen, 2)):
                moved = own + sum(vectors[i] - own for i in chosen)
                expected[frozenset(edits[i].spans[0] for i in chosen)] = moved @ target / np.linalg.norm(moved)
    found = list(sums(edits, vectors, own, target))
    assert {len(it.spans) for it in found} == {2, 3, 4} and len(found) == len(expected) == 11 + 3
    cosines = [expected[frozenset(it.spans)] for it in found]
    assert cosines == sorted(cosines, reverse=True) and len(set(cosines)) == len(expected), "each once"


def test_moves_that_cancel_out_belong_together():
    """Alone each of them leads sideways."""
    own, target = np.array([1.0, 0, 0]), np.array([0.6, 0.8, 0.0])
    vectors = unit_rows(np.array([[0.9, 0.4, 0.1], [0.9, 0.4, -0.1], [0.9, 0.0, 0.4], [0.95, 0.3, 0.0]]))
    edits = [edit(Span(0, 1, "a")), edit(Span(3, 4, "b")), edit(Span(6, 7, "c")), edit(Span(0, 2, "d"))]
    pairs = [it for it in sums(edits, vectors, own, target) if len(it.spans) == 2]
    assert set(pairs[0].spans) == {Span(0, 1, "a"), Span(3, 4, "b")}
    assert len(pairs) == 5, "all six pairs but the one whose edits overlap"


@pytest.mark.parametrize("seed", range(5))
def test_only_disjoint_edits_are_summed(seed):
    edits = random_edits(40, seed)
    found = list(sums(edits, *problem(40, seed)))
    assert found
    for it in found:
        assert all(disjoint(edit(a), edit(b)) for a, b in itertools.combinations(it.spans, 2))


@pytest.mark.parametrize("seed", range(20))
def test_disjoint_is_what_the_edits_say(seed):
    edits = random_edits(2 + seed, seed)
    table = module._disjoint(edits)
    for (i, one), (j, two) in itertools.product(enumerate(edits), repeat=2):
        assert table[i, j] == (i != j and disjoint(one, two)), (one, two)


def test_the_case_is_flipped_once_at_most():
    edits = [FLIP, Edit((Span(0, 1, "x"),), flip=True), *apart(3)[1:]]
    found = list(sums(edits, *problem(4)))
    assert {it.flip for it in found} == {True, False}
    assert all(Span(0, 1, "x") not in it.spans or it.flip for it in found)
    assert not list(sums([FLIP, FLIP], *problem(2)))


def test_only_the_nearest_are_summed(monkeypatch):
    vectors, own, target = problem(12)
    edits = apart(12)
    near = {edits[i].spans[0] for i in np.argsort(-(vectors @ target))[:4]}
    monkeypatch.setattr(module, "SINGLES", 4)
    assert {span for it in sums(edits, vectors, own, target) for span in it.spans} == near
    monkeypatch.setattr(module, "LARGEST", 2)
    assert {frozenset(it.spans) for it in sums(edits, vectors, own, target)} == set(map(frozenset, itertools.combinations(near, 2)))


def test_edits_that_do_not_move_the_vector_join_no_sum():
    vectors, own, target = problem(5)
    vectors[[0, 3]] = own
    found = [{span.start // 2 for span in it.spans} for it in sums(apart(5), vectors, own, target)]
    assert len(found) == 4 and set.union(*found) == {1, 2, 4}
    assert not list(sums(apart(5), np.stack([own] * 5), own, target))


def test_a_few_of_many_sums_are_kept():
    vectors, own, target = problem(150, dim=32)
    found = list(sums(apart(150), vectors, own, target))
    assert 20 < len(found) <= 3 * module.KEPT and len({frozenset(it.spans) for it in found}) == len(found)
    assert {len(it.spans) for it in found} == {2, 3, 4}


def test_too_few_edits():
    for count in (0, 1):
        assert not list(sums(apart(count), *problem(count)))
    assert not list(sums([edit(Span(0, 2, "")), edit(Span(1, 3, ""))], *problem(2))), "both take the same letter"


def test_opposite_moves_do_not_divide_by_zero():
    own = np.array([1.0, 0.0])
    vectors = unit_rows(np.array([[1e-4, 1.0], [1e-4, -1.0], [0.5, -1.0]]))
    with np.errstate(all="raise"):
        assert len(list(sums(apart(3), vectors, own, np.array([0.0, 1.0])))) == 4


def test_a_sum_is_its_edits_together():
    edits = [*apart(2), FLIP]
    found = list(sums(edits, *problem(3)))
    assert {(frozenset(it.spans), it.flip) for it in found} == {
        (frozenset(it.spans), it.flip) for it in (together(edits[:2]), together(edits[1:]), together(edits[::2]), together(edits))
    }
