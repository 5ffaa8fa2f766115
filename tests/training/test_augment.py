from collections import Counter

import numpy as np
import pytest
import torch
from tiny import SENTENCES

from v2t_cli.models.language_model import tokenize_corpus
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.training.augment import KINDS, Augmenter
from v2t_cli.training.batches import Examples
from v2t_cli.training.dataset import Split

CPU = torch.device("cpu")


@pytest.fixture
def examples(opened, encoder):
    split = Split(SENTENCES, np.arange(len(SENTENCES)), tokenize_corpus(opened.tokenizer, SENTENCES))
    return Examples(split, encoder.encode(SENTENCES))


def augmenter(examples, opened, encoder, changed=1.0, joined=0.0, limit=None):
    lexicon = Lexicon.of_texts(SENTENCES)
    return Augmenter(examples, encoder, opened.tokenizer, lexicon, limit, changed_share=changed, joined_share=joined)


def texts_of(opened, ids, lengths):
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths.tolist())]
    return opened.tokenizer.batch_decode(rows, skip_special_tokens=True)


def test_vectors_are_those_of_the_changed_texts(examples, opened, encoder):
    vectors, ids, lengths = augmenter(examples, opened, encoder).tensors(np.arange(40), 1, CPU, np.random.default_rng(0))
    texts = texts_of(opened, ids, lengths)
    assert sum(new != old for new, old in zip(texts, SENTENCES)) > 25
    np.testing.assert_allclose(vectors.numpy(), encoder.encode(texts), atol=1e-5)


def test_none_and_some_of_the_texts(examples, opened, encoder):
    which = np.arange(len(SENTENCES))
    for fraction, bounds in ((0.0, (0, 0)), (0.5, (25, 60))):
        _, ids, lengths = augmenter(examples, opened, encoder, fraction).tensors(which, 1, CPU, np.random.default_rng(0))
        changed = sum(new != old for new, old in zip(texts_of(opened, ids, lengths), SENTENCES))
        assert bounds[0] <= changed <= bounds[1]


def test_each_text_of_a_joined_batch_has_another_one_after_it(examples, opened, encoder):
    vectors, ids, lengths = augmenter(examples, opened, encoder, joined=1.0).tensors(np.arange(20), 1, CPU, np.random.default_rng(0))
    texts = texts_of(opened, ids, lengths)
    after = [text.removeprefix(f"{old} ") for text, old in zip(texts, SENTENCES)]
    assert sorted(after) == sorted(SENTENCES[:20]) and all(new != old for new, old in zip(after, SENTENCES))
    np.testing.assert_allclose(vectors.numpy(), encoder.encode(texts), atol=1e-5)


def test_a_share_of_the_batches_is_joined(examples, opened, encoder):
    make, joined = augmenter(examples, opened, encoder, changed=0.0, joined=0.5), 0
    for seed in range(40):
        texts = texts_of(opened, *make.tensors(np.arange(4), 1, CPU, np.random.default_rng(seed))[1:])
        new = sum(text != old for text, old in zip(texts, SENTENCES))
        assert new in (0, 4)
        joined += new == 4
    assert 10 <= joined <= 30


def test_a_single_text_is_not_joined(examples, opened, encoder):
    make = augmenter(examples, opened, encoder, changed=0.0, joined=1.0)
    assert texts_of(opened, *make.tensors(np.arange(1), 1, CPU, np.random.default_rng(0))[1:]) == SENTENCES[:1]


def test_joined_texts_are_longer(examples, opened, encoder):
    longest = int(examples.lengths.max())
    for joined, limit, expected in ((0.0, None, longest), (0.5, None, 2 * longest - 1), (0.5, longest + 1, longest + 1)):
        assert augmenter(examples, opened, encoder, joined=joined, limit=limit).longest == expected


def test_the_same_draw_gives_the_same_batch(examples, opened, encoder):
    make = augmenter(examples, opened, encoder)
    one, other, third = (make.tensors(np.arange(20), 1, CPU, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(left, right) for left, right in zip(one, other))
    assert one[1].shape != third[1].shape or not torch.equal(one[1], third[1])


@pytest.mark.parametrize("joined", [0.0, 1.0])
def test_a_text_that_outgrows_the_decoder_stays_as_it_was(examples, opened, encoder, joined):
    limit = int(examples.lengths.max())
    make = augmenter(examples, opened, encoder, joined=joined, limit=limit)
    for seed in range(5):
        _, _, lengths = make.tensors(np.arange(len(SENTENCES)), 1, CPU, np.random.default_rng(seed))
        assert lengths.max() <= limit


@pytest.mark.parametrize("text", ["", " ", "?", "🙂", "Да", "а б"])
def test_odd_texts_are_changed_too(examples, opened, encoder, text):
    make, rng = augmenter(examples, opened, encoder), np.random.default_rng(0)
    assert all(isinstance(make.change(text, rng), str) for _ in range(60))


def test_all_kinds_of_changes_occur(examples, opened, encoder):
    make, rng = augmenter(examples, opened, encoder), np.random.default_rng(0)
    text = "Мама ищет ключи."
    found = Counter(make.change(text, rng) for _ in range(600))
    assert abs(sum(KINDS.values()) - 1) < 1e-9
    assert found.keys() >= {"мама ищет ключи.", "Мама ищет.", "Ищет мама ключи.", text}
    assert any(len(it.split()) > 3 for it in found) and any("газету" in it for it in found)


def test_texts_without_words_for_a_lexicon(examples, opened, encoder):
    """Such as those of a script without blanks."""
    make, rng = Augmenter(examples, encoder, opened.tokenizer, Lexicon([], [], []), None, changed_share=1.0), np.random.default_rng(0)
    assert all(isinstance(make.change(text, rng), str) for text in ("字" * 50, "🙂", "") for _ in range(60))
