"""How sure a row is: the probability that a text is right, by its cosine."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny import SENTENCES, without_hashes

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation import calibration as module
from v2t_cli.evaluation.calibration import Calibration, Level, calibrate
from v2t_cli.evaluation.metrics import same_words
from v2t_cli.io.vectors import Block
from v2t_cli.models.forms import divided, read_form


def probability(calibration, cosine):
    return calibration.probability(calibration.level(cosine))


def simulated(seed, texts, share):
    """Cosines, of which many are 1 as in a real search, and labels drawn with the probability that `share` gives each cosine."""
    rng = np.random.default_rng(seed)
    cosines = np.where(rng.random(texts) < 0.4, 1.0, 0.5 + 0.5 * rng.random(texts))
    return cosines, rng.random(texts) < share(cosines)


def share(cosines):
    return np.where(cosines == 1, 0.98, np.clip(2 * cosines - 1.1, 0, 1) ** 2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("texts", [1, 2, 5, 200])
def test_it_ascends_from_0_to_1(seed, texts):
    calibration = Calibration(zip(*(it.tolist() for it in simulated(seed, texts, share))))
    found = [probability(calibration, cosine) for cosine in np.linspace(-1, 1, 400)]
    assert found == sorted(found) and found[0] >= 0 and found[-1] < 1
    assert [level.cosine for level in calibration.levels] == sorted({level.cosine for level in calibration.levels})
    for number, level in enumerate(calibration.levels):
        low, high = calibration.interval(number)
        assert 0 <= low <= high <= 1 and 0 <= level.right <= level.texts
    assert sum(level.texts for level in calibration.levels) == calibration.texts == texts


def test_it_finds_the_probabilities_that_labels_were_drawn_with():
    """On average over many calibrations; it may err a little on the low side, because each level counts one more miss."""
    rows, labels = simulated(99, 4000, share)
    bands: dict[str, list[tuple[float, float]]] = {}
    for seed in range(40):
        calibration = Calibration(zip(*(it.tolist() for it in simulated(seed, 200, share))))
        found = np.array([probability(calibration, cosine) for cosine in rows])
        assert abs(found.mean() - share(rows).mean()) < 0.1
        for name, inside in (("sure", found >= 0.95), ("likely", (found >= 0.5) & (found < 0.95)), ("unlikely", found < 0.5)):
            if inside.any():
                bands.setdefault(name, []).append((found[inside].mean(), labels[inside].mean()))
    for name, pairs in bands.items():
        said, true = np.mean(pairs, axis=0)
        assert -0.02 < true - said < 0.06, (name, said, true)
    assert len(bands["sure"]) > 30


def test_few_texts_make_no_row_sure():
    for texts, sure in ((1, False), (10, False), (18, False), (19, True)):
        assert (probability(Calibration([(1.0, True)] * texts), 1.0) >= 0.95) == sure
    with pytest.raises(ValueError, match="no outcomes"):
        Calibration([])


def test_where_nothing_was_measured_nothing_is_probable():
    calibration = Calibration([(0.9, True)] * 30)
    assert (
        calibration.level(0.89) == -1
        and probability(calibration, 0.89) == 0
        and calibration.interval(-1) == (0, calibration.interval(0)[1])
    )


def test_rounding_of_the_encoder_makes_no_levels():
    calibration = Calibration([(1 - 1e-7, False), *[(1.0, True)] * 20, (1 + 1e-7, True), (0.3, False)])
    assert calibration.levels == [Level(0.3, 1, 0), Level(1.0, 22, 21)]
    assert calibration.level(1 - 2e-7) == 1 and calibration.level(0.99) == 0


def test_texts_that_the_search_takes_are_on_one_level():
    """Rows that a store rounded reach no 1."""
    calibration = Calibration([(1.0, True)] * 30 + [(0.99995, True)] * 30 + [(0.9, False)], top=0.9999)
    assert calibration.levels == [Level(0.9, 1, 0), Level(0.9999, 60, 60)]
    assert calibration.level(0.99992) == calibration.level(1.0) == 1 and calibration.level(0.9998) == 0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Где лодка, Анна?", True),
        ("где  Лодка , анна ?", True),
        ("Где лодка, Анна", False),
        ("Где лодка, Яна?", False),
        ("Где лодка Анна?", False),
        ("Анна, где лодка?", False),
    ],
)
def test_case_and_blanks_do_not_count(text, right):
    assert same_words(text, "Где лодка, Анна?") == right


@pytest.fixture
def search(opened):
    return fit(opened, resolve_search(DecodeConfig(beams=4, feedback=0, rounds=0, batch_size=3)))


def test_it_decodes_what_training_held_out(opened, search, monkeypatch):
    calibration = calibrate(opened, search)
    assert calibration.texts == len(opened.held_out()) == 10
    monkeypatch.setattr(module, "TEXTS", 4)
    assert calibrate(opened, search).texts == 4
    assert calibrate(opened, search).levels == calibrate(opened, search).levels


def test_what_it_learned_is_mostly_right(opened, search, monkeypatch):
    monkeypatch.setattr(type(opened), "held_out", lambda self: SENTENCES[:40])
    calibration = calibrate(opened, search)
    assert calibration.texts == 40 and calibration.right >= 20
    assert probability(calibration, 1.0) > 0.8 and probability(calibration, 0.0) < 0.5


def test_rounded_rows_are_as_sure_as_whole_ones(opened, search, monkeypatch):
    monkeypatch.setattr(type(opened), "held_out", lambda self: SENTENCES)
    whole = opened.encoder.encode(SENTENCES)
    rounded = np.round(whole / np.abs(whole).max() * 127).astype(np.float32)
    calibration = calibrate(opened, search)
    rows = [[row.best.nearness for row in decode(opened, [Block(0, rows)], search)] for rows in (whole, rounded)]
    sure, of_rounded = (sum(probability(calibration, cosine) > 0.9 for cosine in it) for it in rows)
    assert sure > 50 and of_rounded >= 0.9 * sure


def test_texts_that_taught_to_read_bits_measure_nothing(opened, search, monkeypatch):
    monkeypatch.setattr(type(opened), "held_out", lambda self: SENTENCES)
    learned, measured = divided(SENTENCES)
    formed, _ = read_form(replace(opened, fits={}), np.sign(opened.encoder.encode(SENTENCES)), "bits")
    embedded: list[str] = []
    monkeypatch.setattr(module, "embed_all", lambda encoder, texts, processes: embedded.extend(texts) or encoder.encode(texts))
    assert calibrate(formed, search).texts == len(measured) == 25 and embedded == measured
    assert not set(embedded) & set(learned)
    monkeypatch.setattr(type(opened), "held_out", lambda self: SENTENCES[:10])
    with pytest.raises(RequestError, match="holds too few held-out texts, so nothing tells"):
        calibrate(formed, search)


def test_without_held_out_texts(opened, search, checkpoint, tmp_path):
    folder = without_hashes(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    (folder / "held_out.txt").write_text("")
    info = opened.info.model_copy(update={"files": {}})
    with pytest.raises(RequestError, match="holds no held-out texts"):
        calibrate(replace(opened, folder=folder, info=info), search)
