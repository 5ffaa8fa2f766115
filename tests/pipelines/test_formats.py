import json

from v2t_cli.decoding.candidates import Candidate, Row
from v2t_cli.pipelines.formats import formatter, header

ROW = Row(3, [Candidate('он сказал: "да"', -1.25, 0.5), Candidate("нет", -2.0, 0.25)])
BLIND = Row(0, [Candidate("а", -1.0)])


def test_text_is_the_best_candidate():
    assert header("text") == [] and formatter("text", 2)(ROW, None) == 'он сказал: "да"'


def test_tsv_has_a_header_and_leaves_an_unknown_cosine_empty():
    assert [line.count("\t") for line in (*header("tsv"), *map(formatter("tsv", 1), (ROW, BLIND), (None, None)))] == [3, 3, 3]
    assert formatter("tsv", 1)(ROW, None) == '3\tон сказал: "да"\t-1.2500\t0.500000'
    assert formatter("tsv", 1)(BLIND, None) == "0\tа\t-1.0000\t"


def test_jsonl_lists_the_candidates_where_several_are_asked_for():
    assert header("jsonl") == []
    assert json.loads(formatter("jsonl", 1)(ROW, None)) == {"index": 3, "text": 'он сказал: "да"', "logprob": -1.25, "cosine": 0.5}
    both = json.loads(formatter("jsonl", 2)(ROW, None))
    assert list(both) == ["index", "text", "logprob", "cosine", "candidates"]
    assert both["candidates"] == [
        {"text": 'он сказал: "да"', "logprob": -1.25, "cosine": 0.5},
        {"text": "нет", "logprob": -2.0, "cosine": 0.25},
    ]
    assert json.loads(formatter("jsonl", 1)(BLIND, None))["cosine"] is None


def test_an_id_comes_after_the_index_and_stays_in_its_cell():
    assert header("tsv", with_ids=True) == ["index\tid\ttext\tlogprob\tcosine"]
    assert formatter("tsv", 1)(BLIND, "код\t1\n") == "0\tкод 1 \tа\t-1.0000\t"
    out = json.loads(formatter("jsonl", 1)(BLIND, "код\t1\n"))
    assert list(out) == ["index", "id", "text", "logprob", "cosine"] and out["id"] == "код\t1\n"
    assert formatter("text", 1)(BLIND, "код") == "а"
