"""What decoded rows give away when nobody has the true texts: how sure the rows are, what they hold, and examples."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Generic, TypeVar

from v2t_cli.decoding.candidates import Row, SureWord
from v2t_cli.evaluation.calibration import Calibration
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.evaluation.metrics import Interval

T = TypeVar("T")
SURE = 0.95  # probability of being right, at least, of a row that was reliably read
BANDS = (SURE, 0.8, 0.5, 0.0)  # lower ends of the bands of probabilities
MANY, FEW = 8, 4  # examples of rows that were reliably read, and of others


@dataclass
class Example:
    """A decoded row. id: that the store has for it; probability: that the text is right, as calibration.py has it; words: as in Row."""

    index: int
    id: str | None
    text: str
    cosine: float
    probability: float
    words: list[SureWord] | None

    @property
    def label(self) -> str:
        """What a reader finds the row by."""
        return f"{self.index:,}" if self.id is None else self.id


@dataclass
class Band:
    """The rows whose probability of being right is at least `low`, and below the next band's.

    expected: how many of them are right; interval: 95 %, of this number.
    """

    low: float
    rows: int
    expected: float
    interval: Interval


@dataclass
class Kind:
    """How many entities of a kind are in the rows that were reliably read and in all rows, and how many rows hold one."""

    kind: str
    in_sure: int
    sure_rows: int
    in_all: int
    all_rows: int


@dataclass
class Leak:
    """What the rows give away.

    bands: the surest first; telling: examples of rows that were reliably read and hold entities; plain: of those that hold none; likely:
    of other rows that are rather right than not; unlikely: of the rest.
    """

    rows: int
    sure: int
    telling_rows: int  # reliably read, with entities
    bands: list[Band]
    kinds: list[Kind]
    telling: list[Example]
    plain: list[Example]
    likely: list[Example]
    unlikely: list[Example]
    calibration: Calibration

    @property
    def expected(self) -> float:
        """How many rows are right."""
        return sum(band.expected for band in self.bands)

    @property
    def interval(self) -> Interval:
        """95 %, of the number of right rows. The ends are sums of those of the bands: cautious."""
        low, high = (sum(ends) for ends in zip(*(band.interval for band in self.bands)))
        return low, high


class Reservoir(Generic[T]):
    """A random sample of a stream, each item as likely as any other (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, generator: random.Random):
        self.items: list[T] = []
        self.seen = 0
        self._size, self._generator = size, generator

    def add(self, item: T) -> None:
        self.seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
        elif (place := self._generator.randrange(self.seen)) < self._size:
            self.items[place] = item


class Tally:
    """Counts rows as they come and keeps a few as examples: memory does not grow with the rows."""

    def __init__(self, calibration: Calibration, finder: EntityFinder, seed: int = 0):
        """seed: of the choice of examples."""
        generator = random.Random(seed)
        self._calibration, self._finder = calibration, finder
        self._levels: Counter[int] = Counter()
        # By kind, in the rows that were reliably read (True) and in the others (False).
        self._entities: Counter[tuple[str, bool]] = Counter()
        self._holding: Counter[tuple[str, bool]] = Counter()
        self._telling, self._plain = (Reservoir[Example](MANY, generator) for _ in range(2))
        self._likely, self._unlikely = (Reservoir[Example](FEW, generator) for _ in range(2))

    def add(self, row: Row) -> None:
        """Count a row whose best text has a cosine."""
        level = self._calibration.level(row.best.nearness)
        probability = self._calibration.probability(level)
        sure = probability >= SURE
        found = Counter(entity.kind for entity in self._finder.find(row.best.text))
        self._levels[level] += 1
        for kind, count in found.items():
            self._entities[kind, sure] += count
            self._holding[kind, sure] += 1
        if sure and found:
            sample = self._telling
        elif sure:
            sample = self._plain
        else:
            sample = self._likely if probability >= BANDS[-2] else self._unlikely
        sample.add(Example(row.index, row.id, row.best.text, row.best.nearness, probability, row.words))

    def result(self) -> Leak:
        """What the rows so far give away; the examples are in the order of the rows."""
        samples = (self._telling, self._plain, self._likely, self._unlikely)
        telling, plain, likely, unlikely = (sorted(it.items, key=lambda example: example.index) for it in samples)
        bands = [self._band(low, high) for low, high in zip(BANDS, (2.0, *BANDS))]
        return Leak(
            rows=self._levels.total(),
            sure=bands[0].rows,
            telling_rows=self._telling.seen,
            bands=bands,
            kinds=[self._kind(kind) for kind in self._finder.kinds],
            telling=telling,
            plain=plain,
            likely=likely,
            unlikely=unlikely,
            calibration=self._calibration,
        )

    def _band(self, low: float, high: float) -> Band:
        measured = self._calibration
        inside = {level: rows for level, rows in self._levels.items() if low <= measured.probability(level) < high}
        ends = [sum(rows * measured.interval(level)[end] for level, rows in inside.items()) for end in (0, 1)]
        expected = sum(rows * measured.probability(level) for level, rows in inside.items())
        return Band(low, sum(inside.values()), expected, (ends[0], ends[1]))

    def _kind(self, kind: str) -> Kind:
        entities, holding = self._entities, self._holding
        return Kind(
            kind,
            entities[kind, True],
            holding[kind, True],
            entities[kind, True] + entities[kind, False],
            holding[kind, True] + holding[kind, False],
        )
