"""Token edits: what the decoder itself would rather write at each place of a text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from v2t_cli.decoding.edits import Edit, Span, edit
from v2t_cli.models.inverter import Inverter, text_batches
from v2t_cli.models.language_model import tokenize

TOP_TOKENS = 12  # of the decoder at each place, to replace the token there or to precede it


class TokenEditor:
    """Edits of single tokens."""

    def __init__(self, inverter: Inverter, tokenizer: Any):
        self.inverter, self.tokenizer = inverter, tokenizer
        self._surfaces: dict[int, str] = {}
        # Some tokenizers drop the blank before a first token, so tokens are decoded after this one.
        self._anchor = tokenize(tokenizer, ["a"])[0][:-1]

    def edits(self, texts: list[str], targets: Tensor) -> list[list[Edit]]:
        """Replace, insert and delete tokens of each text, the best edits first.

        targets: (len(texts), dim). An edit is judged by the log-probability of the new token minus that of the old one, from
        one teacher-forced pass.
        """
        rows = tokenize(self.tokenizer, texts)
        out: list[list[Edit]] = [[] for _ in rows]
        for batch in text_batches(self.inverter, targets, rows, np.arange(len(rows)), self.tokenizer.pad_token_id):
            with torch.inference_mode():
                logprobs = self.inverter.logits(batch.vectors, batch.ids).log_softmax(dim=-1)  # (batch, time, vocabulary)
                own = logprobs.gather(-1, batch.ids[..., None])[..., 0].tolist()
                following = logprobs.gather(-1, batch.ids.roll(-1, dims=1)[..., None])[..., 0].tolist()
                values, tokens = (top.tolist() for top in logprobs.topk(min(TOP_TOKENS, logprobs.shape[-1]), dim=-1))
            for j, i in enumerate(batch.which):
                row, places = rows[i], self._places(rows[i], texts[i])
                ranked: list[tuple[float, Edit]] = []
                for time, place in enumerate(places):
                    if place is None:
                        continue
                    end = places[time + 1] if time + 1 < len(places) else None
                    for value, token in zip(values[j][time], tokens[j][time]):
                        new = self._surface(token)
                        if token == row[time] or not new:
                            continue
                        ranked.append((value, edit(Span(place, place, new))))
                        if end is not None:
                            ranked.append((value - own[j][time], edit(Span(place, end, new))))
                    if end is not None:
                        ranked.append((following[j][time] - own[j][time], edit(Span(place, end, ""))))
                ranked.sort(key=lambda it: -it[0])
                out[i] = [change for _, change in ranked]
        return out

    def _places(self, row: list[int], text: str) -> list[int | None]:
        """Where each token of the row, end-of-text included, begins in the text; None inside a character.

        Empty if decoding the tokens does not give the text back, except for a blank before it.
        """
        parts = [self.tokenizer.decode(row[:time], skip_special_tokens=True) for time in range(len(row))]
        shift = 0 if parts[-1] == text else 1
        if parts[-1][shift:] != text:
            return []
        return [None if part.endswith("\ufffd") else max(0, len(part) - shift) for part in parts]

    def _surface(self, token: int) -> str:
        """The token as it looks after another one; empty for special tokens, blanks and parts of a character."""
        if token not in self._surfaces:
            before, both = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in (self._anchor, [*self._anchor, token]))
            new = both[len(before) :]
            self._surfaces[token] = new if new.isprintable() and new.strip() and "\ufffd" not in new else ""
        return self._surfaces[token]
