"""The formats of decoded rows: text, jsonl or tsv, one line per row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from v2t_cli.core.errors import RequestError
from v2t_cli.core.one_line import to_json, to_row
from v2t_cli.core.types import Format
from v2t_cli.decoding.candidates import Candidate, Row, SureWord


def header(name: Format, with_ids: bool = False) -> list[str]:
    """The lines before the first row."""
    return ["\t".join(["index", *["id"] * with_ids, "text", "logprob", "cosine"])] if name == "tsv" else []


def formatter(name: Format, candidates: int) -> Callable[[Row], str]:
    """A function from a Row to its line, without a line end. candidates: if more than 1, jsonl lists them."""
    return {"text": _text, "tsv": _tsv, "jsonl": lambda row: _jsonl(row, candidates)}[name]


def _text(row: Row) -> str:
    return row.best.text


def _tsv(row: Row) -> str:
    cosine = "" if row.best.cosine is None else f"{row.best.cosine:.6f}"
    named = "" if row.id is None else f"{to_row(row.id)}\t"
    return f"{row.index}\t{named}{row.best.text}\t{row.best.logprob:.4f}\t{cosine}"


def _jsonl(row: Row, candidates: int) -> str:
    out = {"index": row.index, **({} if row.id is None else {"id": row.id}), **_fields(row.best)}
    if row.words is not None:
        out["words"] = [{"word": word, "probability": round(probability, 3)} for word, probability in row.words]
    if candidates > 1:
        out["candidates"] = [_fields(candidate) for candidate in row.candidates]
    return to_json(out)


def _fields(candidate: Candidate) -> dict[str, Any]:
    cosine = None if candidate.cosine is None else round(candidate.cosine, 6)
    return {"text": candidate.text, "logprob": round(candidate.logprob, 4), "cosine": cosine}


def read_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a jsonl file, each with its best candidate, as rounded as the file has it.

    Raises RequestError, naming the line, for what is not row i in line i.
    """
    with open(path, "rb") as stream:
        for index, line in enumerate(stream):
            try:
                row = json.loads(line)
                if row["index"] != index:
                    raise ValueError(f"row {row['index']}")
                words = [SureWord(str(it["word"]), float(it["probability"])) for it in row["words"]] if "words" in row else None
                cosine = None if row["cosine"] is None else float(row["cosine"])
                best = Candidate(row["text"], float(row["logprob"]), cosine)
                if not isinstance(best.text, str) or not math.isfinite(best.logprob) or not math.isfinite(cosine or 0):
                    raise ValueError("no decoded row")
                yield Row(index, [best], words=words, id=row.get("id"))
            except (ValueError, KeyError, TypeError):
                raise RequestError(f"{path}, line {index + 1}: is not decoded row {index} as jsonl; --overwrite decodes again") from None
