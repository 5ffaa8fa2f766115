"""Generation: the texts that a decoder writes behind a prefix."""

from __future__ import annotations

import torch
from torch import Tensor

from v2t_cli.model import Hypotheses, Inverter
from v2t_cli.search import Search
from v2t_cli.texts import to_line


def generate(
    inverter: Inverter, tokenizer, vectors: Tensor, search: Search, hypotheses: Hypotheses | None = None
) -> list[list[tuple[str, list[int]]]]:
    """For each vector search.beams texts and their token ids, up to the end-of-text where it was reached.

    vectors: (batch, dim) float32 on the inverter's device; hypotheses: texts to correct, one a vector.
    """
    special = inverter.lm.generation_config
    with torch.inference_mode():
        ids = inverter.generate(
            vectors,
            hypotheses,
            generation_config=type(special)(
                max_new_tokens=search.max_new_tokens,
                eos_token_id=special.eos_token_id,
                pad_token_id=special.pad_token_id,
                **_strategy(search),
            ),
        )  # (batch * beams, time)
    rows = [_until_end(row, tokenizer.eos_token_id) for row in ids.tolist()]
    found = [(to_line(text), row) for text, row in zip(tokenizer.batch_decode(rows, skip_special_tokens=True), rows)]
    return [found[start : start + search.beams] for start in range(0, len(found), search.beams)]


def _strategy(search: Search) -> dict:
    """The arguments of transformers' GenerationConfig."""
    if search.strategy == "sample":
        sampling = {"temperature": search.temperature, "top_p": search.top_p, "top_k": search.top_k}
        return {"do_sample": True, "num_return_sequences": search.beams, **sampling}
    if search.beams == 1:
        return {}
    # Sums of log-probabilities are compared as they are: the end of the text is a token like the others.
    return {"num_beams": search.beams, "num_return_sequences": search.beams, "length_penalty": 0.0}


def _until_end(row: list[int], end: int) -> list[int]:
    """The tokens up to the first end-of-text, which is included; all of them where the limit came first."""
    return row[: row.index(end) + 1] if end in row else row
