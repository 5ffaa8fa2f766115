"""What a vector costs by the length of its text: time, texts that the search embeds, memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

from tests.benchmarks.common import Settings, in_turn, show, spread, watched_memory
from v2t_cli.core.config import Config, DecodeConfig
from v2t_cli.core.types import Quality
from v2t_cli.decoding.candidates import Row
from v2t_cli.decoding.decode import decode
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.io.texts import read_lines
from v2t_cli.io.vectors import Block
from v2t_cli.models.checkpoint import Checkpoint, open_checkpoint
from v2t_cli.models.language_model import tokenize

TOKENS = (8, 16, 32, 63)  # with the end-of-text; the shipped checkpoints have positions for 63
QUALITIES: tuple[tuple[Quality, int, int], ...] = (("fast", 200, 2), ("balanced", 20, 1), ("best", 10, 0))  # texts, and in a quick run


def run(settings: Settings) -> None:
    checkpoint = open_checkpoint(str(settings.checkpoint), Config(), str(settings.device), use="required")
    for quality, full, quick in QUALITIES:
        for tokens in TOKENS:
            if count := settings.size(full, quick):
                source = texts_of(checkpoint, list(read_lines(str(settings.texts))), tokens)
                measure(settings, checkpoint, quality, tokens, [next(source) for _ in range(count)])


def measure(settings: Settings, checkpoint: Checkpoint, quality: Quality, tokens: int, texts: list[str]) -> None:
    """Shows the costs of decoding the vectors of these texts."""
    assert checkpoint.encoder is not None  # it was required
    search = fit(checkpoint, resolve_search(DecodeConfig(quality=quality)))
    vectors, rows = checkpoint.encoder.encode(texts), list[Row]()

    def decoded() -> None:
        rows[:] = decode(checkpoint, [Block(0, vectors)], search, warn=False)

    list(decode(checkpoint, [Block(0, vectors[:1])], search, warn=False))  # embeds the words of the lexicon
    with watched_memory() as memory:
        (seconds,) = in_turn(max(1, settings.repeats // 2), decoded, warm_up=False)
    each = spread([1e3 * taken / len(texts) for taken in seconds], 1)
    calls = sum(row.encoder_calls for row in rows) / len(texts)
    show(f"{quality}, texts of {tokens} tokens, ms each", each, f"{calls:,.0f} texts embedded", f"{memory.peak / 2**20:,.0f} MiB more", "")


def texts_of(checkpoint: Checkpoint, lines: list[str], tokens: int) -> Iterator[str]:
    """Texts of about so many tokens, none longer: neighbours are joined, and words at the end left out."""
    pieces = cycle(lines)
    while True:
        words: list[str] = []
        while _length(checkpoint, words) < tokens:
            words += next(pieces).split()
        while _length(checkpoint, words) > tokens:
            words.pop()
        yield " ".join(words)


def _length(checkpoint: Checkpoint, words: list[str]) -> int:
    return len(tokenize(checkpoint.tokenizer, [" ".join(words)])[0])
