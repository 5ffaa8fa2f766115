"""Gradients of a SentenceTransformer: which other tokens would bring a text nearer to a vector, to the first order.

HotFlip (Ebrahimi et al., 2018, https://arxiv.org/abs/1712.06751) replaces tokens by this estimate alone. It is a poor guide by
itself, but it knows the context of a word, which the vectors of single words do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from typing import Any

import numpy as np

Spans = list[tuple[int, int]]
SHORT = 128  # tokens up to which attention in separate steps is faster; its memory grows with their square
_SWITCH = Lock()  # sdpa_kernel switches for all threads
PART = 64  # texts at a time: a backward pass keeps what every layer computed


def in_own_precision(model: Any) -> AbstractContextManager[Any]:
    """A context in which a SentenceTransformer with bfloat16 weights on a CPU can compute: some modules mix in float32."""
    import torch

    low = any(weight.dtype == torch.bfloat16 for weight in model.parameters())
    return torch.autocast("cpu", torch.bfloat16, enabled=low and model.device.type == "cpu")


@contextmanager
def _attention(model: Any, length: int) -> Iterator[None]:
    """Attention in separate steps where that is faster: on a CPU, the fused kernel's backward pass is slow for short texts."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if model.device.type != "cpu" or length > SHORT:
        yield
        return
    with _SWITCH, sdpa_kernel(SDPBackend.MATH):
        yield


class TokenGradients:
    """Of an encoder whose first module is a transformer with a fast tokenizer; `of` makes it."""

    def __init__(self, model: Any, prompt: str):
        self._model, self._prompt, self._tokenizer = model, prompt, model.tokenizer
        self._table = model[0].auto_model.get_input_embeddings()
        self._known: dict[str, np.ndarray] = {}

    @classmethod
    def of(cls, model: Any, prompt: str | None) -> TokenGradients | None:
        """None for an encoder of another kind."""
        transformer = getattr(model[0], "auto_model", None)
        fits = hasattr(transformer, "get_input_embeddings") and getattr(model.tokenizer, "is_fast", False)
        return cls(model, prompt or "") if fits else None

    def of_words(self, texts: list[str], targets: np.ndarray, spans: list[Spans]) -> list[np.ndarray]:
        """For each text the gradient of its cosine by the embedding of each of its words: float32 (words, width).

        targets: (texts, dim); spans: the characters of the words of each text. A word that the encoder does not read has zeros.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like length need little padding
        out: list[Any] = [None] * len(texts)
        for start in range(0, len(texts), PART):
            part = order[start : start + PART]
            for i, of_text in zip(part, self._of_part([texts[i] for i in part], targets[part], [spans[i] for i in part])):
                out[i] = of_text
        return out

    def _of_part(self, texts: list[str], targets: np.ndarray, spans: list[Spans]) -> list[np.ndarray]:
        import torch

        given = [self._prompt + text for text in texts]
        features = {name: value for name, value in self._model.preprocess(given).items() if torch.is_tensor(value)}
        features = {name: value.to(self._model.device) for name, value in features.items()}
        length = features["input_ids"].shape[1]
        # Aligned with the features: the padding covers no characters.
        offsets = self._tokenizer(given, padding=True, truncation=True, max_length=length, return_offsets_mapping=True)["offset_mapping"]
        embedded: list[Any] = []

        def keep(module: Any, inputs: Any, output: Any) -> Any:
            embedded.append(output.detach().requires_grad_())
            return embedded[-1]

        handle = self._table.register_forward_hook(keep)
        try:
            with torch.enable_grad(), in_own_precision(self._model), _attention(self._model, length):
                vectors = self._model(features)["sentence_embedding"].float()
                cosines = torch.cosine_similarity(vectors, torch.from_numpy(targets).to(vectors))
                (found,) = torch.autograd.grad(cosines.sum(), embedded)
        finally:
            handle.remove()
        shift, gradients = len(self._prompt), found.float().cpu().numpy()
        out = []
        for of_text, words, ends in zip(gradients, spans, offsets):
            begins, stops = np.array(ends, dtype=np.int64).T
            masks = [(begins < stop + shift) & (stops > start + shift) for start, stop in words]
            out.append(np.stack([of_text[mask].sum(axis=0) for mask in masks]) if words else np.empty((0, of_text.shape[1]), np.float32))
        return out

    def embeddings(self, words: Iterable[str]) -> np.ndarray:
        """The mean embedding of the tokens of each word, as inside a text: float32 (words, width)."""
        words = list(words)
        if new := [word for word in words if word not in self._known]:
            table = self._table.weight.detach()
            for word, ids in zip(new, self._tokenizer([f" {word}" for word in new], add_special_tokens=False)["input_ids"]):
                self._known[word] = table[ids].float().mean(dim=0).cpu().numpy() if ids else np.zeros(table.shape[1], np.float32)
        return np.stack([self._known[word] for word in words])
