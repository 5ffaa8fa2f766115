"""Fixtures that the tests share. The builders and helpers are in tiny.py."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES, build_decoder, build_labse, tiny_config
from typer.testing import CliRunner

from v2t_cli.cli import app
from v2t_cli.core.config import EncoderConfig
from v2t_cli.models.checkpoint import Checkpoint, load_checkpoint
from v2t_cli.models.encoder import Encoder, open_encoder


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """For torch, here and in the processes that tests start: with more, tiny models take several times as long beside other programs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def one_precision():
    """On every machine float32, also where bfloat16 is faster, and in the processes that tests start; tests of bfloat16 ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Vectors embedded by tests, and by the fixtures of the session, stay out of the user's cache. Runs beside each other may share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.environ.get("V2T_TESTS_CACHE") or str(tmp_path_factory.mktemp("user_cache")))
        yield


@pytest.fixture(autouse=True)
def visible_log(caplog):
    """The command line turns propagation off; caplog needs it."""
    log = logging.getLogger("v2t")
    log.propagate, log.handlers = True, []
    caplog.set_level(logging.INFO, logger="v2t")


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("".join(text + "\n" for text in SENTENCES), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def labse(tmp_path_factory) -> Path:
    """A SentenceTransformer folder shaped like LaBSE: BERT, CLS pooling, Dense with tanh, Normalize."""
    return build_labse(tmp_path_factory.mktemp("labse"), hidden=DIM, layers=2, heads=2)


@pytest.fixture(scope="session")
def other_labse(tmp_path_factory) -> Path:
    """An encoder of the same shape with other weights."""
    return build_labse(tmp_path_factory.mktemp("other_labse"), hidden=DIM, layers=2, heads=2, seed=5)


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def decoder(request, tmp_path_factory) -> Path:
    return build_decoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, labse, texts_file) -> Path:
    """A trained checkpoint of a tiny GPT-2 from scratch on the tiny LaBSE."""
    from v2t_cli.training.train import train

    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    rates = ("train.learning_rate=3e-3", "train.adapter_learning_rate=1e-3")
    train(tiny_config(texts_file, labse, output, "train.epochs=60", *rates))
    return output


@pytest.fixture(scope="session")
def encoder(labse) -> Encoder:
    """The tiny LaBSE, opened."""
    return open_encoder(EncoderConfig(model=str(labse)), "cpu")


@pytest.fixture(scope="session")
def loaded(checkpoint) -> Checkpoint:
    """The trained checkpoint, opened without its encoder."""
    return load_checkpoint(checkpoint, torch.device("cpu"))


@pytest.fixture(scope="session")
def opened(loaded, encoder) -> Checkpoint:
    """The trained checkpoint, opened with its encoder. For tests that change nothing in it."""
    return replace(loaded, encoder=encoder)


@pytest.fixture
def v2t(monkeypatch, tmp_path):
    """Run the command line in an empty folder: v2t("decode", ...) -> result with exit_code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(*arguments, stdin: bytes | None = None):
        result = runner.invoke(app, [str(argument) for argument in arguments], input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
