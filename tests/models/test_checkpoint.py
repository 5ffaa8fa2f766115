import json
import shutil

import numpy as np
import pytest
import torch
from conftest import DIM, SENTENCES

from v2t_cli.core.errors import RequestError
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.language_model import pad, tokenize
from v2t_cli.models.metadata import read_info

CPU = torch.device("cpu")


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def test_opens_as_an_ordinary_causal_lm(checkpoint):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm, report = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert lm.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer.encode("Привет!")) == "Привет!"


def test_holds_safetensors_json_and_text_alone(checkpoint):
    files = {path.name for path in checkpoint.iterdir() if path.name != ".resume"}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} < files
    assert {"adapter.safetensors", "held_out.txt", "v2t.json", "README.md"} < files
    assert {name.rsplit(".", 1)[-1] for name in files} <= {"safetensors", "json", "jsonl", "txt", "md", "jinja", "png"}


def test_says_what_it_is(checkpoint, labse):
    info = read_info(checkpoint)
    assert (info.dim, info.encoder.name, info.encoder.dim) == (DIM, str(labse), DIM)
    assert np.linalg.norm(info.encoder.probe) == pytest.approx(1, abs=1e-4)
    assert (info.data.texts, info.data.held_out, info.training.finished) == (len(SENTENCES), 10, True)
    assert info.held_out.perplexity == pytest.approx(np.exp(info.held_out.loss))
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert f"| {info.held_out.loss:.4f} |" in card and "linear" in card and str(labse.parent) not in card
    assert "90 trained on, 10 held out" in card and "`held_out.txt` beside this card holds 10 of the others" in card


def test_held_out_texts_were_not_trained_on(checkpoint):
    held_out = load_checkpoint(checkpoint, CPU).held_out()
    assert len(held_out) == 10 and set(held_out) < set(SENTENCES)


def test_loaded_is_what_was_saved(checkpoint, tmp_path):
    from v2t_cli.models.checkpoint import save_checkpoint

    first = load_checkpoint(checkpoint, CPU)
    save_checkpoint(tmp_path / "again", first.inverter, first.tokenizer, first.info, first.held_out())
    second = load_checkpoint(tmp_path / "again", CPU)
    ids, lengths = pad(tokenize(first.tokenizer, SENTENCES[:3]), first.tokenizer.pad_token_id, CPU)
    vectors = torch.randn(3, DIM)
    torch.testing.assert_close(first.inverter.logits(vectors, ids), second.inverter.logits(vectors, ids), rtol=0, atol=0)
    assert first.info == second.info and first.held_out() == second.held_out()


def test_float16_weights_are_computed_in_float32_on_the_cpu(copy):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(copy).half().save_pretrained(copy)
    assert json.loads((copy / "config.json").read_text())["dtype"] == "float16"
    assert load_checkpoint(copy, CPU).inverter.lm.dtype == torch.float32


def break_file(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def truncate(name):
    def cut(folder):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return cut


def foreign_adapter(folder):
    from safetensors.torch import save_file

    save_file({"map.weight": torch.zeros(3, 3)}, folder / "adapter.safetensors")


def edit_info(**changes):
    def edit(folder):
        info = json.loads((folder / "v2t.json").read_text())
        (folder / "v2t.json").write_text(json.dumps({**info, **changes}))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate("model.safetensors"), "missing or damaged"),
        (truncate("adapter.safetensors"), "adapter.safetensors: damaged"),
        (truncate("v2t.json"), "not a valid v2t.json"),
        (truncate("tokenizer.json"), "missing or damaged"),
        (foreign_adapter, "damaged, or of another checkpoint"),
        (break_file("v2t.json", b"[]"), "not a valid v2t.json"),
        (edit_info(format=99), "format 99 is newer than this v2t"),
        (edit_info(dim=None), "not a valid v2t.json: dim"),
        (edit_info(adapter={"kind": "conv", "tokens": 1}), "adapter kind 'conv' is unknown"),
        (lambda folder: (folder / "adapter.safetensors").unlink(), "incomplete"),
        (lambda folder: (folder / "model.safetensors").unlink(), "missing or damaged"),
        (lambda folder: (folder / "v2t.json").unlink(), "not a v2t checkpoint"),
        (lambda folder: shutil.rmtree(folder), "no such checkpoint folder"),
    ],
)
def test_damage_is_one_line(copy, damage, message):
    damage(copy)
    with pytest.raises(RequestError, match=message) as caught:
        load_checkpoint(copy, CPU)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_weights_of_another_model_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match="does not hold the weights that config.json describes"):
        load_checkpoint(copy, CPU)


def test_a_failed_save_leaves_the_old_checkpoint(copy, monkeypatch):
    from v2t_cli.models import checkpoint as module

    loaded = load_checkpoint(copy, CPU)
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    monkeypatch.setattr(module, "model_card", lambda *info: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        module.save_checkpoint(copy, loaded.inverter, loaded.tokenizer, loaded.info, ["другой"])
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
    assert not list(copy.glob(".new-*"))
