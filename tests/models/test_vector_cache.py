import json
from contextlib import contextmanager

import numpy as np
import pytest
from tiny import DIM, SENTENCES

from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.io.signature import EncoderIdentity
from v2t_cli.io.vectors import map_vectors
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.vector_cache import cache_folder, cached_vectors


class Fake(Encoder):
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


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("v2t_cli.models.vector_cache.CHUNK_TEXTS", 30)


@pytest.fixture
def vectors(tmp_path):
    """Gives the vectors of SENTENCES by an encoder, by way of the cache in tmp_path."""
    return lambda encoder: map_vectors(cached_vectors(SENTENCES, encoder, str(tmp_path / "cache")))


def test_texts_are_embedded_once(tmp_path, vectors, caplog):
    caplog.set_level("DEBUG", "v2t")
    first, second = Fake(), Fake()
    one, two = vectors(first), vectors(second)
    assert first.texts == SENTENCES and not second.texts
    np.testing.assert_array_equal(one, Fake().encode(SENTENCES))
    np.testing.assert_array_equal(one, two)
    assert "embedded 100 texts; cached in" in caplog.text and "using cached vectors from" in caplog.text
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock") == [".json", ".npy"]


def test_other_texts_are_kept_apart(tmp_path):
    encoder, folder = Fake(), str(tmp_path)
    for texts in (SENTENCES[:3], SENTENCES[1:4], SENTENCES[:3]):
        np.testing.assert_array_equal(np.load(cached_vectors(texts, encoder, folder)), Fake().encode(texts))
    assert encoder.texts == [*SENTENCES[:3], *SENTENCES[1:4]]


def test_messages_and_the_bar_name_the_texts(tmp_path, caplog):
    tracked = []

    @contextmanager
    def track(what, total):
        tracked.append([what, total])
        yield lambda count: tracked[-1].append(count)

    interrupted = Fake()
    interrupted.limit = 30
    with pytest.raises(KeyboardInterrupt):
        cached_vectors(SENTENCES[:40], interrupted, str(tmp_path), "words", track)
    assert "to embed the rest of the words, run the same command again" in caplog.text
    cached_vectors(SENTENCES[:40], Fake(), str(tmp_path), "words", track)
    assert "embedding 10 words" in caplog.text and "embedded 40 words; cached in" in caplog.text
    assert tracked == [["embedding words", 40, 30], ["embedding words", 10, 10]], "a resumed run counts its own rows"


def test_an_interrupted_embedding_continues(tmp_path, vectors, caplog):
    whole = np.array(vectors(Fake()))
    (path,) = (tmp_path / "cache").glob("*.npy")
    complete = path.read_bytes()
    path.unlink()
    interrupted, resumed = Fake(), Fake()
    interrupted.limit = 70
    with pytest.raises(KeyboardInterrupt):
        vectors(interrupted)
    assert (
        not path.exists()
        and "stopped after 60 of 100 rows; finished rows are kept; to embed the rest of the texts, run the same command again"
        in caplog.text
    )
    np.testing.assert_array_equal(vectors(resumed), whole)
    assert interrupted.texts == SENTENCES[:60] and resumed.texts == SENTENCES[60:]
    assert path.read_bytes() == complete
    assert not list((tmp_path / "cache").glob(".*")), "no parts are left"


def test_another_encoder_under_the_same_name_embeds_again(vectors):
    vectors(Fake())
    other = Fake(sign=-1)
    np.testing.assert_array_equal(vectors(other), Fake(sign=-1).encode(SENTENCES))
    assert other.texts == SENTENCES


def test_another_encoder_continues_no_interrupted_embedding(vectors):
    interrupted, other = Fake(), Fake(sign=-1)
    interrupted.limit = 70
    with pytest.raises(KeyboardInterrupt):
        vectors(interrupted)
    np.testing.assert_array_equal(vectors(other), Fake(sign=-1).encode(SENTENCES))


def test_an_interruption_leaves_no_vectors_of_another_encoder(vectors):
    vectors(Fake())
    interrupted, resumed = Fake(sign=-1), Fake(sign=-1)
    interrupted.limit = 70
    with pytest.raises(KeyboardInterrupt):
        vectors(interrupted)
    np.testing.assert_array_equal(vectors(resumed), Fake(sign=-1).encode(SENTENCES))
    assert resumed.texts == SENTENCES[60:]


def test_other_names_and_prompts_are_kept_apart(tmp_path, vectors):
    for encoder in (Fake(), Fake(name="other"), Fake(prompt="query: ")):
        vectors(encoder)
        assert encoder.texts == SENTENCES
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
    for encoder in (Fake(), Fake(name="other"), Fake(prompt="query: ")):
        vectors(encoder)
        assert not encoder.texts


def test_damaged_parts_are_embedded_again(tmp_path, vectors, caplog):
    interrupted, again = Fake(), Fake()
    interrupted.limit = 70
    with pytest.raises(KeyboardInterrupt):
        vectors(interrupted)
    (run,) = (tmp_path / "cache").glob(".*.parts/run.json")
    run.write_text("{")
    np.testing.assert_array_equal(vectors(again), Fake().encode(SENTENCES))
    assert again.texts == SENTENCES and "starting over; what an interrupted run left is damaged" in caplog.text


def test_a_failing_encoder_costs_no_row_that_is_done(vectors):
    for _ in range(2):  # 30 texts each time
        failing = Fake()
        failing.limit, failing.error = 40, V2TError("out of memory")
        with pytest.raises(V2TError, match="out of memory"):
            vectors(failing)
    again = Fake()
    np.testing.assert_array_equal(vectors(again), Fake().encode(SENTENCES))
    assert again.texts == SENTENCES[60:]


def test_texts_that_the_encoder_truncates_are_reported(vectors, caplog):
    long = Fake()
    long.count_truncated = lambda texts: 1
    vectors(long)
    assert "4 texts are longer than" in caplog.text, "one in each block"


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"signature": {}, "encoder": None})])
def test_a_damaged_description_embeds_again(tmp_path, vectors, content):
    vectors(Fake())
    (path,) = (tmp_path / "cache").glob("*.json")
    path.write_text(content)
    again = Fake()
    vectors(again)
    assert again.texts == SENTENCES


DAMAGES = {
    "reversed": lambda path: np.save(path, np.load(path)[::-1]),
    "zeros": lambda path: np.save(path, np.zeros_like(np.load(path))),
    "int16": lambda path: np.save(path, (100 * np.load(path)).astype(np.int16)),
    "another width": lambda path: np.save(path, np.load(path)[:, 1:].copy()),
    "fewer": lambda path: np.save(path, np.load(path)[1:]),
    "NaN": lambda path: np.save(path, np.load(path) * np.nan),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "garbage": lambda path: path.write_bytes(b"garbage"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_vectors_that_were_changed_are_embedded_again(tmp_path, vectors, caplog, name):
    vectors(Fake())
    (path,) = (tmp_path / "cache").glob("*.npy")
    DAMAGES[name](path)
    again, third = Fake(), Fake()
    np.testing.assert_array_equal(vectors(again), Fake().encode(SENTENCES))
    assert again.texts == SENTENCES
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{path}: is not what was cached there; embedding the texts anew"]
    vectors(third)
    assert not third.texts


def test_what_version_0_1_0_cached_is_embedded_again(tmp_path, vectors, caplog):
    vectors(Fake())
    (path,) = (tmp_path / "cache").glob("*.json")
    description = json.loads(path.read_text())
    path.write_text(json.dumps({key: description[key] for key in ("signature", "encoder")}))
    again = Fake()
    vectors(again)
    assert again.texts == SENTENCES and "cannot be checked: it has no checksum" in caplog.text


@pytest.mark.parametrize("kept", [0, 59], ids=["all", "the last row"])
def test_parts_that_were_zeroed_are_embedded_again(tmp_path, vectors, caplog, kept):
    interrupted, resumed = Fake(), Fake()
    interrupted.limit = 70
    with pytest.raises(KeyboardInterrupt):
        vectors(interrupted)
    (path,) = (tmp_path / "cache").glob(".*.parts/vectors.npy")
    rows = np.load(path)
    rows[kept:] = 0
    np.save(path, rows)
    np.testing.assert_array_equal(vectors(resumed), Fake().encode(SENTENCES))
    assert resumed.texts == SENTENCES[kept // 30 * 30 :] and f"row {kept} is damaged; it is made again" in caplog.text


def test_killed_when_all_is_embedded_nothing_is_embedded_twice(tmp_path, vectors, monkeypatch):
    killed, resumed = Fake(), Fake()

    def kill(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("v2t_cli.io.resumable.ResumableLines.finish", kill)
        with pytest.raises(KeyboardInterrupt):
            vectors(killed)
    np.testing.assert_array_equal(vectors(resumed), Fake().encode(SENTENCES))
    assert killed.texts == SENTENCES and not resumed.texts


def test_a_cache_that_cannot_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be used as the vector cache .data.cache.: Not a directory"):
        cached_vectors(SENTENCES, Fake(), str(tmp_path / "file" / "cache"))


def test_without_a_setting_it_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cached_vectors(SENTENCES, Fake(), None).parent == cache_folder(None) == tmp_path / "user" / "v2t"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder(None) == tmp_path / "home" / ".cache" / "v2t"
    assert cache_folder(str(tmp_path / "named")) == tmp_path / "named"
