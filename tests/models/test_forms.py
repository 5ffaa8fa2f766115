"""Forms of stored vectors: recognised, and restored so that the right text still has the highest cosine."""

from copy import copy, deepcopy
from dataclasses import replace

import numpy as np
import pytest
from tiny import DIM, SENTENCES, Counting

from v2t_cli.core.config import Config
from v2t_cli.core.errors import RequestError
from v2t_cli.core.similarity import row_cosine, unit_rows
from v2t_cli.models.checkpoint import open_checkpoint
from v2t_cli.models.forms import divided, form_of, read_form
from v2t_cli.models.lexicon import Lexicon


@pytest.fixture(scope="module")
def opened(checkpoint):
    return open_checkpoint(checkpoint, Config(), "cpu", use="required")


@pytest.fixture(scope="module")
def vectors(opened):
    return opened.encoder.encode(SENTENCES)


def ranged(vectors, unsigned=False):
    """8 bits as sentence-transformers makes them: a range for each dimension, which is not stored."""
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    steps = np.round((vectors - low) / ((high - low) / 255))
    return steps.astype(np.uint8) if unsigned else (steps - 128).astype(np.int8)


def scaled(vectors, unsigned=False):
    """8 bits with one scale for all."""
    steps = np.round(vectors / np.abs(vectors).max() * 127)
    return (steps + 128).astype(np.uint8) if unsigned else steps.astype(np.int8)


def forms(vectors):
    packed = np.packbits(vectors > 0, axis=1)
    return {
        "float": [vectors, vectors.astype(np.float16), 3 * vectors],
        "padded": [np.pad(vectors, ((0, 0), (0, 8)))],
        "int8": [
            *(ranged(vectors), ranged(vectors, True), scaled(vectors), scaled(vectors, True)),
            *(scaled(vectors).astype(np.float32), scaled(vectors, True).astype(np.float32)),
        ],
        "bits": [packed, (packed.astype(np.int16) - 128).astype(np.int8), (vectors > 0).astype(np.uint8), np.sign(vectors), vectors > 0]
        + [
            packed.astype(np.float32),
            packed.astype(np.float32) - 128,
            np.where(vectors == vectors.min(), 0, np.sign(vectors)),
        ],
    }


@pytest.mark.parametrize("form", ["float", "padded", "int8", "bits"])
def test_forms_are_recognised_and_restored(opened, vectors, form):
    least = {"float": 0.999, "padded": 0.999, "int8": 0.99, "bits": 0.5}[form]
    for stored in forms(vectors)[form]:
        stored = stored.astype(np.uint8) if stored.dtype == bool else stored
        assert form_of(stored, opened.info, "store") == form
        read, restore = read_form(opened, stored, form)
        restored = restore(stored.astype(np.float32))
        assert restored.dtype == np.float32 and row_cosine(restored, vectors).mean() > least
        # The right text is the nearest, as the checkpoint then compares.
        cosines = unit_rows(restored) @ unit_rows(read.encoder.encode(SENTENCES)).T
        assert np.mean(cosines.diagonal() >= cosines.max(axis=1) - 1e-5) > 0.9
        if form == "bits":
            np.testing.assert_allclose(cosines.diagonal(), 1, atol=1e-5)


def test_cut_vectors_must_be_named(opened, vectors):
    cut = unit_rows(vectors[:, :10])
    with pytest.raises(RequestError, match="10 dimensions, but the checkpoint reads 16.*--form cut"):
        form_of(cut, opened.info, "store")
    assert form_of(cut, opened.info, "store", "cut") == "cut"
    read, restore = read_form(opened, cut, "cut")
    restored = restore(cut)
    assert row_cosine(restored, vectors).mean() > row_cosine(np.pad(cut, ((0, 0), (0, 6))), vectors).mean()
    np.testing.assert_allclose(row_cosine(restored, read.encoder.encode(SENTENCES)), 1, atol=1e-5)


def test_dimensions_that_never_varied_stay_still(opened, vectors):
    """A range of its own stretches their rounding errors to all 255 steps."""
    adapter, still = deepcopy(opened.inverter.adapter), np.arange(DIM) == 3
    adapter.mean[3], adapter.scale[3] = 0, 1
    stored = np.where(still, np.random.default_rng(0).integers(-128, 128, size=vectors.shape), ranged(vectors)).astype(np.int8)
    inverter = copy(opened.inverter)
    inverter._modules = {**inverter._modules, "adapter": adapter}
    _, restore = read_form(replace(opened, inverter=inverter), stored, "int8")
    assert not restore(stored)[:, 3].any() and row_cosine(restore(stored), np.where(still, 0, vectors)).mean() > 0.98


def test_a_store_without_rows(opened):
    for named in ("auto", "cut", "bits", "int8"):
        form = form_of(np.empty((0, DIM), np.float32), opened.info, "store", named)
        assert read_form(opened, np.empty((0, DIM), np.float32), form)[1](np.empty((0, DIM), np.float32)).shape == (0, DIM)


def test_padded_is_checked_in_every_row(opened, vectors):
    padded = np.pad(vectors, ((0, 0), (0, 8)))
    _, restore = read_form(opened, padded, "padded")
    padded[7, -1] = 1
    with pytest.raises(RequestError, match="padded with zeros after the first 16 numbers, but not all"):
        restore(padded)


def test_another_width_is_refused_with_both_numbers(opened):
    words = f"v.npy: vectors of 768 dimensions, but the checkpoint reads {DIM} .of .*encoder.; embed the texts with"
    with pytest.raises(RequestError, match=words):
        form_of(np.ones((2, 768), np.float32), opened.info, "v.npy")


def test_what_no_form_explains_is_refused(opened, vectors):
    for stored, named in ((np.pad(vectors, ((0, 0), (0, 1)), constant_values=1), "auto"), (vectors[:, :3], "auto")):
        with pytest.raises(RequestError, match="store: vectors of"):
            form_of(stored, opened.info, "store", named)
    with pytest.raises(RequestError, match="form int8 does not explain vectors of 3 numbers where the checkpoint reads 16"):
        form_of(vectors[:, :3], opened.info, "store", "int8")


def test_bits_need_the_encoder(opened, vectors):
    with pytest.raises(RequestError, match="form bits needs the checkpoint's encoder"):
        read_form(replace(opened, encoder=None), np.sign(vectors), "bits")


def test_few_integers_are_scaled_and_many_matched(opened, vectors, caplog):
    _, restore = read_form(opened, ranged(vectors)[:5], "int8")
    assert "5 rows are too few" in caplog.text
    np.testing.assert_allclose(np.linalg.norm(restore(np.eye(3, DIM)), axis=1), opened.inverter.adapter.training_length, rtol=1e-5)


def test_a_form_is_learned_once(opened, vectors, monkeypatch):
    counting = Counting(opened.encoder)
    checkpoint = replace(opened, encoder=counting, fits={})
    packed = np.packbits(vectors > 0, axis=1)
    _, of_packed = read_form(checkpoint, packed, "bits")
    embedded, lexicon = len(counting.texts), checkpoint.lexicon
    assert embedded == len(divided(opened.held_out())[0])
    monkeypatch.setattr(Lexicon, "read", lambda path: pytest.fail("the lexicon was read again"))
    again, of_signs = read_form(checkpoint, np.sign(vectors), "bits")
    assert len(counting.texts) == embedded and again.lexicon is lexicon
    np.testing.assert_array_equal(of_packed(packed), of_signs(np.sign(vectors)))
    for width in (10, 12):
        _, restore = read_form(checkpoint, vectors[:, :width], "cut")
        assert restore(vectors[:, :width]).shape == vectors.shape


def test_most_held_out_texts_are_learned_from_and_the_others_measured_with():
    for count, measured in ((2000, 200), (400, 100), (14, 4), (13, 0), (10, 0), (0, 0)):
        learned, others = divided(list(map(str, range(count))))
        assert len(others) == measured and len(learned) == count - measured and not set(learned) & set(others)


def test_a_few_rows_tell_floating_point_numbers(opened, vectors, monkeypatch):
    """Sorting the numbers of all rows takes a tenth of a second."""
    sorted_numbers = []
    unique = np.unique
    monkeypatch.setattr(np, "unique", lambda array: sorted_numbers.append(array.size) or unique(array))
    stored = np.tile(vectors, (50, 1))
    assert form_of(stored, opened.info, "store") == "float" and max(sorted_numbers) == 100 * DIM
    assert form_of(scaled(stored), opened.info, "store") == "int8"


def test_the_encoder_still_says_which_texts_it_cuts(opened, vectors):
    counting = Counting(opened.encoder)
    read, _ = read_form(replace(opened, encoder=counting), np.sign(vectors), "bits")
    assert read.encoder.count_truncated(["а" * 1000]) == opened.encoder.count_truncated(["а" * 1000])
    assert read.encoder.identity == opened.encoder.identity and read.encoder.encode(["Привет"]).shape[1] == DIM
