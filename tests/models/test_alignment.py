"""Maps between the spaces of two encoders."""

from dataclasses import replace

import numpy as np
import pytest

from v2t_cli.core.errors import RequestError
from v2t_cli.core.similarity import row_cosine, unit_rows
from v2t_cli.models import alignment as module
from v2t_cli.models.alignment import Alignment, fit_alignment, left_out


def pairs(count, noise=0.0, bend=lambda given: given, dim=12, foreign=20, seed=0):
    """Own vectors, and those of a foreign encoder that turns, bends and blurs them."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(foreign, dim)))[0].T
    own = unit_rows(rng.normal(size=(count, dim)) + 0.3)
    made = bend(own @ turn)
    return made + noise * rng.normal(size=made.shape) / foreign**0.5, own


def test_a_secret_rotation_is_undone():
    foreign, own = pairs(300)
    fitted = fit_alignment(foreign[:200], own[:200])
    found = fitted.alignment(foreign[200:])
    assert found.dtype == np.float32 and found.shape == (100, 12) and row_cosine(found, own[200:]).min() > 0.999


def test_a_rotation_is_chosen_where_few_pairs_are_nearly_exact():
    foreign, own = pairs(240, noise=0.05, foreign=12)
    assert fit_alignment(foreign[:40], own[:40]).kind == "rotation"


def test_a_kernel_is_chosen_where_space_is_bent():
    foreign, own = pairs(800, bend=lambda given: np.sign(given) * given**2)
    fitted = fit_alignment(foreign[:600], own[:600])
    assert fitted.kind == "kernel" and fitted.alignment.landmarks.shape == (600, 20)
    assert fitted.cosine == pytest.approx(row_cosine(fitted.alignment(foreign[600:]), own[600:]).mean(), abs=0.02)


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
def test_the_cosine_that_is_promised_is_that_of_other_pairs(noise):
    foreign, own = pairs(2200, noise)
    fitted = fit_alignment(foreign[:200], own[:200])
    assert fitted.cosine == pytest.approx(row_cosine(fitted.alignment(foreign[200:]), own[200:]).mean(), abs=0.03)


def test_what_is_left_out_is_predicted_as_if_fitted_without_it():
    foreign, own = pairs(30, noise=0.5)
    given, wanted = foreign - foreign.mean(axis=0), own - own.mean(axis=0)
    noise, cosine = module._best_noise(module._linear(given, given), wanted, own.mean(axis=0), centred=True)
    one_by_one = []
    for i in range(30):
        rest = np.arange(30) != i
        centre, offset = foreign[rest].mean(axis=0), own[rest].mean(axis=0)
        # The regularisation is relative to the mean square of all 30.
        square = noise * np.square(given).sum(axis=1).mean()
        part = foreign[rest] - centre
        weights = np.linalg.solve(part.T @ part + square * np.eye(20), part.T @ (own[rest] - offset))
        one_by_one.append(row_cosine(((foreign[i] - centre) @ weights + offset)[None], own[i][None])[0])
    assert cosine == pytest.approx(np.mean(one_by_one), abs=1e-5)


@pytest.mark.parametrize(("count", "measured"), [(12, 0), (13, 13), (150, 150), (600, 200)])
def test_pairs_are_mapped_by_fits_to_others(count, measured, monkeypatch):
    monkeypatch.setattr(module, "PLENTY", 500)
    foreign, own = pairs(count + 300, noise=0.5)
    rows, mapped = left_out(foreign[:count], own[:count])
    assert len(np.unique(rows)) == len(rows) == measured and mapped.shape == (measured, 12) and mapped.dtype == np.float32
    if measured > 100:
        fitted = fit_alignment(foreign[:count], own[:count]).alignment
        alone, known, unknown = (
            row_cosine(*it).mean()
            for it in ((mapped, own[rows]), (fitted(foreign[:count]), own[:count]), (fitted(foreign[count:]), own[count:]))
        )
        assert alone == pytest.approx(unknown, abs=0.02) and known > alone, "as good as on pairs that it does not know"


def test_more_pairs_than_landmarks(monkeypatch):
    monkeypatch.setattr(module, "LANDMARKS", 50)
    foreign, own = pairs(800, bend=lambda given: np.sign(given) * given**2)
    alignment = fit_alignment(foreign[:600], own[:600]).alignment
    assert len(alignment.landmarks) == 50 and row_cosine(alignment(foreign[600:]), own[600:]).mean() > 0.9


def test_lengths_do_not_matter_and_come_out_as_those_of_the_own_vectors():
    foreign, own = pairs(100)
    plain, scaled = fit_alignment(foreign, 3 * own).alignment, fit_alignment(1000 * foreign, 3 * own).alignment
    np.testing.assert_allclose(plain(foreign), scaled(50 * foreign), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(plain(foreign), axis=1), 3, rtol=1e-5)


def test_too_few_pairs_and_equal_vectors_are_refused():
    foreign, own = pairs(20)
    with pytest.raises(RequestError, match="9 pairs of texts and vectors are too few"):
        fit_alignment(foreign[:9], own[:9])
    with pytest.raises(RequestError, match="all texts are equal"):
        fit_alignment(np.ones((20, 5)), own)


@pytest.mark.parametrize("bend", [lambda given: given, lambda given: np.sign(given) * given**2])
def test_a_saved_map_is_the_same(tmp_path, bend):
    foreign, own = pairs(400, bend=bend, foreign=12)
    alignment = fit_alignment(foreign, own).alignment
    for held_out in (None, own[:7].astype(np.float32)):
        alignment.held_out = held_out
        alignment.save(tmp_path / "alignment.safetensors")
        again = Alignment.load(tmp_path / "alignment.safetensors", 12, own.shape[1])
        np.testing.assert_array_equal(alignment(foreign), again(foreign))
        assert np.array_equal(again.held_out, held_out) if held_out is not None else again.held_out is None


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "alignment.safetensors"
    with pytest.raises(RequestError, match="alignment.safetensors: missing"):
        Alignment.load(path, 20, 12)
    path.write_bytes(b"nonsense")
    with pytest.raises(RequestError, match="alignment.safetensors: damaged"):
        Alignment.load(path, 20, 12)
    foreign, own = pairs(100)
    fit_alignment(foreign, own).alignment.save(path)
    for foreign_dim, dim in ((20, 13), (21, 12)):
        with pytest.raises(RequestError, match="do not fit together"):
            Alignment.load(path, foreign_dim, dim)
    for held_out in (np.zeros((3, 13)), np.zeros(12)):
        replace(fit_alignment(foreign, own).alignment, held_out=held_out).save(path)
        with pytest.raises(RequestError, match="do not fit together"):
            Alignment.load(path, 20, 12)


def test_zeros_stay_zeros_and_parts_are_as_the_whole(monkeypatch):
    """A row of zeros has no text; decoding says so."""
    foreign, own = pairs(300, bend=lambda given: np.sign(given) * given**2)
    alignment = fit_alignment(foreign, own).alignment
    foreign[7] = 0
    whole = alignment(foreign)
    assert not whole[7].any() and whole[6].any()
    monkeypatch.setattr("v2t_cli.models.alignment.ROWS", 64)
    np.testing.assert_allclose(alignment(foreign), whole, atol=1e-6)
    assert alignment(foreign[:0]).shape == (0, own.shape[1])
