"""On a CUDA device; skipped where there is none."""

import numpy as np
import pytest
import torch
from tiny import SENTENCES, build_decoder, inverter, tiny_config, weights

from v2t_cli.core.config import DecodeConfig, EncoderConfig
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.encoder import open_encoder
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.models.metadata import read_info

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def target(labse):
    return open_encoder(EncoderConfig(model=str(labse)), "cpu").encode(SENTENCES)


def texts(checkpoint, device, target, **settings):
    search = resolve_search(DecodeConfig(strategy="greedy", rerank=False, max_new_tokens=24, **settings))
    loaded = load_checkpoint(checkpoint, torch.device(device), search.precision)
    return [row.best.text for row in decode(loaded, [Block(0, target)], fit(loaded, search))]


def test_greedy_text_is_that_of_the_cpu(checkpoint, target):
    assert texts(checkpoint, "cuda", target, precision="float32") == texts(checkpoint, "cpu", target)


def test_sixteen_bits_write_nearly_the_same(checkpoint, target):
    expected = texts(checkpoint, "cpu", target)
    for precision in ("auto", "bfloat16", "float16"):
        found = texts(checkpoint, "cuda", target, precision=precision)
        assert sum(one == other for one, other in zip(found, expected)) >= 0.9 * len(expected)


def test_rotary_positions_keep_their_precision(checkpoint, tmp_path):
    """A Llama that is stored in 32 bits computes in 16, but for the frequencies of its positions."""
    from v2t_cli.models.checkpoint import save_checkpoint

    model, tokenizer = inverter(build_decoder(tmp_path / "llama", "llama"))
    save_checkpoint(tmp_path / "out", model, tokenizer, read_info(checkpoint), [], Lexicon([], [], []))
    lm = load_checkpoint(tmp_path / "out", torch.device("cuda")).inverter.lm
    assert lm.dtype.itemsize == 2 and lm.model.rotary_emb.inv_freq.dtype == torch.float32


def test_bf16_training(tmp_path, texts_file, labse):
    from v2t_cli.training.train import train

    config = tiny_config(texts_file, labse, tmp_path / "out", "device=cuda", "train.precision=bf16", "train.epochs=20")
    result = train(config)
    assert result.finished and result.scores.loss < 4
    assert read_info(tmp_path / "out").training.steps == 20 * 6
    assert {weight.dtype for weight in weights(tmp_path / "out").values()} == {torch.float32}, "as stored"


def test_a_batch_too_large_for_the_memory_is_halved(checkpoint, target, caplog):
    expected = texts(checkpoint, "cuda", target, batch_size=4, precision="float32")
    torch.cuda.empty_cache()
    hog = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.97), dtype=torch.uint8, device="cuda")
    try:
        got = texts(checkpoint, "cuda", np.resize(target, (200_000, target.shape[1])), batch_size=200_000, precision="float32")
    finally:
        del hog
    assert "out of memory: continuing with" in caplog.text
    assert got[: len(expected)] == expected
