"""Token edits: what the decoder itself would rather write at each place of a text."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from v2t_cli.decoding.edits import Edit, Parsed, Span, edit
from v2t_cli.models.inverter import Inverter, text_batches
from v2t_cli.models.language_model import tokenize

TOP_TOKENS = 12  # of the decoder at each place, to replace the token there or to precede it
IMPROBABLE = -12.0  # nats: words that are less probable in their context are all alike


class Reading(NamedTuple):
    """What the decoder says about a text of a vector: log-probabilities, in nats, of what stands where its words begin and end.

    edits: that replace, insert or delete a token, the best first: by the log-probability of the new token minus that of the old one.
    junctions: float32 (words + 1, words). At [i, j], how much more probable the first token of word j is in place of word i than that of
    word i; the last row is about what follows the last word. context: float32 (words + 1, n), of the first tokens of n other words in
    place of each word, and behind the last one, at least IMPROBABLE. Both are zeros for a text that does not fit the decoder.
    """

    edits: list[Edit]
    junctions: np.ndarray
    context: np.ndarray


class TokenEditor:
    """Edits of single tokens."""

    def __init__(self, inverter: Inverter, tokenizer: Any):
        self.inverter, self.tokenizer = inverter, tokenizer
        self._surfaces: dict[int, str] = {}
        self._firsts: dict[str, int] = {}
        # Some tokenizers drop the blank before a first token, so tokens are decoded after this one.
        self._anchor = tokenize(tokenizer, ["a"])[0][:-1]

    def read(self, texts: list[Parsed], targets: Tensor, words: list[list[str]]) -> list[Reading]:
        """What one teacher-forced pass tells about each text.

        targets: (len(texts), dim); words: for each text those whose context is asked for, as inside a sentence.
        """
        rows = tokenize(self.tokenizer, [it.text for it in texts])
        of_texts = [[*text.words, *others] for text, others in zip(texts, words)]
        self._learn(texts, of_texts)
        out = [Reading([], *np.split(np.zeros((len(it) + 1, len(of)), np.float32), [len(it)], axis=1)) for it, of in zip(texts, of_texts)]
        for batch in text_batches(self.inverter, targets, rows, np.arange(len(rows)), self.tokenizer.pad_token_id):
            with torch.inference_mode():
                logprobs = self.inverter.logits(batch.vectors, batch.ids).log_softmax(dim=-1)  # (batch, time, vocabulary)
                own = logprobs.gather(-1, batch.ids[..., None])[..., 0].tolist()
                following = logprobs.gather(-1, batch.ids.roll(-1, dims=1)[..., None])[..., 0].tolist()
                values, tokens = (top.tolist() for top in logprobs.topk(min(TOP_TOKENS, logprobs.shape[-1]), dim=-1))
            for j, i in enumerate(batch.which):
                row, places = rows[i], self._places(rows[i], texts[i].text)
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
                edits = [change for _, change in ranked]
                out[i] = Reading(edits, *self._meet(texts[i], of_texts[i], row, places, logprobs[j])) if places else out[i]
        return out

    def _meet(
        self, text: Parsed, words: list[str], row: list[int], places: list[int | None], logprobs: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Junctions and context, as in a Reading.

        words: those of the text, then the others; row: the tokens of the text; places: where each begins; logprobs: (time, vocabulary).
        """
        known = [(place, time) for time, place in enumerate(places) if place is not None]
        starts = [*(start for start, _ in text.spans), len(text.text) - len(text.end)]
        times = [max(time for place, time in known if place <= start) for start in starts]
        nats = logprobs[times][:, [self._firsts[f" {word}"] for word in words]]
        nats[0] = logprobs[times[0], [self._firsts[word] for word in _as_first(text, words)]]
        found, count = nats.cpu().numpy(), len(text)
        own = np.append(found[range(count), range(count)], float(logprobs[times[-1], row[times[-1]]])).astype(np.float32)
        return found[:, :count] - own[:, None], np.maximum(found[:, count:], IMPROBABLE)

    def _learn(self, texts: list[Parsed], words: list[list[str]]) -> None:
        """Find the first token of each word, inside its text, where a blank comes before it, and at the beginning."""
        forms = (form for text, of in zip(texts, words) for form in (*_as_first(text, of), *(f" {word}" for word in of)))
        new = [form for form in dict.fromkeys(forms) if form not in self._firsts]
        for form, ids in zip(new, tokenize(self.tokenizer, [f"a{form}" if form.startswith(" ") else form for form in new])):
            self._firsts[form] = ids[len(self._anchor) if form.startswith(" ") else 0]

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


def _as_first(text: Parsed, words: list[str]) -> list[str]:
    """Words as they would begin the text."""
    capital = bool(text.spans) and text.text[text.spans[0][0]].isupper()
    return [word[0].upper() + word[1:] for word in words] if capital else words
