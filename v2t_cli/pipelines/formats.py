"""The formats of decoded rows: text, jsonl or tsv, one line per row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from v2t_cli.core.one_line import to_json, to_row
from v2t_cli.core.types import Format
from v2t_cli.decoding.candidates import Candidate, Row


def header(name: Format, with_ids: bool = False) -> list[str]:
    """The lines before the first row."""
    return ["\t".join(["index", *(["id"] if with_ids else []), "text", "logprob", "cosine"])] if name == "tsv" else []


def formatter(name: Format, candidates: int) -> Callable[[Row, str | None], str]:
    """A function from a Row and its id, if it has one, to its line, without a line end. candidates: if more than 1, jsonl lists them."""
    return {"text": _text, "tsv": _tsv, "jsonl": lambda row, id: _jsonl(row, id, candidates)}[name]


def _text(row: Row, id: str | None) -> str:
    return row.best.text


def _tsv(row: Row, id: str | None) -> str:
    cosine = "" if row.best.cosine is None else f"{row.best.cosine:.6f}"
    named = "" if id is None else f"{to_row(id)}\t"
    return f"{row.index}\t{named}{row.best.text}\t{row.best.logprob:.4f}\t{cosine}"


def _jsonl(row: Row, id: str | None, candidates: int) -> str:
    out = {"index": row.index, **({} if id is None else {"id": id}), **_fields(row.best)}
    if row.words is not None:
        out["words"] = [{"word": word, "probability": round(probability, 3)} for word, probability in row.words]
    if candidates > 1:
        out["candidates"] = [_fields(candidate) for candidate in row.candidates]
    return to_json(out)


def _fields(candidate: Candidate) -> dict[str, Any]:
    cosine = None if candidate.cosine is None else round(candidate.cosine, 6)
    return {"text": candidate.text, "logprob": round(candidate.logprob, 4), "cosine": cosine}
