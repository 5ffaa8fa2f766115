from dataclasses import replace

import pytest
from tiny import SENTENCES

from v2t_cli.core.errors import RequestError
from v2t_cli.evaluation.baseline import nearest_texts


@pytest.fixture
def holding_out_nothing(opened, tmp_path):
    """The checkpoint, as if no text had been held out."""
    (tmp_path / "held_out.txt").write_text("")
    return replace(opened, folder=tmp_path, info=opened.info.model_copy(update={"files": {}}))


def test_the_nearest_training_text(holding_out_nothing, encoder, monkeypatch):
    monkeypatch.setattr("v2t_cli.evaluation.baseline.CHUNK_TEXTS", 7)
    texts = [SENTENCES[3], SENTENCES[33], "Где лодка?"]
    found = nearest_texts(holding_out_nothing, iter(SENTENCES), texts, 5 * encoder.encode(texts))
    similarity = encoder.encode(texts) @ encoder.encode(SENTENCES).T
    expected = [SENTENCES[i] for i in similarity.argmax(axis=1)]
    assert found.exact_match == pytest.approx(2 / 3) and expected[:2] == texts[:2]
    assert found.cosine == pytest.approx(similarity.max(axis=1).mean(), abs=1e-4)


def test_held_out_texts_do_not_find_themselves(opened, encoder):
    texts = opened.held_out()
    found = nearest_texts(opened, SENTENCES, texts, encoder.encode(texts))
    known = [text for text in SENTENCES if text not in texts]
    similarity = encoder.encode(texts) @ encoder.encode(known).T
    assert found.exact_match == 0 and found.cosine == pytest.approx(similarity.max(axis=1).mean(), abs=1e-4)
    with pytest.raises(RequestError, match="no text besides those that the run held out"):
        nearest_texts(opened, texts, texts, encoder.encode(texts))


def test_without_an_encoder_there_is_no_nearest_text(loaded, encoder):
    with pytest.raises(RequestError, match="needs the encoder; name it with --encoder"):
        nearest_texts(loaded, SENTENCES, SENTENCES[:1], encoder.encode(SENTENCES[:1]))
