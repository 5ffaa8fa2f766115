"""Upper and lower case, and blanks around marks, for encoders that do not see them: there the decoder's log-probability decides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from v2t_cli.core.similarity import row_cosine
from v2t_cli.decoding.edits import Parsed, apply, together
from v2t_cli.models.encoder import PROBE, Encoder
from v2t_cli.models.inverter import Inverter, log_likelihood, text_batches
from v2t_cli.models.language_model import tokenize
from v2t_cli.models.lexicon import Lexicon

ROUNDS = 3  # changes of case in a row, at most
# Variants whose first differing token is this many nats less probable than the text's own are not scored. On 200 service dialogues,
# with examples/en-mini, this lost none of the 532 variants that were more probable than their text, and left 4 to 6 of 16 per text.
HOPELESS = 6.0
MARK = r"[!-/:-@\[-^`{-~¡¿«»‘’“”„–—…]"  # that BERT's tokenizer splits off: those of ASCII but "_", and the usual others
_MARK = re.compile(f" *({MARK}) *")
_BEFORE_MARKS = re.compile(r" +(?=[.,!?;:…])")
_AFTER_MARKS = re.compile(r"(?<=[.,!?;:…]) +")
_NO_BLANK = re.compile(r"(?<=[.,!?;:…])(?=[^\W\d_])")  # between a mark and a letter
MARKED = f'{PROBE} It\'s $5 (or 6): a "half-price" offer. «Да» — „нет“… “¡a!” ‘¿b?’'  # the probe, and more of these marks
SAME = 0.99999  # cosine, at least, of two texts that an encoder cannot tell apart


class Blind(NamedTuple):
    """What an encoder does not see. to_case: as all-MiniLM-L6-v2 and other uncased models.

    to_blanks: those around marks, as all models with BERT's tokenizer; counts only where case is not seen either.
    """

    to_case: bool
    to_blanks: bool


_known: WeakKeyDictionary[Encoder, Blind] = WeakKeyDictionary()


def blindness(encoder: Encoder) -> Blind:
    """Found out once for each encoder: it embeds a sentence written in several ways."""
    if encoder not in _known:
        as_written, *others = encoder.encode([MARKED, MARKED.lower(), _MARK.sub(r" \1 ", MARKED), without_blanks(MARKED)])
        case, spaced, tight = (bool(row_cosine(as_written[None], other[None])[0] >= SAME) for other in others)
        _known[encoder] = Blind(case, case and spaced and tight)
    return _known[encoder]


def without_blanks(text: str) -> str:
    """Without those around marks: what such an encoder sees of a text."""
    return _MARK.sub(r"\1", text)


def recase(
    texts: list[str], targets: Tensor, inverter: Inverter, tokenizer: Any, lexicon: Lexicon, blanks: bool = False
) -> tuple[list[str], list[float]]:
    """The texts in their most probable case, and the log-probabilities of these, in nats; -inf for a text too long for the decoder.

    targets: (len(texts), dim); blanks: whether those around marks may come and go, too.
    """
    best = list(texts)
    logprobs = [-np.inf] * len(texts)
    moved = list(range(len(texts)))
    for _ in range(ROUNDS):
        variants = [list(dict.fromkeys([best[i], *_variants(best[i], lexicon, blanks)])) for i in moved]
        sizes = [len(of_text) for of_text in variants]
        owners = np.repeat(np.array(moved, dtype=np.int64), sizes)
        ids = tokenize(tokenizer, [text for of_text in variants for text in of_text])
        scored = _first_changes(inverter, targets, ids, owners, sizes, tokenizer.pad_token_id) > -HOPELESS
        found = np.full(len(ids), -np.inf)
        found[scored] = log_likelihood(inverter, targets, [ids[i] for i in np.flatnonzero(scored)], owners[scored], tokenizer.pad_token_id)
        before, moved = moved, []
        for i, of_text, scores in zip(before, variants, np.split(found, np.cumsum(sizes)[:-1])):
            top = int(np.argmax(scores))
            if top:
                moved.append(i)
            best[i], logprobs[i] = of_text[top], float(scores[top])
        if not moved:
            break
    return best, logprobs


def _first_changes(
    inverter: Inverter, targets: Tensor, rows: list[list[int]], owners: np.ndarray, sizes: list[int], pad_id: int
) -> np.ndarray:
    """How many nats more probable the first differing token of each row is than the token of its group's first row there: (len(rows),).

    rows: of tokens, in groups of these sizes; owners: for each row, its place in targets (n, dim). One teacher-forced pass over the first
    rows tells it; it is 0 for these, and in groups whose first row is too long for the decoder.
    """
    out, starts = np.zeros(len(rows)), np.cumsum([0, *sizes])
    firsts = starts[:-1]
    for batch in text_batches(inverter, targets, [rows[start] for start in firsts], owners[firsts], pad_id):
        first = firsts[batch.which]
        members = np.concatenate([np.arange(starts[group], starts[group + 1]) for group in batch.which])
        numbers = np.repeat(np.arange(len(first)), np.array(sizes)[batch.which])
        places = [_first_difference(rows[first[number]], rows[row]) for number, row in zip(numbers, members)]
        own, new = ([rows[row][place] for row, place in zip(of, places)] for of in (first[numbers], members))
        with torch.inference_mode():
            logits = inverter.logits(batch.vectors, batch.ids)  # (batch, time, vocabulary)
            out[members] = (logits[numbers, places, new] - logits[numbers, places, own]).double().cpu().numpy()
    return out


def _first_difference(left: list[int], right: list[int]) -> int:
    """The first place where two rows of tokens differ; 0 if there is none."""
    return next((place for place, (a, b) in enumerate(zip(left, right)) if a != b), 0)


def _variants(text: str, lexicon: Lexicon, blanks: bool) -> Iterator[str]:
    """The text with one word in another case, with all words as the lexicon spells them, and other blanks around marks."""
    parsed = Parsed(text)
    if blanks:
        yield _BEFORE_MARKS.sub("", text)
        yield _AFTER_MARKS.sub("", text)
        yield _NO_BLANK.sub(" ", text)
        for match in _MARK.finditer(text):
            before, after = text[: match.start()], text[match.end() :]
            yield from (f"{before}{left}{match[1]}{right}{after}".strip() for left, right in product(("", " "), repeat=2))
    yield from (apply(text, flip) for flip in parsed.cases())
    places = map(lexicon.place, parsed.words)
    spelled = [parsed.replacement(number, lexicon.words[place]) for number, place in enumerate(places) if place is not None]
    yield from (apply(text, it) for it in spelled)
    yield apply(text, together(spelled))
