import json
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES, Counting, build_decoder, build_labse, tiny_config, without_hashes
from transformers import LlamaConfig, LlamaForCausalLM

from v2t_cli.core.config import Config, DataConfig, DecodeConfig
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.similarity import unit_rows
from v2t_cli.io.hashes import file_hash
from v2t_cli.models import checkpoint as module
from v2t_cli.models import inflection
from v2t_cli.models.adapters import ADAPTERS
from v2t_cli.models.checkpoint import load_checkpoint, open_checkpoint, save_checkpoint
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.language_model import pad, tokenize
from v2t_cli.models.lexicon import Lexicon
from v2t_cli.training.dataset import read_corpus

CPU = torch.device("cpu")


@pytest.fixture
def hashed(checkpoint, tmp_path):
    """A copy, whose v2t.json says which files belong together."""
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.fixture
def copy(hashed):
    """A copy as of version 0.1.0, which may be edited."""
    return without_hashes(hashed)


def test_opens_as_an_ordinary_causal_lm(checkpoint):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm, report = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(report.values())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert lm.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer.encode("Привет!")) == "Привет!"


def test_only_safetensors_json_and_text_are_in_it(checkpoint):
    files = {path.name for path in checkpoint.iterdir() if path.name != ".resume"}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json"} < files
    assert {"adapter.safetensors", "held_out.txt", "lexicon.txt", "v2t.json", "README.md"} < files
    assert {name.rsplit(".", 1)[-1] for name in files} <= {"safetensors", "json", "jsonl", "txt", "md", "jinja", "png"}


def test_held_out_texts_were_not_trained_on(loaded, texts_file):
    held_out = loaded.held_out()
    corpus = read_corpus(DataConfig(texts=str(texts_file), held_out=0.1), seed=0)
    assert len(held_out) == 10 and set(held_out) == set(SENTENCES) - set(corpus.train.texts)


def test_the_lexicon_is_that_of_the_training_texts(loaded, texts_file):
    expected = read_corpus(DataConfig(texts=str(texts_file), held_out=0.1), seed=0).lexicon
    assert (loaded.lexicon.words, loaded.lexicon.counts.tolist()) == (expected.words, expected.counts.tolist())
    assert loaded.lexicon.ends == ["."]


class TestWords:
    """The words of a checkpoint, with their vectors."""

    @pytest.fixture
    def opening(self, loaded, encoder, tmp_path):
        """Opens that many words anew, by way of a cache; gives the checkpoint and the texts that it embedded."""

        def run(count):
            checkpoint = replace(loaded, encoder=Counting(encoder))
            checkpoint.open_words(count, cache=str(tmp_path / "cache"))
            return checkpoint, checkpoint.encoder.texts

        return run

    def test_their_vectors_are_made_once_and_then_cached(self, opening, encoder, monkeypatch):
        first, embedded = opening(2**17)
        assert embedded == first.words.lexicon.words == first.lexicon.words
        np.testing.assert_allclose(first.words.vectors, unit_rows(encoder.encode(embedded)), atol=1e-5)
        again, embedded = opening(2**17)
        assert not embedded
        np.testing.assert_array_equal(again.words.vectors, first.words.vectors)
        monkeypatch.setattr(module, "cached_vectors", None)
        again.open_words(2**17)  # nothing is read twice

    @pytest.mark.parametrize("error", [V2TError("w.npy: No space left on device"), PermissionError(13, "Permission denied", "w.lock")])
    def test_a_cache_that_cannot_be_written_keeps_nobody_from_decoding(self, opening, monkeypatch, caplog, error):
        def refusing(*arguments):
            raise error

        monkeypatch.setattr(module, "cached_vectors", refusing)
        checkpoint, embedded = opening(5)
        assert len(checkpoint.words) == len(embedded) == 5 and "which the next run will have to do again" in caplog.text

    def test_the_most_frequent_ones(self, opening):
        checkpoint, embedded = opening(5)
        assert embedded == checkpoint.lexicon.words[:5] and len(checkpoint.words) == 5 and len(checkpoint.lexicon) > 5
        checkpoint.open_words(0)
        assert len(checkpoint.words) == 0 and checkpoint.encoder.texts == embedded

    def test_with_forms_that_the_lexicon_lacks(self, loaded, encoder, tmp_path, monkeypatch, caplog):
        made = ["мамою", "читаем"]

        def of_words(words):
            return made if words == loaded.lexicon.words else []

        monkeypatch.setattr(inflection, "unseen_forms", of_words)
        checkpoint = replace(loaded, encoder=Counting(encoder))
        for _ in range(2):  # the second time nothing is embedded
            checkpoint.open_words(5, True, str(tmp_path))
            assert checkpoint.words.spellings == [*loaded.lexicon.words[:5], "мамою", "читаем"] == checkpoint.encoder.texts
        with monkeypatch.context() as patch:  # nothing is read twice
            patch.setattr(module, "cached_forms", None)
            checkpoint.open_words(5, True, str(tmp_path))
        np.testing.assert_allclose(checkpoint.words.vectors[5:], unit_rows(encoder.encode(["мамою", "читаем"])), atol=1e-5)
        checkpoint.open_words(5, False, str(tmp_path))
        assert len(checkpoint.words) == 5 and len(checkpoint.encoder.texts) == 7
        (tmp_path / "file").write_text("")
        checkpoint.open_words(5, True, str(tmp_path / "file"))
        assert len(checkpoint.words) == 7 and "the next run will have to make forms" in caplog.text
        monkeypatch.setattr(module, "FORMS", 1)
        checkpoint.open_words(1, True, str(tmp_path))
        assert checkpoint.words.spellings == [loaded.lexicon.words[0], "мамою"]
        checkpoint.open_words(0, True, str(tmp_path))
        assert len(checkpoint.words) == 0

    def test_a_checkpoint_of_version_0_1_0_has_none(self, copy, encoder):
        (copy / "lexicon.txt").unlink()
        old = replace(load_checkpoint(copy, CPU), encoder=encoder)
        old.open_words(2**17)
        assert (len(old.lexicon), old.lexicon.ends, len(old.words)) == (0, [], 0)
        assert old.words.vectors.shape == (0, DIM)

    def test_a_damaged_lexicon(self, copy, encoder):
        (copy / "lexicon.txt").write_text("5\tмама\nпапа\n", encoding="utf-8")
        damaged = replace(load_checkpoint(copy, CPU), encoder=encoder)
        with pytest.raises(RequestError, match="lexicon.txt, line 2: damaged"):
            damaged.open_words(2**17)


def test_loaded_is_what_was_saved(loaded, tmp_path):
    first = loaded
    save_checkpoint(tmp_path / "again", first.inverter, first.tokenizer, first.info, first.held_out(), first.lexicon)
    second = load_checkpoint(tmp_path / "again", CPU)
    ids, lengths = pad(tokenize(first.tokenizer, SENTENCES[:3]), first.tokenizer.pad_token_id, CPU)
    vectors = torch.randn(3, DIM)
    torch.testing.assert_close(first.inverter.logits(vectors, ids), second.inverter.logits(vectors, ids), rtol=0, atol=0)
    assert first.info == second.info.model_copy(update={"files": first.info.files}) and first.held_out() == second.held_out()
    assert (first.folder / "lexicon.txt").read_bytes() == (second.folder / "lexicon.txt").read_bytes()


def test_float16_weights_are_computed_in_float32_on_the_cpu(copy):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(copy).half().save_pretrained(copy)
    assert json.loads((copy / "config.json").read_text())["dtype"] == "float16"
    assert load_checkpoint(copy, CPU).inverter.lm.dtype == torch.float32


def test_a_checkpoint_that_learned_to_correct_inverts(loaded, copy):
    """Version 0.1.0 could teach it, with an adapter and scores of its own."""
    from safetensors.torch import load_file, save_file

    adapter = load_file(copy / "adapter.safetensors")
    save_file({**adapter, **{f"difference.{name}": part + 1 for name, part in adapter.items()}}, copy / "adapter.safetensors")
    edit_info(correction={"steps": 9}, held_out={**loaded.info.held_out.model_dump(), "correction": {"loss": 2.0}})(copy)
    opened = load_checkpoint(copy, CPU)
    assert opened.info == loaded.info.model_copy(update={"files": {}})
    for name, weight in loaded.inverter.state_dict().items():
        torch.testing.assert_close(opened.inverter.state_dict()[name], weight, rtol=0, atol=0)


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
def test_damage_is_reported_in_one_line(copy, damage, message):
    damage(copy)
    with pytest.raises(RequestError, match=message) as caught:
        load_checkpoint(copy, CPU)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_weights_of_another_model_are_refused(copy):
    from safetensors.torch import load_file, save_file

    of_lm = load_file(copy / "model.safetensors")
    of_lm.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(of_lm, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match="its weights do not match config.json"):
        load_checkpoint(copy, CPU)


def edit_tensors(name, **changes):
    """changes: a function for each tensor whose name has the key at its end."""
    from safetensors.torch import load_file, save_file

    def edit(folder):
        tensors = load_file(folder / name)
        for end, change in changes.items():
            (key,) = (key for key in tensors if key.endswith(end.replace("_of_", ".")))
            tensors[key] = change(tensors[key]).contiguous()
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return edit


def one(value):
    def change(tensor):
        tensor.view(-1)[3] = value
        return tensor

    return change


def edit_probe(value):
    def edit(folder):
        info = json.loads((folder / "v2t.json").read_text())
        info["encoder"]["probe"] = value
        (folder / "v2t.json").write_text(json.dumps(info))

    return edit


def other_tokenizer(folder):
    build_decoder(folder.parent / "other", "gpt2")
    shutil.copy(folder.parent / "other" / "tokenizer.json", folder)
    shutil.copy(folder.parent / "other" / "tokenizer_config.json", folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit_tensors("model.safetensors", wpe_of_weight=one(float("nan"))), "wpe.weight' holds NaN or infinity"),
        (edit_tensors("model.safetensors", wpe_of_weight=one(float("inf"))), "wpe.weight' holds NaN or infinity"),
        (edit_tensors("model.safetensors", wpe_of_weight=lambda it: it.to(torch.int32)), "wpe.weight' is of type I32; expected floating"),
        (edit_tensors("model.safetensors", wpe_of_weight=lambda it: it.to(torch.int8)), "wpe.weight' is of type I8; expected floating"),
        (
            edit_tensors("adapter.safetensors", map_of_weight=one(float("nan"))),
            "adapter.safetensors: damaged: 'map.weight' holds something",
        ),
        (
            edit_tensors("adapter.safetensors", map_of_weight=lambda it: it.to(torch.int32)),
            "'map.weight' holds something other than finite",
        ),
        (edit_tensors("adapter.safetensors", map_of_weight=lambda it: it[:, 1:]), "damaged, or of another checkpoint"),
        (edit_tensors("adapter.safetensors", scale=one(0.0)), "adapter.safetensors: damaged: 'scale' holds numbers that are not positive"),
        (edit_info(dim=-1), "not a valid v2t.json: dim: Input should be greater than or equal to 1"),
        (edit_info(dim=0), "not a valid v2t.json: dim: "),
        (edit_info(dim=10**13), "not a valid v2t.json: dim: "),
        (edit_info(dim=10**6, encoder=None), "damaged, or of another checkpoint"),
        (edit_info(adapter={"kind": "linear", "tokens": -1}), "not a valid v2t.json: adapter.tokens: "),
        (edit_info(adapter={"kind": "linear", "tokens": 60_000}), "damaged, or of another checkpoint"),
        (edit_info(adapter={"kind": "zero_pad", "tokens": 2}), "has exactly 1 prefix position, not 2"),
        (edit_probe([]), "not a valid v2t.json: encoder: Value error, probe has 0 numbers, but dim is 16"),
        (edit_probe([float("nan")] * DIM), "not a valid v2t.json: encoder.probe.0: Input should be a finite number"),
        (edit_info(files={"../../etc/passwd": "0"}), "not a valid v2t.json: files: .* is not the name of a file in the folder"),
        (other_tokenizer, "tokenizer.json: damaged, or of another checkpoint: its end and pad tokens are '<|endoftext|>' and 'None'"),
    ],
)
def test_values_that_cannot_be_are_refused(copy, damage, message):
    damage(copy)
    with pytest.raises(RequestError, match=message) as caught:
        load_checkpoint(copy, CPU)
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


class TestWhatBelongsTogether:
    """The hashes in v2t.json."""

    @pytest.mark.parametrize("name", ["model.safetensors", "adapter.safetensors", "tokenizer.json", "config.json", "lexicon.txt"])
    def test_a_changed_byte_is_named_with_what_to_do(self, hashed, name):
        content = bytearray((hashed / name).read_bytes())
        content[-9] ^= 1
        (hashed / name).write_bytes(content)
        with pytest.raises(
            RequestError, match=f"{name}: damaged, or of another checkpoint: .*; copy the folder again; .*on purpose, remove"
        ):
            load_checkpoint(hashed, CPU)
        info = json.loads((hashed / "v2t.json").read_text())
        del info["files"][name]
        (hashed / "v2t.json").write_text(json.dumps(info))
        with suppress(RequestError):
            load_checkpoint(hashed, CPU)  # no hash stands against it

    @pytest.mark.parametrize("name", ["adapter.safetensors", "tokenizer.json"])
    def test_files_of_another_run_are_refused(self, hashed, texts_file, labse, tmp_path, name):
        from v2t_cli.training.train import train

        train(tiny_config(texts_file, labse, tmp_path / "other", "train.epochs=0.1", "seed=5"))
        shutil.copy(tmp_path / "other" / name, hashed)
        with pytest.raises(RequestError, match=f"{name}: damaged, or of another checkpoint"):
            load_checkpoint(hashed, CPU)

    def test_a_missing_file(self, hashed):
        (hashed / "lexicon.txt").unlink()
        with pytest.raises(RequestError, match="lexicon.txt: missing; the checkpoint is incomplete"):
            load_checkpoint(hashed, CPU)

    def test_held_out_texts_may_go_but_not_change(self, hashed):
        (hashed / "held_out.txt").write_text("другой текст\n", encoding="utf-8")
        opened = load_checkpoint(hashed, CPU)
        with pytest.raises(RequestError, match="held_out.txt: damaged, or of another checkpoint"):
            opened.held_out()
        (hashed / "held_out.txt").unlink()
        with pytest.raises(RequestError, match="held_out.txt: missing"):
            load_checkpoint(hashed, CPU).held_out()

    def test_of_version_0_1_0_nothing_is_known(self, copy, checkpoint):
        assert load_checkpoint(copy, CPU).info.files == {}
        assert load_checkpoint(checkpoint, CPU).info.files.keys() >= {"model.safetensors", "adapter.safetensors", "tokenizer.json"}

    def test_a_decoder_for_training_is_checked_too(self, hashed, texts_file, labse, tmp_path):
        from v2t_cli.training.train import train

        edit_tensors("adapter.safetensors", map_of_weight=one(0.5))(hashed)
        with pytest.raises(RequestError, match="adapter.safetensors: damaged, or of another checkpoint"):
            train(tiny_config(texts_file, labse, tmp_path / "out", f"decoder.model={hashed}", "train.epochs=0.1"))


def test_a_failed_save_leaves_the_old_checkpoint(copy, monkeypatch):
    loaded = load_checkpoint(copy, CPU)
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}
    monkeypatch.setattr(module, "model_card", lambda *info: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        module.save_checkpoint(copy, loaded.inverter, loaded.tokenizer, loaded.info, ["другой"], Lexicon(["другой"], [1], []))
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()} == before
    assert not list(copy.glob(".new-*"))


class TestOpeningWithAnEncoder:
    """open_checkpoint, by what the checkpoint says about its encoder and what is asked for."""

    @pytest.fixture
    def of(self, copy):
        """The checkpoint after v2t.json got another encoder: of(None), or of a name."""

        def change(name):
            info = json.loads((copy / "v2t.json").read_text())
            info["encoder"] = None if name is None else info["encoder"] | {"name": name}
            (copy / "v2t.json").write_text(json.dumps(info))
            return copy

        return change

    @pytest.mark.parametrize("use", ["optional", "required"])
    def test_its_own_is_opened_and_checked(self, checkpoint, encoder, use):
        for name in (checkpoint, str(checkpoint)):
            opened = open_checkpoint(name, Config(), "cpu", use=use)
            assert opened.encoder.identity == encoder.identity and opened.folder == checkpoint
            assert not opened.inverter.training

    def test_its_own_is_opened_with_what_the_checkpoint_says(self, checkpoint, labse):
        """And of the configuration only with what the checkpoint leaves open."""
        config = Config.model_validate({"encoder": {"model": "another", "prompt": "запрос: ", "normalize": True}})
        opened = open_checkpoint(checkpoint, config, "cpu")
        assert (opened.encoder.identity.name, opened.encoder.identity.prompt) == (str(labse), None)

    @pytest.mark.parametrize("use", ["optional", "required"])
    def test_an_encoder_that_changed_is_refused(self, of, other_labse, use):
        with pytest.raises(RequestError, match="does not match that of the checkpoint, .*probe cosine"):
            open_checkpoint(of(str(other_labse)), Config(), "cpu", use=use)

    def test_none_is_opened_where_none_is_used(self, checkpoint, monkeypatch, caplog):
        monkeypatch.setattr("v2t_cli.models.encoder.open_encoder", lambda *arguments: pytest.fail("an encoder was opened"))
        assert open_checkpoint(checkpoint, Config(), "cpu", use="none").encoder is None
        assert not caplog.text

    def test_a_missing_one_is_left_out_with_a_warning_unless_required(self, of, tmp_path, caplog):
        folder = of(str(tmp_path / "gone"))
        assert open_checkpoint(folder, Config(), "cpu", use="optional").encoder is None
        assert "no cosine and no re-ranking, because the encoder cannot be opened: " in caplog.text and "gone" in caplog.text
        with pytest.raises(RequestError, match="gone': no such folder"):
            open_checkpoint(folder, Config(), "cpu", use="required")

    def test_a_checkpoint_without_one(self, of, labse, caplog):
        folder = of(None)
        assert open_checkpoint(folder, Config(), "cpu", use="none").encoder is None
        assert not caplog.text
        assert open_checkpoint(folder, Config(), "cpu", use="optional").encoder is None
        assert "this checkpoint has no encoder, so there is no cosine and no re-ranking; --encoder adds one" in caplog.text
        with pytest.raises(RequestError, match="this checkpoint was trained on vectors made elsewhere .* name one with --encoder"):
            open_checkpoint(folder, Config(), "cpu", use="required")
        config = Config.model_validate({"encoder": {"prompt": "запрос: "}})
        opened = open_checkpoint(folder, config, "cpu", str(labse))
        assert (opened.encoder.identity.name, opened.encoder.identity.prompt) == (str(labse), "запрос: ")

    def test_a_named_one_of_another_width(self, of, tmp_path):
        narrow = build_labse(tmp_path, hidden=8, layers=1, heads=1)
        with pytest.raises(RequestError, match="makes vectors of 8 dimensions, but the checkpoint reads 16"):
            open_checkpoint(of(None), Config(), "cpu", str(narrow))

    @pytest.mark.parametrize("use", ["none", "optional", "required"])
    def test_a_named_one_is_always_opened_and_checked(self, of, checkpoint, labse, other_labse, tmp_path, use):
        assert open_checkpoint(of(str(tmp_path / "gone")), Config(), "cpu", str(labse), use).encoder.identity.name == str(labse)
        with pytest.raises(RequestError, match="does not match that of the checkpoint"):
            open_checkpoint(checkpoint, Config(), "cpu", str(other_labse), use)
        with pytest.raises(RequestError, match="absent': no such folder"):
            open_checkpoint(checkpoint, Config(), "cpu", str(tmp_path / "absent"), use)

    def test_precision_is_that_of_the_configuration(self, checkpoint):
        config = Config(decode=DecodeConfig(precision="bfloat16"))
        assert open_checkpoint(checkpoint, config, "cpu", use="none").inverter.lm.dtype == torch.bfloat16
        assert open_checkpoint(checkpoint, Config(), "cpu", use="none").inverter.lm.dtype == torch.float32


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("width", [128, 256])
def test_wide_decoders_compute_in_bfloat16_where_that_is_faster(loaded, tmp_path, monkeypatch, fast, width):
    monkeypatch.setattr("v2t_cli.models.checkpoint.has_fast_bfloat16", lambda device: fast)
    size = {"hidden_size": width, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    lm = LlamaForCausalLM(LlamaConfig(**size, vocab_size=len(loaded.tokenizer)))
    adapter = ADAPTERS[loaded.info.adapter.kind](loaded.info.dim, width, loaded.info.adapter.tokens)
    save_checkpoint(tmp_path, Inverter(lm, adapter), loaded.tokenizer, loaded.info, [], loaded.lexicon)
    lm = load_checkpoint(tmp_path, CPU).inverter.lm
    assert lm.dtype == (torch.bfloat16 if fast and width == 256 else torch.float32)
    assert lm.model.rotary_emb.inv_freq.dtype == torch.float32, "positions keep their precision"
    assert load_checkpoint(tmp_path, CPU, "float32").inverter.lm.dtype == torch.float32


def test_files_of_the_checkpoint_before_go(loaded, tmp_path):
    folder = tmp_path / "again"
    saving = partial(save_checkpoint, folder, loaded.inverter, loaded.tokenizer, loaded.info, loaded.held_out(), loaded.lexicon)
    saving()
    (folder / "added_tokens.json").write_text('{"<one more>": 999}', encoding="utf-8")  # of another kind of tokenizer
    (folder / "mine.json").write_text("{}", encoding="utf-8")
    info = json.loads((folder / "v2t.json").read_text(encoding="utf-8"))
    info["files"]["added_tokens.json"] = file_hash(folder / "added_tokens.json")
    (folder / "v2t.json").write_text(json.dumps(info), encoding="utf-8")
    saving()
    assert not (folder / "added_tokens.json").exists() and (folder / "mine.json").exists()
    load_checkpoint(folder, CPU)
