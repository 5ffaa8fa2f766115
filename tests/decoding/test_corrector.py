import re
import shutil
import zlib
from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES, Counting, without_hashes

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.similarity import unit_rows
from v2t_cli.decoding import corrector as module
from v2t_cli.decoding.candidates import Candidate, Ranking, Row, rerank
from v2t_cli.decoding.corrector import Corrector
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.reading import Reader, Reading
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.inverter import log_likelihood
from v2t_cli.models.language_model import tokenize
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.words import Words

TRUTH = "Мой брат ищет ключи в саду."


class Bag(Encoder):
    """An encoder that sees words, their beginnings, which neighbours they have, marks, and case; the tiny LaBSE is blind to case."""

    def __init__(self, identity):
        self.identity = identity.model_copy(update={"name": "bag", "probe": [1.0, *[0.0] * (DIM - 1)]})

    def encode(self, texts):
        return np.array([self._vector(text) for text in texts], dtype=np.float32).reshape(len(texts), DIM)

    def _vector(self, text):
        pieces = re.findall(r"\w+|[^\w\s]", text)
        weights = [*((piece.lower()[:3], 2.0) for piece in pieces), *((piece, 0.7) for piece in pieces)]
        weights += [(f"{left} {right}".lower(), 0.4) for left, right in zip(pieces, pieces[1:])]
        return sum((weight * self._direction(feature) for feature, weight in weights), np.full(DIM, 0.01))

    def _direction(self, feature):
        return np.random.default_rng(zlib.crc32(feature.encode())).normal(size=DIM)

    def count_truncated(self, texts):
        return 0


class Drafting(Counting):
    """An encoder whose drafts are wrong by a little."""

    draft_error = 0.0002

    def draft(self, texts):
        vectors = self.encode(texts)
        noise = np.random.default_rng(zlib.crc32("".join(texts).encode())).normal(size=vectors.shape)
        return unit_rows(unit_rows(vectors) + 0.01 * noise / np.sqrt(DIM)).astype(np.float32)


@pytest.fixture
def counting(opened):
    """The trained checkpoint, with its words, and with an encoder that counts."""
    opened.open_words(2**17)
    return replace(opened, encoder=Counting(opened.encoder))


@pytest.fixture
def bag(loaded, encoder):
    """The trained checkpoint with another encoder: the decoder understands nothing of its vectors."""
    return replace(loaded, encoder=Counting(Bag(encoder.identity)))


@pytest.fixture
def without_tokens(monkeypatch):
    def read(self, texts, targets, words):
        return [Reading([], np.zeros((len(text) + 1, len(text) + 1)), None) for text in texts]

    monkeypatch.setattr(Reader, "read", read)


def search(checkpoint, **settings):
    """Of edits alone, unless the settings say otherwise: test_feedback.py has the decoder write again."""
    return fit(checkpoint, resolve_search(DecodeConfig(**{"quality": "best", "feedback": 0, **settings})))


def decoded(checkpoint, vectors, **settings):
    return list(decode(checkpoint, [Block(0, vectors)], search(checkpoint, **settings)))


def corrector_of(checkpoint, fitted):
    return Corrector(checkpoint.inverter, checkpoint.tokenizer, checkpoint.encoder, checkpoint.words, fitted)


def corrected(checkpoint, start, truth=TRUTH, logprob=-10.0, **settings):
    """The candidates of the vector of a text after correction, the texts embedded for it, and the best cosine at the start."""
    # To the tiny random encoder some different texts look very much alike.
    fitted, encoder = search(checkpoint, until_cosine=0.999999, **settings), checkpoint.encoder
    target = encoder.encode([truth])
    corrector = corrector_of(checkpoint, fitted)
    row = Row(0, [Candidate(text, logprob) for text in start])
    rerank([row], target, encoder, corrector.ranking)
    before, encoder.texts = max(it.cosine for it in row.candidates), []
    corrector.correct([row], target)
    return row.candidates, row.encoder_calls - len(start), before


@pytest.mark.parametrize(
    "start",
    [
        ["Мой брат ждёт ключи в саду.", "Мама ищет газету дома."],  # a word that another candidate has
        ["Мой брат ждёт ключи в саду."],  # one that no candidate has
        ["Мой ключи ищет брат в саду."],  # two to swap
        ["Мой брат ищет ключи дома в саду."],  # one too many
        ["Мой брат ищет ключи в."],  # one too few
        ["Мой брат ищет в саду.", "Иван ищет ключи."],  # one too few, which another candidate has
    ],
)
def test_it_finds_the_text(counting, start):
    row, calls, before = corrected(counting, start)
    assert (row[0].text, before < 0.999999 <= row[0].cosine) == (TRUTH, True)
    assert len({candidate.text for candidate in row}) == len(row)
    assert calls == len(counting.encoder.texts), "what it reports is what it asked"


@pytest.mark.parametrize("feedback", [0, 3])
@pytest.mark.parametrize("start", ["Мой брат ждёт ключи в саду.", "Мама ищет газету дома."])
def test_drafts_guide_but_exact_vectors_decide(opened, start, feedback):
    opened.open_words(2**17)
    encoder = Drafting(opened.encoder)
    row, calls, _ = corrected(replace(opened, encoder=encoder), [start], rounds=3, feedback=feedback)
    assert calls == len(encoder.texts)
    exact = unit_rows(opened.encoder.encode([it.text for it in row])) @ unit_rows(opened.encoder.encode([TRUTH]))[0]
    np.testing.assert_allclose([it.cosine for it in row], exact, atol=1e-5)
    if start.startswith("Мой"):
        assert row[0].text == TRUTH


@pytest.mark.parametrize(
    "start",
    [
        "мой брат ищет ключи в саду.",  # the case
        "Мой брат ищет ключи в саду!",  # an end
        "Мой, брат ищет ключи в саду",  # a mark too many, one too few
        "В саду мой брат ищет ключи.",  # two words that move together
        "Иван пьёт ключи в саду.",  # three edits
    ],
)
@pytest.mark.usefixtures("without_tokens")
def test_it_finds_the_text_without_the_decoder(bag, start):
    assert corrected(bag, [start])[0][0].text == TRUTH


@pytest.mark.parametrize("expected", [True, False])
def test_the_decoder_tells_which_order_to_try(counting, monkeypatch, expected):
    start, read = "Ключи в саду ищет мой брат.", Reader.read  # one of 70 orders away, of which 15 are tried
    if not expected:
        monkeypatch.setattr(Reader, "read", lambda *of: [it._replace(junctions=0 * it.junctions) for it in read(*of)])
    row, _, _ = corrected(counting, [start], rounds=1, edits=1, width=1)
    assert (row[0].text == TRUTH) == expected


@pytest.mark.usefixtures("without_tokens")
def test_the_word_that_no_candidate_has_comes_from_the_lexicon(bag):
    start = ["Мой брат ждёт ключи в саду."]
    assert corrected(bag, start)[0][0].text == TRUTH
    assert TRUTH not in [it.text for it in corrected(bag, start, lexicon=0)[0]]
    assert bag.encoder.texts and not any("ищет" in text for text in bag.encoder.texts)


@pytest.mark.usefixtures("without_tokens")
def test_a_form_that_is_not_in_the_lexicon_is_made(bag, monkeypatch):
    monkeypatch.setattr(module, "details", lambda *arguments: [])
    known = ["мой", "брат", "ищет", "дома", "дому", "сада", "в"]
    truth, start = "Мой брат ищет в саду.", "Мой брат ищет в сада."

    def found(spellings):
        checkpoint = replace(bag)
        checkpoint.lexicon = Lexicon(spellings, [9] * len(spellings), [(".", 9)])
        row, _, before = corrected(checkpoint, [start], truth)
        assert before > module.NEAR
        return row[0].text == truth

    assert found(known) and not found([word for word in known if word != "дому"]), "as дому beside дома"


@pytest.mark.usefixtures("without_tokens")
@pytest.mark.parametrize("inflect", [False, True])
def test_likely_forms_that_the_lexicon_lacks_are_proposed(bag, monkeypatch, inflect):
    monkeypatch.setattr(module, "inflections", lambda *arguments: [])
    monkeypatch.setattr("v2t_cli.models.inflection.unseen_forms", lambda words: ["саду"])
    bag.lexicon = Lexicon(["мой", "брат", "ищет", "в", "сад"], [5, 4, 3, 2, 1], [(".", 9)])
    row, _, _ = corrected(bag, ["Мой брат ищет в доме."], "Мой брат ищет в саду.", inflect=inflect, rounds=2)
    assert (row[0].text == "Мой брат ищет в саду.") == inflect
    assert len(bag.words) == len(bag.lexicon) + inflect and bag.words.unknown("в саду") == ([] if inflect else ["саду"])


@pytest.mark.parametrize("inflect", [False, True])
def test_only_a_search_with_inflection_makes_forms_of_words(bag, monkeypatch, inflect):
    """Learning how words are inflected takes seconds."""
    inflected = []
    monkeypatch.setattr(module, "inflections", lambda text, words: inflected.append(text) or [])
    monkeypatch.setattr(module, "NEAR", -1.0)
    monkeypatch.setattr("v2t_cli.models.inflection.unseen_forms", lambda words: [])
    corrected(bag, ["Мама пьёт чай."], "Папа пьёт чай и ищет ключи.", inflect=inflect, rounds=16)
    assert bool(inflected) == inflect


@pytest.mark.usefixtures("without_tokens")
@pytest.mark.parametrize(("cost", "expected"), [(0.0, "саду"), (0.9, "доме")])
def test_such_forms_cost_only_in_the_end(bag, monkeypatch, cost, expected):
    monkeypatch.setattr("v2t_cli.decoding.candidates.UNKNOWN_COST", cost)
    monkeypatch.setattr("v2t_cli.models.inflection.unseen_forms", lambda words: ["саду"])
    bag.lexicon = Lexicon(["мой", "брат", "ищет", "в", "доме"], [5, 4, 3, 2, 1], [(".", 9)])
    fitted, start, truth = search(bag, rounds=2, logprob_weight=0), "Мой брат ищет в доме.", "Мой брат ищет в саду."
    target = unit_rows(bag.encoder.encode([truth])) + 0.2 * unit_rows(bag.encoder.encode(["окно"]))  # no text reaches it
    corrector, row = corrector_of(bag, fitted), Row(0, [Candidate(start, -10.0)])
    rerank([row], target, bag.encoder, corrector.ranking)
    corrector.correct([row], target)
    assert expected in row.best.text and truth in bag.encoder.texts


def test_words_that_nobody_knows_are_not_tried(bag, monkeypatch):
    """Unless the text is very near: then one may be a name."""

    def unknown():
        corrected(bag, ["Мама пьёт чай."], rounds=1)
        return [text for text in bag.encoder.texts if bag.lexicon.unknown(text)]

    assert not unknown()
    monkeypatch.setattr(module, "SPELLED", -1.0)
    assert unknown()


@pytest.mark.parametrize("cost", [0.0, 5.0])
def test_unknown_words_cost(counting, monkeypatch, cost):
    monkeypatch.setattr("v2t_cli.decoding.candidates.UNKNOWN_COST", cost)
    monkeypatch.setattr(module, "SPELLED", -1.0)
    row, _, _ = corrected(counting, ["Моо брат ищет радио."], rounds=1, logprob_weight=0)
    unknown = [bool(counting.lexicon.unknown(it.text)) for it in row]
    assert any(unknown) and not all(unknown)
    assert (unknown == sorted(unknown)) == (cost > 0)


@pytest.mark.parametrize("cost", [0.0, 5.0])
@pytest.mark.usefixtures("without_tokens")
def test_texts_with_unknown_words_are_edited_last(bag, monkeypatch, cost):
    monkeypatch.setattr(module, "UNKNOWN_IN_SEARCH", cost)
    corrected(bag, ["Мой братик ищет ключи в саду.", "Бабушка пьёт чай."], rounds=1, width=1, edits=5)
    assert bag.encoder.texts and any("чай" in text for text in bag.encoder.texts) == (cost > 0)


class TestPromises:
    """Which texts are edited next: most of them by cosine, and one of four by log-probability, too."""

    NEAR = ["Мой брат ищет ключи саду.", "Мой брат ищет ключи дома.", "Мой брат ищет ключи."]
    PROBABLE, OTHER = "Кот спит.", "Мама пьёт чай."

    @pytest.fixture
    def edited(self, bag, monkeypatch):
        """Which texts each round edits."""

        def run(width, logprob, rounds=1):
            found = []

            def edit(self, tasks, *more, **named):
                found.append([task.text.text for task in tasks])

            monkeypatch.setattr(Corrector, "_edit", edit)
            target = bag.encoder.encode([TRUTH])
            corrector = corrector_of(bag, search(bag, width=width, rounds=rounds))
            row = Row(
                0, [Candidate(text, logprob if text == self.PROBABLE else -900.0) for text in [self.OTHER, self.PROBABLE, *self.NEAR]]
            )
            rerank([row], target, bag.encoder, corrector.ranking)
            corrector.correct([row], target)
            return found

        return run

    def test_a_probable_text_may_be_less_near(self, edited, monkeypatch):
        ((*near, probable),) = edited(4, logprob=-1.0)
        assert {*near} == {*self.NEAR} and probable == self.PROBABLE
        assert edited(3, logprob=-1.0) == [near], "of few, the nearest"
        monkeypatch.setattr(module, "PROBABLE", 0)
        assert edited(4, logprob=-1.0) == [[*near, self.OTHER]]

    def test_each_text_is_edited_three_times(self, edited):
        rounds = edited(4, logprob=-1.0, rounds=9)
        assert all(len({*texts}) == len(texts) for texts in rounds)
        assert Counter(chain(*rounds)) == dict.fromkeys([*self.NEAR, self.PROBABLE, self.OTHER], 3)

    @pytest.mark.usefixtures("without_tokens")
    @pytest.mark.parametrize(("width", "asked"), [(1, False), (4, True)])
    def test_the_decoder_reads_new_texts_only_for_that(self, bag, monkeypatch, width, asked):
        read = []

        def reading(inverter, vectors, rows, *more):
            read.append(len(rows))
            return log_likelihood(inverter, vectors, rows, *more)

        monkeypatch.setattr(module, "log_likelihood", reading)
        row, _, _ = corrected(bag, ["Мама ест.", "Кот спит."], rounds=1, width=width)
        assert (len(read) > 1) == asked and 0 < read[0] <= module.READ
        assert all(np.isfinite(it.logprob) for it in row)


@pytest.mark.usefixtures("without_tokens")
def test_words_of_the_other_candidates_are_always_tried(bag, monkeypatch):
    monkeypatch.setattr(Words, "shortlists", lambda self, targets, *others: [np.arange(0)] * len(targets))
    assert corrected(bag, ["Мой брат ждёт ключи в саду.", "Мама ищет газету дома."])[0][0].text == TRUTH
    assert corrected(bag, ["Мой брат ждёт ключи в саду."])[0][0].text != TRUTH


def test_a_lexicon_of_more_words_than_are_tried(counting, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.words.SHORTLIST", (10, 4))
    assert len(counting.lexicon) > 14
    row, _, _ = corrected(counting, ["Мой брат ждёт ключи в саду."])
    assert row[0].text == TRUTH


def test_a_checkpoint_without_a_lexicon_is_corrected(checkpoint, tmp_path, loaded, encoder):
    folder = without_hashes(shutil.copytree(checkpoint, tmp_path / "copy"))  # as of version 0.1.0
    (folder / "lexicon.txt").unlink()
    bare = replace(load_checkpoint(folder, loaded.inverter.device), encoder=Counting(encoder))
    for start in (["Мой ключи ищет брат в саду."], ["Мой брат ждёт ключи в саду."], ["🙂"], [""]):
        row, calls, before = corrected(bare, start, logprob_weight=0)
        assert row[0].cosine > before and calls == len(bare.encoder.texts)
        assert row[0].text == TRUTH or len(start[0]) < 2
    assert len(bare.words) == 0
    assert [row.best.text for row in decoded(bare, encoder.encode([TRUTH]))] == [TRUTH]


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("limit", [0, 1, 2, 7, 100])
def test_encoder_calls_are_bounded(counting, limit, width):
    row, calls, before = corrected(counting, ["Кот спит.", "Дом.", "Нет"], encoder_calls=limit, width=width, logprob_weight=0)
    assert len(counting.encoder.texts) == calls <= limit
    assert (calls > 0) == (limit > 0)
    assert max(it.cosine for it in row) >= before


def test_it_stops_when_nothing_is_left_to_do(counting):
    row, calls, _ = corrected(counting, [TRUTH, "Мама дома."])
    assert (row[0].text, calls) == (TRUTH, 0)
    assert corrected(counting, ["Мама дома."], rounds=0)[1] == 0
    assert corrected(counting, ["Мама дома."], edits=0)[1] == 0


def test_long_texts_get_fewer_rounds(counting, monkeypatch):
    rounds = []
    monkeypatch.setattr(Corrector, "_edit", lambda self, tasks, *more, **named: rounds.append([task.row for task in tasks]))
    starts = [[f"{' '.join(['Мама дома'] * pairs)} {number}." for number in range(4)] for pairs in (1, 6, 30)]
    rows = [Row(i, [Candidate(text, -10.0) for text in texts]) for i, texts in enumerate(starts)]
    target = np.repeat(counting.encoder.encode([TRUTH]), 3, axis=0)
    fitted = search(counting, rounds=8, width=1)
    corrector = corrector_of(counting, fitted)
    rerank(rows, target, counting.encoder, corrector.ranking)
    corrector.correct(rows, target)
    assert [sum(row in of_round for of_round in rounds) for row in range(3)] == [8, 4, 1]


def test_no_text_is_embedded_twice(counting):
    start = ["Кот спит.", "Дом.", "Нет"]
    _, calls, _ = corrected(counting, start, rounds=5, width=2)
    assert calls == len(counting.encoder.texts) == len({*counting.encoder.texts, *start}) - len(start)


@pytest.mark.parametrize("text", ["", " ", "?", "🙂", "ab", "— Что?", "5", "a\u2028b"])
def test_odd_candidates_are_corrected_too(counting, text):
    row, calls, before = corrected(counting, [text], rounds=2, logprob_weight=0)
    assert calls > 2 and row[0].cosine > before


def test_vectors_do_not_depend_on_those_beside_them(opened, encoder, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.words.SHORTLIST", (5, 1))
    texts = [TRUTH, "Мама пьёт чай.", "Соседка слушает радио утром."]
    starts = [["Мой брат ищет радио."], [""], ["Бабушка слушает радио на даче.", "Соседка ждёт."]]
    fitted, target = search(opened, rounds=1, candidates=5, edits=100), encoder.encode(texts)
    corrector = corrector_of(opened, fitted)

    def results(which):
        rows = [Row(i, [Candidate(text, -10.0) for text in starts[i]]) for i in which]
        rerank(rows, target[which], encoder, corrector.ranking)
        corrector.correct(rows, target[which])
        return [([it.cosine for it in row.candidates], row.best.text, row.encoder_calls) for row in rows]

    for i, (cosines, best, calls) in enumerate(results([0, 1, 2])):
        ((alone, *rest),) = results([i])
        assert rest == [best, calls] and len(cosines) > 5 and calls > 50
        assert cosines == pytest.approx(alone, abs=1e-4)


def test_texts_that_outgrow_the_decoder_are_dropped(counting):
    """The checkpoint has 48 positions: some of the candidates are too long already, some of their edits become too long."""
    long = "Мой брат ищет ключи" + " в саду" * 30
    limit, tokenizer = counting.inverter.n_positions, counting.tokenizer
    full = next(text for text in (long[:i] for i in range(len(long), 0, -1)) if len(tokenize(tokenizer, [text])[0]) == limit)
    for start in ([long, full], [full]):
        row, calls, _ = corrected(counting, start, rounds=2, edits=20)
        assert calls > 2
        assert max(len(ids) for ids in tokenize(tokenizer, [it.text for it in row if it.text != long])) <= limit
        assert max(len(ids) for ids in tokenize(tokenizer, counting.encoder.texts)) > limit


def test_several_candidates_are_asked_for(counting):
    row, _, _ = corrected(counting, ["Мой брат ждёт ключи в саду."])
    many, _, _ = corrected(counting, ["Мой брат ждёт ключи в саду."], candidates=8)
    assert len(row) == 2 and len(many) == 9, "the text that arrived, or as many as are asked for, beside the first"
    assert many[0].text == row[0].text == TRUTH and len({it.text for it in many}) == 9
    assert all(np.isfinite([it.logprob, it.cosine]).all() for it in many)


def test_log_probability_and_cosine_are_those_of_the_text(counting):
    row, _, _ = corrected(counting, ["Мой брат ждёт ключи в саду."], candidates=10)
    texts, target = [it.text for it in row[:5]], counting.encoder.encode([TRUTH])
    np.testing.assert_allclose([it.cosine for it in row[:5]], unit_rows(counting.encoder.encode(texts)) @ unit_rows(target)[0], atol=1e-5)
    ids, owners = tokenize(counting.tokenizer, texts), np.zeros(5, dtype=np.int64)
    expected = log_likelihood(counting.inverter, torch.from_numpy(target), ids, owners, counting.tokenizer.pad_token_id)
    made = [i for i, text in enumerate(texts) if text != "Мой брат ждёт ключи в саду."]
    np.testing.assert_allclose([row[i].logprob for i in made], expected[made], atol=1e-3)


def test_best_is_at_least_as_near_as_balanced(opened, encoder, caplog):
    """On texts of other words than the model knows, so that there is something to correct."""
    target = encoder.encode(["Дядя читает письма в саду.", "Тётя пьёт чай на даче.", *SENTENCES[:2]])
    balanced = decoded(opened, target, quality="balanced", beams=8, logprob_weight=0)
    caplog.set_level("DEBUG", "v2t")
    best = decoded(opened, target, feedback=None, beams=8, logprob_weight=0)
    ranking = Ranking(0, 0.9999, opened.words)
    assert all(ranking.by_cosine(b.best) <= ranking.by_cosine(a.best) + 1e-6 for a, b in zip(balanced, best))
    assert sum(b.best.cosine for b in best) > sum(a.best.cosine for a in balanced)
    mean = np.mean([row.encoder_calls for row in best])
    assert f"{mean:,.0f} texts re-embedded per vector" in caplog.text


def test_best_without_an_encoder_chooses_by_log_probability(loaded, encoder):
    rows = decoded(loaded, encoder.encode(SENTENCES[:3]), beams=4, candidates=4)
    assert [row.best.cosine for row in rows] == [None] * 3
    for row in rows:
        logprobs = [candidate.logprob for candidate in row.candidates]
        assert len(logprobs) > 1 and logprobs == sorted(logprobs, reverse=True)


def test_the_search_follows_the_cosine_but_the_ranking_also_the_log_probability(counting):
    """However much log-probability counts in the end, the text is found; and then it wins, since it reaches until_cosine."""
    row, _, before = corrected(counting, ["Мой ключи ищет брат в саду."], logprob_weight=1.0)
    assert row[0].text == TRUTH and row[0].cosine > before
    row, _, before = corrected(counting, ["Мама пьёт чай."], logprob=-100.0, logprob_weight=100.0, rounds=1, edits=20)
    assert all(not np.isnan(candidate.logprob) for candidate in row)
    assert row[0].cosine < 0.999999 and row[0].logprob == max(candidate.logprob for candidate in row)
