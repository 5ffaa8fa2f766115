"""How many texts can come back exactly, if the encoder does not see case: those whose own case the decoder finds most probable.

    python -m tests.benchmarks.case CHECKPOINT TEXTS.txt

Each text is given to the decoder's choice of case as if correction had found all of its words.
"""

from __future__ import annotations

import sys

import torch

from v2t_cli.core.config import Config
from v2t_cli.decoding.casing import blindness, recase
from v2t_cli.io.texts import read_lines
from v2t_cli.models.checkpoint import open_checkpoint
from v2t_cli.models.encoder import embed_all


def main(folder: str, path: str) -> None:
    opened = open_checkpoint(folder, Config(), "cpu", use="required")
    assert opened.encoder is not None
    blind = blindness(opened.encoder)
    if not blind.to_case:
        sys.exit(f"{folder}: its encoder sees case")
    texts = list(read_lines(path))
    vectors = torch.from_numpy(embed_all(opened.encoder, texts))
    found, _ = recase(texts, vectors, opened.inverter, opened.tokenizer, opened.lexicon, blind.to_blanks)
    right = sum(ours == text for ours, text in zip(found, texts))
    print(f"{right:,} of {len(texts):,} texts ({right / len(texts):.1%}) keep their case and blanks")


if __name__ == "__main__":
    main(*sys.argv[1:])
