from contextlib import contextmanager
from dataclasses import replace

import pytest

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.search import FittedSearch, fit, resolve_search


def resolved(**settings):
    return resolve_search(DecodeConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("beam", 8, True)),
        ({"quality": "fast"}, ("beam", 2, True)),
        ({"quality": "fast", "candidates": 5}, ("beam", 5, True)),
        ({"quality": "fast", "strategy": "sample"}, ("sample", 2, True)),
        ({"strategy": "greedy"}, ("greedy", 1, True)),
        ({"strategy": "sample", "beams": 32}, ("sample", 32, True)),
        ({"beams": 3, "rerank": False}, ("beam", 3, False)),
        ({"candidates": 20}, ("beam", 20, True)),
    ],
)
def test_a_key_wins_over_the_preset(settings, expected):
    search = resolved(**settings)
    assert (search.strategy, search.beams, search.rerank) == expected


def test_contradictions_are_refused():
    with pytest.raises(RequestError, match="decode.strategy greedy gives one text per vector, not 5; use beam or sample"):
        resolved(strategy="greedy", candidates=5)
    with pytest.raises(RequestError, match="decode.beams is 4, fewer than the 5 candidates"):
        resolved(beams=4, candidates=5)
    for key in ("feedback", "rounds"):
        with pytest.raises(RequestError, match=f"decode.{key} is 3, but correction needs decode.rerank"):
            resolved(rerank=False, **{key: 3})


def test_a_fitted_search_keeps_what_fits(opened):
    search = resolved(quality="best", max_new_tokens=20, batch_size=7)
    fitted = fit(opened, search)
    assert type(fitted) is FittedSearch and fitted.model_dump() == search.model_dump()
    assert fit(opened, fitted) == fitted


def test_texts_are_no_longer_than_the_decoders_positions(opened, monkeypatch):
    assert opened.inverter.n_positions == 47
    assert fit(opened, resolved(max_new_tokens=47)).max_new_tokens == 47
    assert fit(opened, resolved(max_new_tokens=48)).max_new_tokens == 47
    monkeypatch.setattr(type(opened.inverter), "n_positions", None)
    assert fit(opened, resolved(max_new_tokens=10_000)).max_new_tokens == 10_000


def test_texts_may_be_as_long_as_those_of_the_training(opened, monkeypatch):
    """The end of longer ones would be missing without a word."""
    monkeypatch.setattr(type(opened.inverter), "n_positions", None)
    for longest, expected in ((20, 64), (90, 90)):
        info = opened.info.model_copy(update={"lengths": opened.info.lengths.model_copy(update={"max_tokens": longest})})
        assert fit(replace(opened, info=info), resolved()).max_new_tokens == expected
        assert fit(replace(opened, info=info), resolved(max_new_tokens=30)).max_new_tokens == 30


def test_only_a_search_that_edits_embeds_words(loaded, encoder, tmp_path, monkeypatch):
    tracked = []

    @contextmanager
    def track(what, total):
        tracked.append((what, total))
        yield lambda count: None

    checkpoint = replace(loaded, encoder=encoder)
    for settings in ({"rounds": 0, "feedback": 0}, {"edits": 0, "feedback": 0}, {"quality": "fast"}, {"rerank": False}):
        fit(checkpoint, resolved(**settings), str(tmp_path), track)
        assert checkpoint.words is None and not tracked
    fit(checkpoint, feedback := resolved(quality="fast", feedback=1), str(tmp_path), track)
    assert feedback.corrects and not len(checkpoint.words) and not tracked
    for count in (2**17, 3):
        fit(checkpoint, resolved(lexicon=count), str(tmp_path), track)
        assert len(checkpoint.words) == min(count, len(checkpoint.lexicon))
    assert tracked == [("embedding words", len(checkpoint.lexicon)), ("embedding words", 3)]
    assert not resolved().inflect and resolved(quality="best").inflect and not resolved(quality="best", inflect=False).inflect
    monkeypatch.setattr("v2t_cli.models.inflection.unseen_forms", lambda words: ["мамою"])
    fit(checkpoint, resolved(inflect=True), str(tmp_path), track)
    assert tracked[2:] == [("embedding forms of words", 1)] and checkpoint.words.place("мамою") == len(checkpoint.lexicon)
    fit(loaded, resolved(), str(tmp_path), track)
    assert loaded.words is None and len(tracked) == 3, "without an encoder nothing is corrected"


def test_without_an_encoder_nothing_is_re_ranked_or_corrected(opened, loaded):
    search = resolved(quality="best")
    assert search.rerank and search.rounds
    assert (fit(opened, search).rerank, fit(opened, search).rounds) == (True, search.rounds)
    blind = fit(loaded, search)
    assert blind.model_dump() == {**fit(opened, search).model_dump(), "rerank": False, "feedback": 0, "rounds": 0}


def test_batches_fit_into_memory(opened, monkeypatch):
    monkeypatch.setattr("v2t_cli.decoding.search.AUTO_SEQUENCES", {"cpu": 100})
    assert [fit(opened, resolved(beams=beams)).batch_size for beams in (1, 8, 200)] == [100, 12, 1]
    assert fit(opened, resolved(beams=8, batch_size=5000)).batch_size == 5000, "what was asked for is not changed"
    monkeypatch.setattr(opened.inverter.lm.config, "n_layer", 3000)  # so that keys and values need more than there is
    assert 1 < fit(opened, resolved(beams=1)).batch_size < 100
    monkeypatch.setattr(opened.inverter.lm.config, "n_layer", 10**9)
    assert fit(opened, resolved(beams=1)).batch_size == 1
