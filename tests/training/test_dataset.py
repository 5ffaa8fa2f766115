"""Training data: which texts are kept, how they are split, and which vectors belong to them."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import SENTENCES, Counting

from v2t_cli.core.config import DataConfig
from v2t_cli.core.errors import RequestError
from v2t_cli.training.dataset import all_equal, check_encoder, corpus_vectors, read_corpus, select, split_held_out, statistics


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


@pytest.mark.parametrize("value", [3.14159, 1234.5678, 1e6 + 0.37])
def test_a_constant_dimension_has_no_deviation(value):
    """However large it is, and beside others that vary little."""
    vectors = np.random.default_rng(0).normal(1e4, 1e-2, size=(9000, 3)).astype(np.float32)
    vectors[:, 1] = value
    mean, deviation = statistics(vectors, np.arange(9000))
    assert mean[1] == np.float32(value) and deviation[1] == 0
    np.testing.assert_allclose(deviation[[0, 2]], vectors[:, [0, 2]].astype(np.float64).std(axis=0), rtol=1e-6)


def test_equal_vectors():
    vectors = np.ones((9000, 3), np.float32)
    assert all_equal(vectors, np.arange(9000)) and not all_equal(vectors, np.arange(1)), "one has none to be equal to"
    vectors[8999, 2] = 2
    assert not all_equal(vectors, np.arange(9000)) and all_equal(vectors, np.arange(8999))


def test_vectors_near_those_of_their_encoder_are_taken_with_a_warning(texts_file, caplog):
    corpus = read_corpus(DataConfig(texts=str(texts_file), held_out=0.1), seed=0)
    made = np.random.default_rng(0).normal(size=(len(SENTENCES), 64)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=made.shape)
    encoder = SimpleNamespace(
        identity=SimpleNamespace(name="fake", dim=64), encode=lambda texts: made[[SENTENCES.index(text) for text in texts]]
    )
    for amount, told in ((0.01, False), (0.3, True)):
        caplog.clear()
        assert check_encoder("v.npy", 127 * (made + amount * noise), corpus, encoder) == pytest.approx(127, rel=0.02)
        assert ("v.npy: not quite what encoder 'fake' makes of these texts (mean cosine 0.9" in caplog.text) == told
    for wrong in (made + noise, np.sign(made), made[::-1]):
        with pytest.raises(RequestError, match="v.npy: not made by encoder 'fake' from these texts: row "):
            check_encoder("v.npy", wrong, corpus, encoder)


def test_several_files_are_read_as_if_they_were_one(tmp_path):
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    for name, lines in zip(names, ("раз\nдва\n", "два\nтри\nчетыре\n")):
        (tmp_path / name).write_text(lines, encoding="utf-8")
    corpus = read_corpus(DataConfig(texts=names, held_out=0), seed=0)
    assert corpus.texts == ["раз", "два", "три", "четыре"]
    np.save(tmp_path / "v.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    config = DataConfig(texts=names, vectors=str(tmp_path / "v.npy"), held_out=0)
    assert read_corpus(config, seed=0).train.rows.tolist() == [0, 1, 3, 4], "row i belongs to line i of all lines"
    with pytest.raises(RequestError, match="v.npy: 5 vectors for 2 lines of .*a.txt"):
        read_corpus(config.model_copy(update={"texts": names[:1]}), seed=0)


def test_vectors_from_elsewhere_belong_to_all_lines_of_the_file(tmp_path):
    (tmp_path / "t.txt").write_text("раз\nа\nдва\nраз\nтри\n", encoding="utf-8")
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.save(tmp_path / "v.npy", rows)
    config = DataConfig(texts=[str(tmp_path / "t.txt")], vectors=str(tmp_path / "v.npy"), held_out=0.34)
    corpus = read_corpus(config, seed=0)
    vectors = corpus_vectors(config, corpus, None)
    found = {text: vectors[row].tolist() for split in (corpus.train, corpus.held_out) for text, row in zip(split.texts, split.rows)}
    assert found == {"раз": [0, 1], "два": [4, 5], "три": [8, 9]}
    np.save(tmp_path / "v.npy", rows[:4])
    with pytest.raises(RequestError, match="v.npy: 4 vectors for 5 lines of .*t.txt; row i must belong to line i"):
        read_corpus(config, seed=0)


def test_embedded_vectors_belong_to_the_kept_texts(tmp_path, encoder):
    lines = [SENTENCES[0], "", *SENTENCES[:5]]
    (tmp_path / "t.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    config = DataConfig(texts=str(tmp_path / "t.txt"), cache=str(tmp_path / "cache"), held_out=0.4)
    corpus, counting = read_corpus(config, seed=0), Counting(encoder)
    for _ in range(2):
        vectors = corpus_vectors(config, corpus, counting)
        assert isinstance(vectors, np.memmap) and counting.texts == SENTENCES[:5], "mapped, not read, and embedded once"
    for split in (corpus.train, corpus.held_out):
        np.testing.assert_allclose(vectors[split.rows], encoder.encode(split.texts), atol=1e-5)


def test_the_lexicon_is_that_of_the_training_texts(texts_file):
    corpus = read_corpus(DataConfig(texts=str(texts_file), held_out=0.1), seed=0)
    assert {"мама", "газету", "саду"} < set(corpus.lexicon.words) and corpus.lexicon.ends == ["."]
    assert corpus.lexicon.counts.sum() == sum(len(text.split()) for text in corpus.train.texts)
    assert corpus.lexicon is corpus.lexicon, "made once"
