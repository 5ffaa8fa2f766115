"""Tiny models of the real architectures, built in memory: no network, no downloads, seconds."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from v2t_cli.cli import app
from v2t_cli.core.config import Config, DecoderConfig, load_config
from v2t_cli.models.adapters import ADAPTERS
from v2t_cli.models.inverter import Hypotheses, Inverter
from v2t_cli.models.language_model import load_lm, pad, tokenize

ROOT = Path(__file__).parent.parent
DIM = 16

SENTENCES = [
    f"{who} {what} {where}."
    for who in ("Мама", "Мой брат", "Соседка", "Иван", "Бабушка")
    for what in ("читает газету", "пьёт чай", "ищет ключи", "ждёт письма", "слушает радио")
    for where in ("дома", "на даче", "в саду", "утром")
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Vectors embedded by a test stay out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


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


def build_labse(folder: Path, hidden: int, layers: int, heads: int, seed: int = 0, vocabulary: int | None = None) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    letters = sorted(set("".join(SENTENCES).lower()) - {" "})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {token: i for i, token in enumerate(specials + letters + ["##" + letter for letter in letters])}
    wordpiece = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    wordpiece.normalizer = normalizers.BertNormalizer()
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=wordpiece, **names)
    config = BertConfig(
        vocab_size=vocabulary or len(vocab),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=64 if hidden < 100 else 512,
        initializer_range=0.3 if hidden < 100 else 0.02,  # at this size the usual 0.02 makes all texts look alike
    )
    bert = folder / "bert"
    BertModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    transformer = Transformer(str(bert))
    transformer.max_seq_length = 32
    dense = Dense(hidden, hidden, activation_function=torch.nn.Tanh())
    model = SentenceTransformer(modules=[transformer, Pooling(hidden, pooling_mode="cls"), dense, Normalize()], device="cpu")
    out = folder / "encoder"
    model.save(str(out))
    return out


def build_decoder(folder: Path, architecture: str, end_token: bool = True) -> Path:
    """A decoder folder, gpt2 or llama, with a byte-level tokenizer that may lack its end-of-text token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **({"eos_token": "<|endoftext|>"} if end_token else {}))
    tokenizer.save_pretrained(folder)
    if architecture == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=96, n_embd=32, n_layer=2, n_head=2))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=96, **sizes))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def decoder(request, tmp_path_factory) -> Path:
    return build_decoder(tmp_path_factory.mktemp(request.param), request.param)


TEXTS = ["Привет!", "Где лодка?", "Я бы поехал автобусом."]
WRONG = ["Привет, ты", "Где?", "Я бы ехал"]


def inverter(decoder, kind="linear", tokens=1) -> tuple[Inverter, object]:
    torch.manual_seed(0)
    lm, tokenizer = load_lm(DecoderConfig(model=str(decoder)))
    adapter = ADAPTERS[kind](DIM, lm.config.hidden_size, tokens)
    adapter.match_scale(1.0)
    return Inverter(lm, adapter).eval(), tokenizer


def token_batch(tokenizer, texts=TEXTS):
    ids, lengths = pad(tokenize(tokenizer, texts), tokenizer.pad_token_id, torch.device("cpu"))
    torch.manual_seed(1)
    return torch.randn(len(texts), DIM), ids, lengths


def hypotheses(tokenizer, texts) -> Hypotheses:
    torch.manual_seed(3)
    read = pad(tokenize(tokenizer, texts), tokenizer.pad_token_id, torch.device("cpu"), left=True)
    return Hypotheses(torch.randn(len(texts), DIM), *read)


@pytest.fixture
def corrector(decoder):
    model, tokenizer = inverter(decoder, tokens=2)
    torch.manual_seed(2)
    model.difference = ADAPTERS["linear"](DIM, model.lm.config.hidden_size, 2)
    return model.eval(), tokenizer


def tiny_config(texts: Path, encoder: Path | str, output: Path, *sets: str) -> Config:
    base = [
        f"encoder.model={encoder}",
        f"data.texts={texts}",
        f"output={output}",
        "device=cpu",
        "decoder.scratch={n_layer: 2, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}",
        "train.batch_size=16",
        "train.epochs=3",
        "train.samples=2",
        "data.held_out=0.1",
    ]
    return load_config(None, [*base, *sets])


def weights(folder):
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "adapter.safetensors")}


def assert_same_weights(one, two, **tolerance):
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


class StopAt:
    """should_stop that says yes before a given step."""

    def __init__(self, step):
        self.step, self.asked = step, 0

    def __call__(self):
        self.asked += 1
        return self.asked > self.step


def stopping(step):
    from v2t_cli.training.callbacks import Hooks

    return Hooks(stoppable=lambda: nullcontext(StopAt(step)))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, labse, texts_file) -> Path:
    """A trained checkpoint of a tiny GPT-2 from scratch on the tiny LaBSE."""
    from v2t_cli.training.train import train

    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    cache = tmp_path_factory.mktemp("cache")
    train(
        tiny_config(
            texts_file,
            labse,
            output,
            "train.epochs=60",
            "train.learning_rate=3e-3",
            "train.adapter_learning_rate=1e-3",
            f"data.cache={cache}",
        )
    )
    return output


@pytest.fixture(scope="session")
def correcting(checkpoint, tmp_path_factory, labse, texts_file) -> Path:
    """The trained checkpoint, taught to correct."""
    from v2t_cli.training.train import train

    output = tmp_path_factory.mktemp("correcting") / "checkpoint"
    rates = ("train.learning_rate=3e-3", "train.adapter_learning_rate=1e-3")
    correction = "train.correction={texts: 0.3, hypotheses: 4, epochs: 10}"
    start = ("train.epochs=0", "decoder.scratch=null", f"decoder.model={checkpoint}", "data.source=written for the tests")
    train(tiny_config(texts_file, labse, output, correction, *start, *rates))
    return output


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
