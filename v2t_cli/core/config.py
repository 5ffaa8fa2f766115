"""The configuration: one YAML file, one loader, a default for every key.

The command line overrides the file, and the file overrides the defaults below. Unknown keys are refused, and all problems are
reported at once.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import one_line
from v2t_cli.core.types import Form, Quality, Strategy

DEFAULT_FILE = Path("v2t.yaml")
# What a file that the command does not name may not switch on, since it may have come with a download: running other people's
# code, and sending data away. Its other keys choose models, files and numbers. Models are data, files that hold something else
# are not overwritten, and a run there is replaced only by somebody who types --overwrite.
NEEDS_NAMING = {"encoder.trust_remote_code": True, "decoder.trust_remote_code": True, "train.trackers": "wandb"}


class Section(BaseModel):
    # Frozen, so that the settings stay what the file and the model card say. A name may look like a number to YAML.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def no_nul_or_surrogate(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and ("\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)):
                raise ValueError("contains a NUL character or half of a surrogate pair")
        return value


class EncoderConfig(Section):
    model: str | None = "sentence-transformers/LaBSE"
    revision: str | None = None
    trust_remote_code: bool = False
    prompt: str | None = None
    normalize: bool = False
    batch_size: int = Field(256, ge=1)


class ScratchConfig(Section):
    n_layer: int = Field(3, ge=1)
    n_embd: int = Field(512, ge=1)
    n_head: int = Field(8, ge=1)
    n_positions: int = Field(128, ge=2)
    vocab_size: int = Field(8192, ge=260)  # 256 bytes and the special tokens

    @model_validator(mode="after")
    def heads_divide_width(self) -> ScratchConfig:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        return self


class DecoderConfig(Section):
    model: str = "ai-forever/rugpt3large_based_on_gpt2"
    revision: str | None = None
    trust_remote_code: bool = False
    scratch: ScratchConfig | None = None

    @model_validator(mode="after")
    def one_source(self) -> DecoderConfig:
        if self.scratch is not None and "model" in self.model_fields_set:
            raise ValueError("set 'model' or 'scratch', not both")
        return self


class AdapterConfig(Section):
    kind: Literal["zero_pad", "linear", "mlp"] = "linear"
    tokens: int = Field(1, ge=1)
    align: bool = False

    @model_validator(mode="after")
    def zero_pad_is_one_position(self) -> AdapterConfig:
        if self.kind == "zero_pad" and self.tokens != 1:
            raise ValueError(f"zero_pad has exactly 1 prefix position, not {self.tokens}; linear and mlp can have several")
        return self


class DataConfig(Section):
    texts: list[str] = Field(["texts.txt"], min_length=1)
    vectors: str | None = None
    column: str | None = None
    source: str | None = None
    min_chars: int = Field(2, ge=0)
    max_chars: int = Field(160, ge=1)
    held_out: float = Field(0.05, ge=0, lt=1)
    augment: float = Field(0.0, ge=0, le=1)
    join: float = Field(0.0, ge=0, le=1)
    cache: str | None = None

    @field_validator("texts", mode="before")
    @classmethod
    def one_file_is_a_list_too(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, int, float)) else value

    @model_validator(mode="after")
    def min_is_not_above_max(self) -> DataConfig:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is greater than max_chars {self.max_chars}")
        return self


class TrainConfig(Section):
    epochs: float = Field(2, gt=0)
    max_minutes: float | None = Field(None, gt=0)
    batch_size: int = Field(64, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float | None = Field(None, gt=0)
    adapter_learning_rate: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    dropout: float | None = Field(None, ge=0, lt=1)
    warmup: float = Field(0.05, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    eval_steps: int = Field(5000, ge=1)
    save_steps: int = Field(5000, ge=1)
    save_precision: Literal["float32", "bfloat16", "float16"] = "float32"
    samples: int = Field(5, ge=0)
    trackers: list[Literal["tensorboard", "wandb"]] = []

    @field_validator("precision", mode="before")
    @classmethod
    def yaml_no(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML reads a bare no as false

    def learning_rates(self, scratch: bool) -> tuple[float, float]:
        """Peak rates of the decoder and of the adapter. scratch: a decoder with random weights learns at a higher rate."""
        decoder, adapter = (5e-4, 2e-4) if scratch else (5e-5, 5e-4)
        return self.learning_rate or decoder, self.adapter_learning_rate or adapter


class DecodeConfig(Section):
    quality: Quality = "balanced"
    strategy: Strategy | None = None
    beams: int | None = Field(None, ge=1)
    rerank: bool | None = None
    logprob_weight: float = Field(0.003, ge=0)
    feedback: int | None = Field(None, ge=0)
    rounds: int | None = Field(None, ge=0)
    width: int | None = Field(None, ge=1)
    edits: int | None = Field(None, ge=0)
    lexicon: int = Field(2**17, ge=0)
    inflect: bool | None = None
    encoder_calls: int = Field(6000, ge=0)
    until_cosine: float = Field(0.9999, gt=0, le=1)
    candidates: int = Field(1, ge=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.85, gt=0, le=1)
    top_k: int = Field(50, ge=0)
    max_new_tokens: int | None = Field(None, ge=1)
    batch_size: Literal["auto"] | int = "auto"
    form: Form = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    @field_validator("batch_size", mode="before")
    @classmethod
    def batch_size_is_positive(cls, value: Any) -> Any:
        if value != "auto" and not (type(value) is int and value >= 1):
            raise ValueError("expected 'auto' or an integer of at least 1")
        return value


class EvalConfig(Section):
    samples: int = Field(20, ge=0)


class Config(Section):
    seed: int = Field(0, ge=0, lt=2**32)
    device: str = "auto"
    output: str = "checkpoint"
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    decode: DecodeConfig = DecodeConfig()
    eval: EvalConfig = EvalConfig()


def load_config(path: Path | None = None, sets: list[str] | None = None, typed: dict[str, Any] | None = None) -> Config:
    """Read and check the configuration.

    path: a YAML file; None: ./v2t.yaml if it exists, which may not set what NEEDS_NAMING lists.
    sets: `section.key=value` items, the value in YAML.
    typed: options of the command line by dotted key; None: not typed.

    Raises RequestError with every problem found, each with its dotted key.
    """
    named = path is not None
    if not named and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
        log.info(f"{path}: settings are taken from this file")
    tree = {} if path is None else _read_yaml(path)
    items: list[tuple[str, Any]] = []
    for item in sets or []:
        key, found, value = item.partition("=")
        if not found or not key:
            raise RequestError(f"--set {item}: expected section.key=value, for example --set train.epochs=3")
        items.append((key.strip(), value if value == "-" else _parse(value, f"--set {item}")))  # a dash is stdin, not a YAML list
    items += [(key, value) for key, value in (typed or {}).items() if value is not None]
    for key, value in items:
        _put(tree, key, value)
    config = check_config(tree, "the command line" if path is None else str(path))
    if path is not None and not named:
        _check_unnamed(config, {key for key, _ in items})
    return config


def _check_unnamed(config: Config, typed: set[str]) -> None:
    """Raise RequestError if the file that was merely found sets what NEEDS_NAMING lists. typed: the keys that were typed."""
    for dotted, risk in NEEDS_NAMING.items():
        section, key = dotted.split(".")
        value = getattr(getattr(config, section), key)
        if not typed & {section, dotted} and (value == risk or (isinstance(value, list) and risk in value)):
            allow = f"--config {DEFAULT_FILE}" + (" or --trust-remote-code" if risk is True else "")
            why = "runs code that comes with a model" if risk is True else "sends data away"
            raise RequestError(f"{DEFAULT_FILE}: {dotted} {why}, and no option names this file; {allow} allows it")


def check_config(tree: dict[str, Any], where: str) -> Config:
    """The configuration of nested settings. Raises RequestError with every problem found, each with its dotted key."""
    try:
        # A section without keys is null in YAML; it means the defaults.
        return Config.model_validate({key: {} if value is None and key in _SECTIONS else value for key, value in tree.items()})
    except ValidationError as error:
        raise RequestError(f"{where}: " + "; ".join(_explain(problem) for problem in error.errors())) from None


_SECTIONS = {name for name, field in Config.model_fields.items() if isinstance(field.default, Section)}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read as a config file: {one_line(error)}") from None
    tree = _parse(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise RequestError(f"{path}: expected sections such as 'train:', found {type(tree).__name__}")
    return tree


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can expand a few hundred bytes to gigabytes, and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"aliases such as *{event.anchor} are not allowed; write the value out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is set twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """As it is written where Python would write it otherwise: 007 and 0.10 may be names, and as a number pydantic reads them too."""
        number = self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)
        return number if str(number) == node.value else node.value


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def _parse(text: str, where: str) -> Any:
    try:
        return _Loader(text).get_single_data()
    except Exception as error:  # PyYAML fails in many ways: on dates, numbers, tags, and by recursion
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise RequestError(f"{where}{place}: not valid YAML: {getattr(error, 'problem', None) or one_line(error)}") from None


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    if isinstance(decoder := tree.get("decoder"), dict):
        # They exclude each other: the typed one removes the other.
        if dotted.startswith("decoder.scratch") and value is not None:
            decoder.pop("model", None)
        elif dotted == "decoder.model":
            decoder.pop("scratch", None)
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        elif not isinstance(tree[section], dict):
            raise RequestError(f"{dotted}: '{section}' is set to {_shown(tree[section])}, which is not a section")
        tree = tree[section]
    tree[key] = value


def _explain(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], _keys_at(path[:-1]), n=1)
        return f"{key}: unknown key" + (f", did you mean '{'.'.join([*path[:-1], near[0]])}'?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    return f"{key}: {message}" + ("" if isinstance(given, (dict, Section)) else f", got {_shown(given)}")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number with thousands of digits
        return "a number too long to show"
    return text if len(text) <= 100 else f"{text[:97]}..."


def dotted_keys(section: type[Section] = Config, above: str = "") -> list[str]:
    """Every key of the configuration, such as train.epochs."""
    out = []
    for name, field in section.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type) and issubclass(kind, Section)]
        if not inner or field.default is None:  # decoder.scratch can be set as a whole
            out.append(above + name)
        for kind in inner:
            out += dotted_keys(kind, f"{above}{name}.")
    return out


def _keys_at(path: list[str]) -> list[str]:
    model: Any = Config()
    for name in path:
        model = getattr(model, name, None) or {"scratch": ScratchConfig()}.get(name)
    return list(type(model).model_fields) if isinstance(model, Section) else []
