"""What decoded rows give away, counted as they come."""

import random
from collections import Counter

import pytest
from leaks import row, tally

from v2t_cli.decoding.candidates import Candidate, Row, SureWord
from v2t_cli.evaluation.calibration import Calibration
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.evaluation.leak import FEW, MANY, Band, Kind, Reservoir, Tally
from v2t_cli.evaluation.redaction import Redactor
from v2t_cli.models.lexicon import Lexicon


def test_rows_by_confidence():
    leak = tally(row(i, "да", cosine) for i, cosine in enumerate((1, 1, 1, 0.95, 0.9, 0.85, 0.5, 0.4)))
    assert (leak.rows, leak.sure, leak.telling_rows) == (8, 3, 0)
    assert [(band.low, band.rows, round(band.expected, 6)) for band in leak.bands] == [
        (0.95, 3, 2.97),
        (0.8, 2, 1.8),
        (0.5, 1, 0.6),
        (0.0, 2, 0.0),
    ]
    assert leak.expected == pytest.approx(5.37)
    low, high = leak.interval
    assert 0 < low < leak.expected < high < 8
    for band in leak.bands:
        assert 0 <= band.interval[0] <= band.expected <= band.interval[1] <= band.rows


def test_what_the_rows_hold():
    texts = [("Анна ждёт тебя в 5:30, 8 марта", 1.0), ("где 1 и 2? a@example.org", 1.0), ("да", 1.0), ("Анна, 415-555-0134", 0.5)]
    leak = tally(row(i, text, cosine) for i, (text, cosine) in enumerate(texts))
    assert leak.kinds == [
        Kind("names", 1, 1, 2, 2),
        Kind("numbers", 3, 2, 3, 2),
        Kind("dates", 1, 1, 1, 1),
        Kind("phone numbers", 0, 0, 1, 1),
        Kind("addresses", 1, 1, 1, 1),
    ]
    assert leak.telling_rows == 2
    assert [it.text for it in leak.telling] == [texts[0][0], texts[1][0]] and [it.text for it in leak.plain] == ["да"]
    assert leak.likely == [] and [(it.label, it.text, it.probability) for it in leak.unlikely] == [("3", "Анна, 415-555-0134", 0.0)]


def test_examples_are_few_in_order_and_the_same_for_the_same_seed():
    rows = [row(i, f"да {'1' * (i % 2)}", (1.0, 0.9, 0.8, 0.3)[i // 2 % 4], [SureWord("да", 0.9)]) for i in range(4000)]
    leak = tally(rows)
    samples = [leak.telling, leak.plain, leak.likely, leak.unlikely]
    assert [len(it) for it in samples] == [MANY, MANY, FEW, FEW]
    for sample in samples:
        numbers = [int(it.label.replace(",", "")) for it in sample]
        assert numbers == sorted(set(numbers)) and numbers[-1] > 500, "not only the first rows"
        assert all(it.words == [("да", 0.9)] for it in sample)
    assert tally(rows) == leak and tally(rows, seed=1).telling != leak.telling


def test_no_rows():
    leak = tally([])
    assert (leak.rows, leak.sure, leak.expected, leak.interval) == (0, 0, 0, (0, 0))
    assert leak.bands[0] == Band(0.95, 0, 0, (0, 0)) and leak.telling == leak.unlikely == []


def test_a_reservoir_takes_every_item_as_often():
    generator, taken = random.Random(0), Counter[int]()
    for _ in range(3000):
        reservoir = Reservoir[int](2, generator)
        for item in range(6):
            reservoir.add(item)
        taken.update(reservoir.items)
    assert all(900 < taken[item] < 1100 for item in range(6))


def test_rows_are_found_by_their_ids_which_may_be_names():
    lexicon = Lexicon(["и"], [5], [])
    counted = Tally(Calibration([(0.9, False)]), EntityFinder(lexicon))
    counted.add(Row(1234, [Candidate("и", -1.0, 0.5)], id="анна@почта"))
    counted.add(Row(1235, [Candidate("и", -1.0, 0.5)]))
    leak = counted.result()
    assert [it.label for it in leak.unlikely] == ["анна@почта", "1,235"]
    assert [it.label for it in Redactor(lexicon).leak(leak).unlikely] == ["1,234", "1,235"]
