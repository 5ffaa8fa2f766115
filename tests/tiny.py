"""Tiny models of the real architectures, built in memory: no network, no downloads, seconds. Also the other helpers that tests share."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from v2t_cli.core.config import Config, DecoderConfig, load_config
from v2t_cli.decoding.edits import Edit
from v2t_cli.models.adapters import ADAPTERS
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.inverter import Inverter
from v2t_cli.models.language_model import load_lm, pad, tokenize

ROOT = Path(__file__).parent.parent
DIM = 16

SENTENCES = [
    f"{who} {what} {where}."
    for who in ("Мама", "Мой брат", "Соседка", "Иван", "Бабушка")
    for what in ("читает газету", "пьёт чай", "ищет ключи", "ждёт письма", "слушает радио")
    for where in ("дома", "на даче", "в саду", "утром")
]


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


TEXTS = ["Привет!", "Где лодка?", "Я бы поехал автобусом."]


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


def load_vectors(path):
    """All rows of a file: float32 (rows, dim)."""
    from v2t_cli.io.vectors import open_vectors

    with open_vectors(str(path)) as reader:
        return reader.read()


def without_hashes(folder: Path) -> Path:
    """Makes a checkpoint one of version 0.1.0, whose v2t.json does not say which files belong together."""
    info = json.loads((folder / "v2t.json").read_text(encoding="utf-8"))
    (folder / "v2t.json").write_text(json.dumps({key: value for key, value in info.items() if key != "files"}), encoding="utf-8")
    return folder


def weights(folder):
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "adapter.safetensors")}


def assert_same_weights(one, two, **tolerance):
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


class Counting(Encoder):
    """An encoder that counts what it is asked."""

    def __init__(self, encoder):
        self.encoder, self.identity, self.texts = encoder, encoder.identity, []

    def encode(self, texts):
        self.texts += texts
        return self.encoder.encode(texts)

    def count_truncated(self, texts):
        return self.encoder.count_truncated(texts)


class StopAt:
    """should_stop that says yes before a given step."""

    def __init__(self, step):
        self.step, self.asked = step, 0

    def __call__(self):
        self.asked += 1
        return self.asked > self.step


def stopping(step):
    from v2t_cli.training.callbacks import Callbacks

    return Callbacks(stoppable=lambda: nullcontext(StopAt(step)))


@contextmanager
def interrupting(rows, error=KeyboardInterrupt):
    """Ctrl-C, or another error, after so many rows of what is made in parts."""
    from v2t_cli.io.resumable import ResumableLines

    write, seen = ResumableLines.write, []

    def stopped(self, first, lines):
        seen.extend(lines)
        if len(seen) > rows:
            raise error
        write(self, first, lines)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResumableLines, "write", stopped)
        yield


def disjoint(left: Edit, right: Edit) -> bool:
    """Whether both edits can be made at once: no span of one overlaps a span of the other, and only one flips the case."""
    apart = all(a.stop <= b.start or b.stop <= a.start for a in left.spans for b in right.spans)
    return apart and not (left.flip and right.flip)
