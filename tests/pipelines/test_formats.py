import json
from dataclasses import replace

import pytest

from v2t_cli.core.errors import RequestError
from v2t_cli.decoding.candidates import Candidate, Row, SureWord
from v2t_cli.pipelines.formats import formatter, header, read_rows

ROW = Row(3, [Candidate('он сказал: "да"', -1.25, 0.5), Candidate("нет", -2.0, 0.25)])
BLIND = Row(0, [Candidate("а", -1.0)])


def test_text_is_the_best_candidate():
    assert header("text") == [] and formatter("text", 2)(ROW) == 'он сказал: "да"'


def test_tsv_has_a_header_and_leaves_an_unknown_cosine_empty():
    assert [line.count("\t") for line in (*header("tsv"), *map(formatter("tsv", 1), (ROW, BLIND)))] == [3, 3, 3]
    assert formatter("tsv", 1)(ROW) == '3\tон сказал: "да"\t-1.2500\t0.500000'
    assert formatter("tsv", 1)(BLIND) == "0\tа\t-1.0000\t"


def test_jsonl_lists_the_candidates_where_several_are_asked_for():
    assert header("jsonl") == []
    assert json.loads(formatter("jsonl", 1)(ROW)) == {"index": 3, "text": 'он сказал: "да"', "logprob": -1.25, "cosine": 0.5}
    both = json.loads(formatter("jsonl", 2)(ROW))
    assert list(both) == ["index", "text", "logprob", "cosine", "candidates"]
    assert both["candidates"] == [
        {"text": 'он сказал: "да"', "logprob": -1.25, "cosine": 0.5},
        {"text": "нет", "logprob": -2.0, "cosine": 0.25},
    ]
    assert json.loads(formatter("jsonl", 1)(BLIND))["cosine"] is None


def test_jsonl_is_read_back(tmp_path):
    rows = [
        Row(0, [Candidate("\x85 \u2028<b>", -1.0, 0.123456)]),
        Row(1, ROW.candidates, words=[SureWord("да", 0.25)]),
        Row(2, BLIND.candidates, id="код\t1\n"),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{formatter('jsonl', 2)(row)}\n" for row in rows), encoding="utf-8")
    assert list(read_rows(str(path))) == [Row(row.index, row.candidates[:1], words=row.words, id=row.id) for row in rows]


def test_an_id_comes_after_the_index_and_stays_in_its_cell():
    row = replace(BLIND, id="код\t1\n")
    assert header("tsv", with_ids=True) == ["index\tid\ttext\tlogprob\tcosine"]
    assert formatter("tsv", 1)(row) == "0\tкод 1 \tа\t-1.0000\t"
    out = json.loads(formatter("jsonl", 1)(row))
    assert list(out) == ["index", "id", "text", "logprob", "cosine"] and out["id"] == "код\t1\n"
    assert formatter("text", 1)(row) == "а"


BAD = [
    '{"index": 1, "text": 5, "logprob": 0, "cosine": 0}',
    '{"index": 1, "text": "", "logprob": 0, "cosine": "x"}',
    '{"index": 1, "text": "", "logprob": 0, "cosine": NaN}',
]


@pytest.mark.parametrize("line", ["да", "[]", "1", '{"index": 0}', '{"index": 2, "text": "", "logprob": 0, "cosine": 0}', "\udcff", *BAD])
def test_what_is_no_jsonl_of_rows(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{formatter('jsonl', 1)(BLIND)}\n{line}\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RequestError, match="rows.jsonl, line [12]: is not decoded row [01] as jsonl"):
        list(read_rows(str(path)))
