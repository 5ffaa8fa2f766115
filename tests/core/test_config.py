import re
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from v2t_cli.core.config import Config, ScratchConfig, Section, load_config
from v2t_cli.core.errors import RequestError


def keys(model: Section, prefix: str = "") -> set[str]:
    out = set()
    for name in type(model).model_fields:
        value = getattr(model, name)
        out |= keys(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name}
    return out


def flat(tree: dict, prefix: str = "") -> set[str]:
    out = set()
    for name, value in tree.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return out


def test_the_example_holds_the_defaults():
    assert load_config(ROOT / "config.example.yaml") == Config()


def test_the_example_names_and_comments_every_key():
    text = (ROOT / "config.example.yaml").read_text(encoding="utf-8")
    assert flat(yaml.safe_load(text)) == keys(Config())
    for name, field in ScratchConfig.model_fields.items():  # in comments, since by default there is none
        assert re.search(rf"^  #  {name}: {field.default} +# \w", text, re.MULTILINE), name
    for line in text.splitlines():
        if re.match(r" *\w+: .", line):
            assert re.search(r" # \w", line), f"no comment: {line}"


def test_typed_options_win_over_set_items_and_these_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\noutput: a\ntrain: {epochs: 5, learning_rate: 5e-5}\ndata:\n")
    config = load_config(path, ["output=b", "train.epochs=6"], {"output": "c", "device": None})
    assert (config.seed, config.output, config.train.epochs) == (1, "c", 6)
    assert config.train.learning_rate == 5e-5  # PyYAML reads 5e-5 as a string


@pytest.mark.parametrize(
    ("shipped", "item"), [("config.example.yaml", "decoder.scratch={}"), ("examples/quickstart.yaml", "decoder.model=gpt2")]
)
def test_a_typed_decoder_replaces_that_of_the_file(shipped, item):
    decoder = load_config(ROOT / shipped, [item]).decoder
    assert (decoder.scratch == ScratchConfig()) if "scratch" in item else (decoder.model == "gpt2" and decoder.scratch is None)


def test_a_file_in_the_current_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config()
    (tmp_path / "v2t.yaml").write_text("seed: 7")
    assert load_config().seed == 7


def test_all_problems_at_once_with_the_nearest_name(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("trian: {}\ntrain: {epoch: 2, batch_size: 0}\ndata: {held_out: 1.5}\ndecoder: {scratch: {n_layers: 2}}")
    with pytest.raises(RequestError) as caught:
        load_config(path)
    message = str(caught.value)
    assert "trian: unknown key, did you mean 'train'?" in message
    assert "train.epoch: unknown key, did you mean 'train.epochs'?" in message
    assert "train.batch_size: " in message and "got 0" in message
    assert "data.held_out: " in message
    assert "decoder.scratch.n_layers: unknown key, did you mean 'decoder.scratch.n_layer'?" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1, 2", "line 1: not valid YAML"),
        ("just text", "expected sections"),
        ("adapter: {kind: zero_pad, tokens: 4}", "exactly 1 prefix position, not 4"),
        ("decoder: {model: gpt2, scratch: {}}", "decoder: set 'model' or 'scratch', not both"),
        ("decoder: {scratch: {n_embd: 10, n_head: 4}}", "n_embd 10 is not a multiple of n_head 4"),
        ("data: {min_chars: 9, max_chars: 3}", "min_chars 9 is greater than max_chars 3"),
        ("adapter: {kind: conv}", "adapter.kind"),
        ("train: {epochs: .inf}", "train.epochs"),
        ("seed: 2024-13-45", "not valid YAML"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        load_config(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["2", "2024", "007", "0.10", "1:30", "1_000", "1.5"])
def test_names_may_look_like_numbers(tmp_path, name):
    path = tmp_path / "c.yaml"
    path.write_text(f"output: {name}\ndata: {{column: {name}, texts: {name}}}")
    for config in (load_config(path), load_config(None, [f"output={name}", f"data.column={name}", f"data.texts=[{name}]"])):
        assert (config.output, config.data.column, config.data.texts) == (name, name, [name])


def test_numbers_are_numbers_however_they_are_written():
    train = load_config(None, ["train.epochs=.5", "train.batch_size=1_0", "train.learning_rate=1.10"]).train
    assert (train.epochs, train.batch_size, train.learning_rate) == (0.5, 10, 1.1)
    for item in ("output=true", "train.batch_size=1.5", "decode.batch_size=8.0", "train.epochs=.nan"):
        with pytest.raises(RequestError, match=item.partition("=")[0]):
            load_config(None, [item])


def test_bad_set_items_are_refused():
    with pytest.raises(RequestError, match="expected section.key=value"):
        load_config(None, ["train.epochs"])
    with pytest.raises(RequestError, match="train.epochs: 'train' is set to 5, which is not a section"):
        load_config(None, ["train=5", "train.epochs=3"])
    with pytest.raises(RequestError, match="no such config file"):
        load_config(Path("absent.yaml"))


def test_scratch_has_learning_rates_of_its_own():
    train = load_config().train
    assert train.learning_rates(scratch=False) == (5e-5, 5e-4)
    assert train.learning_rates(scratch=True) == (5e-4, 2e-4)
    assert load_config(None, ["train.learning_rate=3e-4"]).train.learning_rates(scratch=True) == (3e-4, 2e-4)


@pytest.mark.parametrize(
    ("text", "key", "sets"),
    [
        ("decoder: {trust_remote_code: true}", "decoder.trust_remote_code", ["encoder.trust_remote_code=true"]),
        ("encoder: {trust_remote_code: true}", "encoder.trust_remote_code", []),
        ("train: {trackers: [tensorboard, wandb]}", "train.trackers", ["train.epochs=3"]),
    ],
)
def test_a_file_that_nobody_named_can_switch_nothing_dangerous_on(tmp_path, monkeypatch, text, key, sets):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v2t.yaml").write_text(text)
    with pytest.raises(RequestError, match=rf"v2t.yaml: {key} .*, and no option names this file; --config v2t.yaml.* allows it"):
        load_config(None, sets)
    assert load_config(Path("v2t.yaml"), sets)
    assert load_config(None, [f"{key}={'true' if 'trust' in key else '[wandb]'}"]), "what is typed is meant"
    section, _, name = key.partition(".")
    assert not getattr(getattr(load_config(None, [f"{key}={'false' if 'trust' in key else '[]'}"]), section), name)


def test_settings_of_a_file_that_was_found_are_told(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v2t.yaml").write_text("train: {trackers: [tensorboard]}")
    assert load_config().train.trackers == ["tensorboard"] and "v2t.yaml: settings are taken from this file" in caplog.text
