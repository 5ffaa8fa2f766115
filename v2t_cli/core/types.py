"""Types of settings. A separate module, so that `v2t --help` does not load pydantic."""

from typing import Literal, TypedDict

Quality = Literal["fast", "balanced", "best"]
Strategy = Literal["greedy", "beam", "sample"]
Format = Literal["text", "jsonl", "tsv"]
Form = Literal["auto", "float", "padded", "int8", "bits", "cut"]


class DecodeSettings(TypedDict, total=False):
    """The settings under `decode` as keyword arguments of the Python API; config.example.yaml explains each."""

    quality: Quality
    strategy: Strategy | None
    beams: int | None
    rerank: bool | None
    logprob_weight: float
    feedback: int | None
    rounds: int | None
    width: int | None
    edits: int | None
    lexicon: int
    inflect: bool | None
    encoder_calls: int
    until_cosine: float
    candidates: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int | None
    form: Form
    batch_size: Literal["auto"] | int


class EncoderSettings(TypedDict, total=False):
    """The settings under `encoder` as keyword arguments of the Python API."""

    revision: str | None
    trust_remote_code: bool
    prompt: str | None
    normalize: bool
    batch_size: int
