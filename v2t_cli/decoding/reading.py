"""Reading: what the decoder would rather write at each place of a text."""

from __future__ import annotations

from collections import defaultdict
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
    """What the decoder says about a text of a vector, in nats.

    edits: that replace, insert or delete a token, the best first: by the log-probability of the new token minus that of the old one.
    junctions: float32 (words + 1, words + 1). At [i, j], how much more probable the first token of word j is in place of word i than that
    of word i; the last row is about what follows the last word, the last column about the end of the text. context: float32
    (words + 1, n), the log-probability, at least IMPROBABLE, of the first tokens of n other words in place of each word, and behind the
    last one. A text that the decoder cannot read has no edits, zeros and None: it is too long, or its tokens do not give it back.
    """

    edits: list[Edit]
    junctions: np.ndarray
    context: np.ndarray | None


class Reader:
    """Reads texts of vectors: which tokens, words and orders the decoder would rather see in them."""

    def __init__(self, inverter: Inverter, tokenizer: Any):
        self.inverter, self.tokenizer = inverter, tokenizer
        self._surfaces: dict[int, str] = {}
        self._firsts: defaultdict[tuple[bool, bool], dict[str, int]] = defaultdict(dict)
        # Some tokenizers drop the blank before a first token, so tokens are decoded after this one.
        self._anchor = tokenize(tokenizer, ["a"])[0][:-1]

    def read(self, texts: list[Parsed], targets: Tensor, words: list[list[str]]) -> list[Reading]:
        """What one teacher-forced pass tells about each text.

        targets: (len(texts), dim); words: for each text those whose context is asked for, as inside a sentence.
        """
        rows = tokenize(self.tokenizer, [it.text for it in texts])
        out = [Reading([], np.zeros((len(it) + 1, len(it) + 1), dtype=np.float32), None) for it in texts]
        for batch in text_batches(self.inverter, targets, rows, np.arange(len(rows)), self.tokenizer.pad_token_id):
            with torch.inference_mode():
                logprobs = self.inverter.logits(batch.vectors, batch.ids).log_softmax(dim=-1)  # (batch, time, vocabulary)
                own = logprobs.gather(-1, batch.ids[..., None])[..., 0].tolist()
                following = logprobs.gather(-1, batch.ids.roll(-1, dims=1)[..., None])[..., 0].tolist()
                values, tokens = (top.tolist() for top in logprobs.topk(min(TOP_TOKENS, logprobs.shape[-1]), dim=-1))
            for j, i in enumerate(batch.which):
                if places := self._places(rows[i], texts[i].text):
                    edits = self._edits(rows[i], places, own[j], following[j], values[j], tokens[j])
                    out[i] = Reading(edits, *self._expected(texts[i], words[i], rows[i], places, logprobs[j]))
        return out

    def _edits(
        self,
        row: list[int],
        places: list[int | None],
        own: list[float],
        following: list[float],
        values: list[list[float]],
        tokens: list[list[int]],
    ) -> list[Edit]:
        """As in a Reading. own, following: for each token of the row, the log-probability of it, and of the next one, where it stands;
        values, tokens: the highest log-probabilities there, and of which tokens.
        """
        ranked: list[tuple[float, Edit]] = []
        for time, place in enumerate(places):
            if place is None:
                continue
            end = places[time + 1] if time + 1 < len(places) else None
            for value, token in zip(values[time], tokens[time]):
                new = self._surface(token)
                if token == row[time] or not new:
                    continue
                ranked.append((value, edit(Span(place, place, new))))
                if end is not None:
                    ranked.append((value - own[time], edit(Span(place, end, new))))
            if end is not None:
                ranked.append((following[time] - own[time], edit(Span(place, end, ""))))
        return [it for _, it in sorted(ranked, key=lambda it: -it[0])]

    def _expected(
        self, text: Parsed, others: list[str], row: list[int], places: list[int | None], logprobs: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Junctions and context, as in a Reading. row: the tokens of the text; places: where each begins; logprobs: (time, vocabulary)."""
        known = [(place, time) for time, place in enumerate(places) if place is not None]
        blanks = [text.text[start - 1 : start] == " " for start, _ in text.spans]  # these belong to the token after them
        begins = [start - blank for (start, _), blank in zip(text.spans, blanks)]
        times = [max(time for place, time in known if place <= begin) for begin in (*begins, len(text.text) - len(text.end))]
        end, words = row[times[-1]], [*text.words, *others]
        capital = bool(text.spans) and text.text[text.spans[0][0]].isupper()
        forms = [(blank, capital and not place) for place, blank in enumerate([*blanks, bool(blanks)])]
        ids = {form: torch.tensor([*self._first_tokens(words, *form), end], device=logprobs.device) for form in set(forms)}
        nats = torch.stack([logprobs[time, ids[form]] for time, form in zip(times, forms)]).cpu().numpy()
        found = nats[:, [*range(len(text)), -1]]
        return found - found.diagonal()[:, None], np.maximum(nats[:, len(text) : -1], IMPROBABLE)

    def _first_tokens(self, words: list[str], blank: bool, capital: bool) -> list[int]:
        """Of each word, after a blank or where there is none, as it is or with a capital."""
        known = self._firsts[blank, capital]
        new = list(dict.fromkeys(word for word in words if word not in known))
        forms = (word[0].upper() + word[1:] if capital else word for word in new)
        for word, ids in zip(new, tokenize(self.tokenizer, [f"a {form}" if blank else form for form in forms])):
            known[word] = ids[len(self._anchor) if blank else 0]
        return [known[word] for word in words]

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
