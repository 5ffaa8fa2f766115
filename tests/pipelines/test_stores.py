"""Commands that read stores: the texts are those of the same rows in a .npy."""

import json
import os

import numpy as np
import pytest
from tiny import DIM, SENTENCES, interrupting, tiny_config

IDS = [f"№ {number}\tа\nб" for number in range(10)]


@pytest.fixture
def stored(tmp_path, encoder):
    """A .npy and a Parquet file with the same rows, in the folder of the command."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'v2t[stores]'")
    import pyarrow.parquet

    vectors = encoder.encode(SENTENCES[:10])
    np.save(tmp_path / "v.npy", vectors)
    columns = {"id": IDS, "text": SENTENCES[:10], "v": pa.array(list(vectors)), "w": pa.array(list(vectors[::-1]))}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "v.parquet")


def decoding(checkpoint, source, output, *options):
    return ("decode", source, "--checkpoint", checkpoint, "-o", output, "--quality", "fast", "--batch-size", "4", *options)


@pytest.mark.usefixtures("stored")
def test_decode_writes_the_ids(v2t, checkpoint, tmp_path):
    store = ("--column", "v")
    for form in ("text", "tsv", "jsonl"):
        assert v2t(*decoding(checkpoint, "v.npy", f"npy.{form}", "--format", form)).exit_code == 0
        assert v2t(*decoding(checkpoint, "v.parquet", f"store.{form}", "--format", form, *store)).exit_code == 0
    assert (tmp_path / "npy.text").read_bytes() == (tmp_path / "store.text").read_bytes()
    plain, named = ([line.split("\t") for line in (tmp_path / name).read_text("utf-8").splitlines()] for name in ("npy.tsv", "store.tsv"))
    assert named[0] == ["index", "id", "text", "logprob", "cosine"] and [row[:1] + row[2:] for row in named] == plain
    assert [row[1] for row in named[1:]] == [f"№ {number} а б" for number in range(10)]
    plain, named = (
        [json.loads(line) for line in (tmp_path / name).read_text("utf-8").splitlines()] for name in ("npy.jsonl", "store.jsonl")
    )
    assert [row.pop("id") for row in named] == IDS and named == plain and "id" not in plain[0]
    result = v2t(*decoding(checkpoint, "v.parquet", "out.txt"))
    assert result.exit_code == 2 and "several columns can be the vectors: v, w; --column names one" in result.stderr


@pytest.mark.usefixtures("stored")
def test_decode_resumes_a_store(v2t, checkpoint, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    (tmp_path / "parts").mkdir()
    os.rename("v.parquet", "parts/v.parquet")
    command = decoding(checkpoint, "parts", "out.tsv", "--column", "v", "--format", "tsv")
    assert v2t(*command).exit_code == 0
    whole = (tmp_path / "out.tsv").read_bytes()
    (tmp_path / "out.tsv").unlink()
    with interrupting(6):
        assert v2t(*command).exit_code == 130
    table = pyarrow.parquet.read_table("parts/v.parquet")
    pyarrow.parquet.write_table(table.set_column(0, "id", pa.array(IDS[::-1])), "parts/v.parquet")
    result = v2t(*command, "--resume")
    assert result.exit_code == 2 and "other settings: ids (was " in result.stderr
    pyarrow.parquet.write_table(table, "parts/v.parquet")
    result = v2t(*command, "--resume")
    assert result.exit_code == 0 and "4 of 10 rows are already done" in result.stderr
    assert (tmp_path / "out.tsv").read_bytes() == whole
    os.utime("out.tsv", (1, 1))
    result = v2t(*command, "--resume")
    assert result.exit_code == 2 and "older than parts; --overwrite creates it again" in result.stderr


@pytest.mark.usefixtures("stored")
def test_eval_reads_the_texts_of_a_store(v2t, checkpoint, tmp_path):
    (tmp_path / "t.txt").write_text("".join(f"{text}\n" for text in SENTENCES[:10]), encoding="utf-8")
    common = ("eval", "--checkpoint", checkpoint, "--quality", "fast", "--json")
    store = ("--vectors", "v.parquet", "--column", "v")
    runs = (("--vectors", "v.npy", "--texts", "t.txt"), (*store, "--texts", "t.txt"), (*store, "--text-column", "text"))
    scores = [json.loads(v2t(*common, *options).stdout) for options in runs]
    for score in scores:
        assert score["n"] == 10 and [it["text"] for it in score["samples"]] == [it["text"] for it in scores[0]["samples"]]
        assert score["bleu"] == scores[0]["bleu"] and score["loss"] == scores[0]["loss"]
    for options, message in (
        ((*store, "--text-column", "text", "--texts", "t.txt"), "--texts and --text-column exclude each other"),
        (store, "--vectors needs --texts, the texts behind these vectors, or --text-column, if the store holds them"),
        (("--column", "v"), "--column belongs to --vectors, which is missing"),
        (("--text-column", "text", "--texts", "t.txt"), "--text-column belongs to --vectors, which is missing"),
        ((*store, "--text-column", "id2"), "text column 'id2' does not exist or holds no texts; there are: id, text"),
    ):
        result = v2t(*common, *options)
        assert result.exit_code == 2 and message in result.stderr


def test_no_rows_of_any_width(v2t, checkpoint, tmp_path):
    (tmp_path / "v.json").write_text('{"object": "list", "data": []}')
    result = v2t(*decoding(checkpoint, "v.json", "out.tsv", "--format", "tsv"))
    assert result.exit_code == 0 and (tmp_path / "out.tsv").read_text() == "index\ttext\tlogprob\tcosine\n"


@pytest.mark.usefixtures("stored")
def test_training_reads_a_column(tmp_path):
    from v2t_cli.core.errors import RequestError
    from v2t_cli.training.dataset import corpus_vectors, read_corpus

    (tmp_path / "t.txt").write_text("".join(f"{text}\n" for text in SENTENCES[:10]), encoding="utf-8")
    sets = (f"data.vectors={tmp_path / 'v.parquet'}", "data.column=w")
    data = tiny_config(tmp_path / "t.txt", "null", tmp_path / "out", *sets).data
    corpus = read_corpus(data, 0)
    vectors = corpus_vectors(data, corpus, None)
    assert isinstance(vectors, np.memmap) and vectors.shape == (10, DIM)
    np.testing.assert_array_equal(vectors, np.load(tmp_path / "v.npy")[::-1])
    with pytest.raises(RequestError, match="--column names one"):
        read_corpus(data.model_copy(update={"column": None}), 0)
