"""Training data: which texts are kept, how they are split, and the cache of their vectors."""

import json
import os

import numpy as np
import pytest
from tiny import DIM, SENTENCES

from v2t_cli.core.config import DataConfig
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.io.signature import EncoderIdentity
from v2t_cli.training.dataset import corpus_vectors, read_corpus, select, split_held_out, statistics


def test_selection_counts_what_it_drops():
    kept = select(["да", "а", "", "да", "x" * 60, "нет", "   "], 2, 59)
    assert kept.texts == ["да", "нет"]
    assert kept.rows.tolist() == [0, 5]
    assert list(kept.dropped.values()) == [1, 3, 1]
    assert str(kept) == "2 of 7 texts kept (dropped: 1 duplicates, 3 shorter than data.min_chars 2, 1 longer than data.max_chars 59)"
    assert str(select(["да", "нет"], 2, 59)) == "2 of 2 texts kept"


def test_a_split_is_seeded_and_complete():
    train, held = split_held_out(100, 0.05, seed=3)
    again = split_held_out(100, 0.05, seed=3)
    assert len(held) == 5
    assert sorted([*train, *held]) == list(range(100))
    np.testing.assert_array_equal(held, again[1])
    assert held.tolist() != split_held_out(100, 0.05, seed=4)[1].tolist()


def test_a_larger_split_holds_out_the_same_texts_and_more():
    small, large = (set(split_held_out(100, fraction, seed=3)[1].tolist()) for fraction in (0.05, 0.3))
    assert small < large and len(large) == 30


def test_too_few_texts_cannot_be_split():
    with pytest.raises(RequestError, match="data.texts: 1 usable texts are too few to hold out 5% of them"):
        split_held_out(1, 0.05, seed=0)
    assert len(split_held_out(3, 0.0, seed=0)[1]) == 0


def test_statistics_are_those_of_the_chosen_rows():
    vectors = np.random.default_rng(0).normal(3, 2, size=(9000, 5)).astype(np.float32)
    rows = np.arange(0, 9000, 2)
    mean, deviation = statistics(vectors, rows)
    np.testing.assert_allclose(mean, vectors[rows].mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(deviation, vectors[rows].std(axis=0), rtol=1e-4)


def test_vectors_from_elsewhere_belong_to_all_lines_of_the_file(tmp_path):
    (tmp_path / "t.txt").write_text("раз\nа\nдва\nраз\nтри\n", encoding="utf-8")
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.save(tmp_path / "v.npy", rows)
    config = DataConfig(texts=str(tmp_path / "t.txt"), vectors=str(tmp_path / "v.npy"), held_out=0.34)
    corpus = read_corpus(config, seed=0)
    vectors = corpus_vectors(config, corpus, None)
    found = {text: vectors[row].tolist() for split in (corpus.train, corpus.held_out) for text, row in zip(split.texts, split.rows)}
    assert found == {"раз": [0, 1], "два": [4, 5], "три": [8, 9]}
    np.save(tmp_path / "v.npy", rows[:4])
    with pytest.raises(RequestError, match="v.npy: 4 vectors for 5 lines of .*t.txt; row i must belong to line i"):
        read_corpus(config, seed=0)


class Fake:
    """An encoder whose vectors follow from the text's place in SENTENCES. It counts what it embeds, and may be interrupted."""

    def __init__(self, sign: int = 1, name: str = "fake", prompt: str | None = None):
        self.sign, self.texts, self.limit, self.error = sign, [], len(SENTENCES), KeyboardInterrupt()
        self.identity = EncoderIdentity(name=name, dim=DIM, prompt=prompt, probe=[sign, *[0.0] * (DIM - 1)])

    def encode(self, texts):
        if len(self.texts) + len(texts) > self.limit:
            raise self.error
        self.texts += texts
        return self.sign * np.array([np.random.default_rng(SENTENCES.index(text)).normal(size=DIM) for text in texts], dtype=np.float32)

    def count_truncated(self, texts):
        return 0


class TestCache:
    @pytest.fixture(autouse=True)
    def small_chunks(self, monkeypatch):
        monkeypatch.setattr("v2t_cli.training.dataset.CHUNK_TEXTS", 30)

    @pytest.fixture
    def vectors(self, tmp_path, texts_file):
        """Gives the vectors of SENTENCES by an encoder, by way of the cache in tmp_path."""
        config = DataConfig(texts=str(texts_file), cache=str(tmp_path / "cache"))
        corpus = read_corpus(config, seed=0)
        return lambda encoder: corpus_vectors(config, corpus, encoder)

    def test_texts_are_embedded_once(self, tmp_path, vectors, caplog):
        first, second = Fake(), Fake()
        one, two = vectors(first), vectors(second)
        assert first.texts == SENTENCES and not second.texts
        np.testing.assert_array_equal(one, Fake().encode(SENTENCES))
        np.testing.assert_array_equal(one, two)
        assert isinstance(two, np.memmap), "vectors are mapped, not read"
        assert "embedded 100 texts; cached in" in caplog.text and "using cached vectors from" in caplog.text
        assert sorted(path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock") == [".json", ".npy"]

    def test_an_interrupted_embedding_continues(self, tmp_path, vectors, caplog):
        whole = np.array(vectors(Fake()))
        (path,) = (tmp_path / "cache").glob("*.npy")
        complete = path.read_bytes()
        path.unlink()
        interrupted, resumed = Fake(), Fake()
        interrupted.limit = 70
        with pytest.raises(KeyboardInterrupt):
            vectors(interrupted)
        assert not path.exists() and "finished rows are kept; to embed the rest, train on these texts again" in caplog.text
        np.testing.assert_array_equal(vectors(resumed), whole)
        assert interrupted.texts == SENTENCES[:60] and resumed.texts == SENTENCES[60:]
        assert path.read_bytes() == complete
        assert not list((tmp_path / "cache").glob(".*")), "no parts are left"

    def test_another_encoder_under_the_same_name_embeds_again(self, vectors):
        vectors(Fake())
        other = Fake(sign=-1)
        np.testing.assert_array_equal(vectors(other), Fake(sign=-1).encode(SENTENCES))
        assert other.texts == SENTENCES

    def test_another_encoder_continues_no_interrupted_embedding(self, vectors):
        interrupted, other = Fake(), Fake(sign=-1)
        interrupted.limit = 70
        with pytest.raises(KeyboardInterrupt):
            vectors(interrupted)
        np.testing.assert_array_equal(vectors(other), Fake(sign=-1).encode(SENTENCES))

    def test_an_interruption_leaves_no_vectors_of_another_encoder(self, vectors):
        vectors(Fake())
        interrupted, resumed = Fake(sign=-1), Fake(sign=-1)
        interrupted.limit = 70
        with pytest.raises(KeyboardInterrupt):
            vectors(interrupted)
        np.testing.assert_array_equal(vectors(resumed), Fake(sign=-1).encode(SENTENCES))
        assert resumed.texts == SENTENCES[60:]

    def test_other_names_and_prompts_are_kept_apart(self, tmp_path, vectors):
        for encoder in (Fake(), Fake(name="other"), Fake(prompt="query: ")):
            vectors(encoder)
            assert encoder.texts == SENTENCES
        assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
        for encoder in (Fake(), Fake(name="other"), Fake(prompt="query: ")):
            vectors(encoder)
            assert not encoder.texts

    def test_damaged_parts_are_embedded_again(self, tmp_path, vectors, caplog):
        interrupted, again = Fake(), Fake()
        interrupted.limit = 70
        with pytest.raises(KeyboardInterrupt):
            vectors(interrupted)
        (run,) = (tmp_path / "cache").glob(".*.parts/run.json")
        run.write_text("{")
        np.testing.assert_array_equal(vectors(again), Fake().encode(SENTENCES))
        assert again.texts == SENTENCES and "starting over; what an interrupted run left is damaged" in caplog.text

    def test_a_failing_encoder_costs_no_row_that_is_done(self, vectors):
        for _ in range(2):  # 30 texts each time
            failing = Fake()
            failing.limit, failing.error = 40, V2TError("out of memory")
            with pytest.raises(V2TError, match="out of memory"):
                vectors(failing)
        again = Fake()
        np.testing.assert_array_equal(vectors(again), Fake().encode(SENTENCES))
        assert again.texts == SENTENCES[60:]

    def test_texts_that_the_encoder_truncates_are_reported(self, vectors, caplog):
        long = Fake()
        long.count_truncated = lambda texts: 1
        vectors(long)
        assert "4 texts are longer than" in caplog.text, "one in each block"

    @pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"signature": {}, "encoder": None})])
    def test_a_damaged_description_embeds_again(self, tmp_path, vectors, content):
        vectors(Fake())
        (path,) = (tmp_path / "cache").glob("*.json")
        path.write_text(content)
        again = Fake()
        vectors(again)
        assert again.texts == SENTENCES

    def test_a_cache_that_cannot_be_a_folder(self, tmp_path, texts_file):
        (tmp_path / "file").write_text("")
        config = DataConfig(texts=str(texts_file), cache=str(tmp_path / "file" / "cache"))
        with pytest.raises(RequestError, match="cannot be used as the vector cache .data.cache.: Not a directory"):
            corpus_vectors(config, read_corpus(config, seed=0), Fake())

    def test_without_a_setting_it_is_in_the_users_cache(self, tmp_path, texts_file, monkeypatch):
        config = DataConfig(texts=str(texts_file))
        corpus = read_corpus(config, seed=0)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
        corpus_vectors(config, corpus, Fake())
        assert any(name.endswith(".npy") for name in os.listdir(tmp_path / "user" / "v2t"))
