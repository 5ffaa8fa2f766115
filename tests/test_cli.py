"""Each command through Typer's runner: what it prints where, and how it fails."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import DIM, ROOT, SENTENCES
from typer.main import get_command

from v2t_cli.cli import app
from v2t_cli.core.signals import Terminated

TINY = ["--set", "decoder.scratch={n_layer: 1, n_embd: 32, n_head: 2, vocab_size: 400, n_positions: 48}", "--device", "cpu"]


def refused(result, *parts, code=2):
    """The contract of our own errors: the exit code, nothing on stdout, one last line that says it."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.rstrip("\n").split("\n")[-1]
    assert line.startswith("error: ") and "Traceback" not in result.stderr
    assert sum(text.startswith("error: ") for text in result.stderr.split("\n")) == 1
    for part in parts:
        assert str(part) in line, line


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def embedded(v2t, texts_file, checkpoint):
    assert v2t("embed", texts_file, "-o", "vecs.npy", "--checkpoint", checkpoint, "--device", "cpu").exit_code == 0
    return "vecs.npy"


# embed


def test_embed_writes_a_row_for_each_line(v2t, labse, tmp_path):
    (tmp_path / "t.txt").write_text("Иван ждёт.\n\nчай\u2028чай\nдом", encoding="utf-8")
    result = v2t("embed", "t.txt", "-o", "new/v.npy", "--encoder", labse, "--batch-size", 2, "--device", "cpu")
    assert result.exit_code == 0 and result.stdout == ""
    out = np.load("new/v.npy")
    assert out.shape == (4, DIM) and out.dtype == np.float32
    assert "1 blank lines" in result.stderr and "4 vectors of 16 dimensions written to new/v.npy" in result.stderr


def test_embed_to_stdout_is_the_same_file(v2t, labse, texts_file):
    v2t("embed", texts_file, "-o", "v.npy", "--encoder", labse, "--device", "cpu")
    result = v2t("embed", "-", "-o", "-", "--encoder", labse, "--device", "cpu", stdin=texts_file.read_bytes())
    assert result.exit_code == 0
    with open("v.npy", "rb") as stream:
        assert result.stdout_bytes == stream.read()


def test_embed_with_the_encoder_of_a_checkpoint(v2t, labse, checkpoint, texts_file, tmp_path):
    embedded(v2t, texts_file, checkpoint)
    v2t("embed", texts_file, "-o", "other.npy", "--encoder", labse, "--device", "cpu")
    np.testing.assert_allclose(np.load("vecs.npy"), np.load("other.npy"), atol=1e-5)


def test_embed_refuses(v2t, labse, checkpoint, texts_file, tmp_path):
    refused(v2t("embed", "absent.txt", "-o", "v.npy", "--encoder", labse, "--device", "cpu"), "absent.txt: no such text file")
    refused(v2t("embed", texts_file, "-o", "v.npy", "--encoder", tmp_path / "no"), "no such folder")
    refused(v2t("embed", texts_file, "-o", "v.npy", "--encoder", labse, "--device", "cuda:77"), "device 'cuda:77'")
    refused(v2t("embed", texts_file, "-o", "v.npy", "--checkpoint", tmp_path / "no"), "no such checkpoint folder")
    (tmp_path / "b.txt").write_bytes(b"ok\n\xff\n")
    refused(v2t("embed", "b.txt", "-o", "v.npy", "--encoder", labse, "--device", "cpu"), "b.txt, line 2: not UTF-8")
    assert not (tmp_path / "v.npy").exists() and not list(tmp_path.glob(".v.npy*"))


# train


def test_train_prints_the_path_alone(v2t, labse, texts_file):
    result = v2t("train", "--output", "new/out", "--encoder", labse, "--texts", texts_file, *TINY)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "new/out\n"
    assert "100 of 100 texts kept" in result.stderr
    assert "held-out loss" in result.stderr and " ==> " in result.stderr


def test_train_then_decode_needs_no_names(v2t, labse, texts_file, tmp_path):
    (tmp_path / "cfg.yaml").write_text(f"encoder: {{model: {labse}}}\ndata: {{texts: {texts_file}}}\ndevice: cpu\n")
    assert v2t("embed", texts_file, "-o", "vecs.npy", "--config", "cfg.yaml").exit_code == 0
    assert v2t("train", "--config", "cfg.yaml", *TINY).stdout == "checkpoint\n"
    result = v2t("decode", "vecs.npy", "--quality", "fast")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 100


def test_train_refuses(v2t, labse, texts_file, tmp_path):
    refused(v2t("train"), "texts.txt: no such text file")
    refused(v2t("train", "--set", "data.texts='-'"), "cannot be stdin")
    data = ["--set", f"data.texts={texts_file}"]
    refused(v2t("train", "--set", "train.epoch=3", *data), "train.epoch: unknown key, did you mean 'train.epochs'?")
    refused(v2t("train", "--set", "data.texts=absent.txt", *TINY), "absent.txt: no such text file")
    finished = ROOT / "examples" / "ru-mini"  # without its state
    refused(v2t("train", "--resume", "--output", finished, *data, *TINY), "ru-mini: nothing to resume")
    refused(
        v2t("train", "--set", "data.min_chars=50", *data, *TINY), "no text is 50 (data.min_chars) to 160 (data.max_chars) characters long"
    )
    refused(
        v2t(
            "train",
            "--set",
            f"encoder.model={labse}",
            "--set",
            "adapter.kind=zero_pad",
            *data,
            *TINY[:1],
            TINY[1].replace("32", "8"),
            *TINY[2:],
        ),
        "the vectors have 16 numbers, more than the decoder's hidden size 8",
    )
    assert not (tmp_path / "checkpoint").exists()


# decode


def test_decode_formats(v2t, checkpoint, texts_file, tmp_path):
    vecs = embedded(v2t, texts_file, checkpoint)
    text = v2t("decode", vecs, "--checkpoint", checkpoint, "--device", "cpu")
    rows = v2t("decode", vecs, "--checkpoint", checkpoint, "--format", "jsonl", "--candidates", 3, "--device", "cpu")
    table = v2t("decode", vecs, "--checkpoint", checkpoint, "--format", "tsv", "-o", "out/t.tsv", "--device", "cpu")
    assert text.exit_code == rows.exit_code == table.exit_code == 0
    lines = text.stdout.split("\n")[:-1]
    assert len(lines) == 100
    parsed = [json.loads(line) for line in rows.stdout.splitlines()]
    assert [row["index"] for row in parsed] == list(range(100)) and [row["text"] for row in parsed] == lines
    assert all(-1 <= row["cosine"] <= 1.001 and row["logprob"] < 0 and len(row["candidates"]) <= 3 for row in parsed)
    cells = [line.split("\t") for line in (tmp_path / "out" / "t.tsv").read_text(encoding="utf-8").splitlines()]
    assert table.stdout == "" and cells[0] == ["index", "text", "logprob", "cosine"]
    assert [row[1] for row in cells[1:]] == lines


def test_nothing_to_embed_is_told(v2t, labse, tmp_path):
    (tmp_path / "t.txt").write_bytes(b"")
    for source in ("-", "t.txt"):
        result = v2t("embed", source, "-o", "v.npy", "--encoder", labse, stdin=b"")
        warning = f"warning: {'stdin' if source == '-' else source}: is empty, so there are no vectors"
        assert result.exit_code == 0 and warning in result.stderr and result.stderr.count("is empty") == 1
        assert np.load("v.npy").shape == (0, DIM)


def test_decode_reads_stdin(v2t, checkpoint, vectors):
    piped = v2t("decode", "-", "--checkpoint", checkpoint, "--quality", "fast", "--device", "cpu", stdin=npy(vectors))
    np.save("v.npy", vectors)
    assert piped.exit_code == 0
    assert piped.stdout == v2t("decode", "v.npy", "--checkpoint", checkpoint, "--quality", "fast", "--device", "cpu").stdout


def test_decode_one_vector_and_none(v2t, checkpoint, vectors):
    one = v2t("decode", "-", "--checkpoint", checkpoint, "--device", "cpu", stdin=npy(vectors.mean(axis=0)))
    assert one.exit_code == 0 and len(one.stdout.splitlines()) == 1
    none = v2t("decode", "-", "--checkpoint", checkpoint, "--device", "cpu", stdin=npy(vectors[:0]))
    assert none.exit_code == 0 and none.stdout == ""


def test_decode_options_override_the_file(v2t, checkpoint, vectors, tmp_path):
    (tmp_path / "v2t.yaml").write_text(f"output: {checkpoint}\ndevice: cpu\ndecode: {{candidates: 2, quality: fast}}\n")
    two = v2t("decode", "-", "--format", "jsonl", stdin=npy(vectors))
    four = v2t("decode", "-", "--format", "jsonl", "--candidates", 4, stdin=npy(vectors))
    assert max(len(json.loads(line)["candidates"]) for line in two.stdout.splitlines()) == 2
    assert max(len(json.loads(line)["candidates"]) for line in four.stdout.splitlines()) == 4


def test_decode_without_its_encoder_falls_back(v2t, checkpoint, vectors, tmp_path):
    import shutil

    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    info = json.loads((copy / "v2t.json").read_text())
    info["encoder"]["name"] = str(tmp_path / "gone")
    (copy / "v2t.json").write_text(json.dumps(info))
    result = v2t("decode", "-", "--checkpoint", copy, "--format", "jsonl", "--device", "cpu", stdin=npy(vectors))
    assert result.exit_code == 0 and "no cosine and no re-ranking, because the encoder cannot be opened" in result.stderr
    assert all(json.loads(line)["cosine"] is None for line in result.stdout.splitlines())
    named = v2t("decode", "-", "--checkpoint", copy, "--encoder", tmp_path / "gone", "--device", "cpu", stdin=npy(vectors))
    refused(named, "no such folder")


def test_decode_refuses(v2t, labse, checkpoint, vectors, tmp_path):
    np.save("v.npy", vectors)
    common = ["--checkpoint", checkpoint, "--device", "cpu"]
    refused(v2t("decode", "v.npy"), "checkpoint: no such checkpoint folder; make one with v2t train")
    refused(v2t("decode", "v.npy", "--checkpoint", tmp_path), "not a v2t checkpoint")
    refused(v2t("decode", "absent.npy", *common), "absent.npy: no such vector file")
    refused(v2t("decode", "-", *common, stdin=b"text"), "stdin: is text, not a .npy")
    refused(v2t("decode", "-", *common, stdin=npy(vectors)[:-9]), "stdin: is truncated: the header promises 5 rows, the file ends after 4")
    refused(v2t("decode", "-", *common, stdin=npy(np.zeros((2, 768), np.float32))), "vectors of 768 dimensions", "reads 16")
    np.save("o.npy", np.array([{}]), allow_pickle=True)
    refused(v2t("decode", "o.npy", *common), "never loaded")
    refused(v2t("decode", "v.npy", *common, "--strategy", "greedy", "--candidates", 3, "--format", "jsonl"), "greedy gives one text")
    refused(v2t("decode", "v.npy", *common, "--set", "decode.top_p=2"), "decode.top_p")
    refused(v2t("decode", "v.npy", *common, "-o", tmp_path), "is a folder")
    for form in ("text", "tsv"):
        words = f"3 candidates need --format jsonl: {form} has one text per vector"
        refused(v2t("decode", "v.npy", *common, "--candidates", 3, "--format", form), words)
    refused(v2t("decode", "-", *common, stdin=b""), "stdin is empty")
    (tmp_path / "t.txt").write_text("Где лодка?\n", encoding="utf-8")
    refused(v2t("decode", "t.txt", *common), "t.txt: is text, not a .npy file", "v2t embed")
    assert not (tmp_path / "out.txt").exists()


def test_a_named_encoder_is_checked_even_where_it_is_not_needed(v2t, checkpoint, vectors, tmp_path):
    from tiny import build_labse

    other = build_labse(tmp_path, DIM, 2, 2, seed=9)
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--set", "decode.rerank=false", "--encoder", other]
    refused(v2t("decode", "-", *options, stdin=npy(vectors)), "does not match that of the checkpoint")
    for item in (f"encoder.model={other}", f"encoder={{model: {other}}}"):
        refused(v2t("decode", "-", *options[:-2], "--set", item, stdin=npy(vectors)), "does not match that of the checkpoint")
    assert v2t("decode", "-", *options[:-2], "--set", "encoder={batch_size: 2}", stdin=npy(vectors)).exit_code == 0
    (tmp_path / "v2t.yaml").write_text(f"encoder: {{model: {other}}}")  # what a file says is for training
    assert v2t("decode", "-", *options[:-2], stdin=npy(vectors)).exit_code == 0


def test_outputs_that_are_no_plain_files(v2t, checkpoint, vectors, tmp_path):
    np.save("v.npy", vectors)
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--quality", "fast"]
    assert v2t("decode", "v.npy", *options, "-o", "-").stdout.count("\n") == len(vectors)
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    assert v2t("decode", "v.npy", *options, "-o", "link.txt").exit_code == 0
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text().count("\n") == len(vectors)
    assert v2t("decode", "v.npy", *options, "-o", "/dev/null").exit_code == 0
    assert not Path("/dev/null").is_file()


def test_decode_refuses_another_encoder(v2t, checkpoint, vectors, tmp_path):
    from tiny import build_labse

    other = build_labse(tmp_path, DIM, 2, 2, seed=9)
    np.save("v.npy", vectors)
    result = v2t("decode", "v.npy", "--checkpoint", checkpoint, "--encoder", other, "--device", "cpu", "-o", "out.txt")
    refused(result, other, "does not match that of the checkpoint", "labse")
    assert not (tmp_path / "out.txt").exists()


def test_usage_errors_keep_typers_form(v2t):
    result = v2t("decode", "v.npy", "--fromat", "tsv")
    assert result.exit_code == 2 and "Usage" in result.stderr and result.stdout == ""


# eval


def test_eval_json_on_the_held_out_texts(v2t, checkpoint):
    result = v2t("eval", "--checkpoint", checkpoint, "--json", "--device", "cpu")
    assert result.exit_code == 0
    scores = json.loads(result.stdout)
    keys = {"n", "loss", "perplexity", "exact_match", "bleu", "chrf", "token_f1", "cosine", "quality", "samples"}
    assert keys <= scores.keys() and scores["n"] == 10 and scores["quality"] == "balanced"
    assert 0 <= scores["exact_match"] <= 1 and 0 <= scores["bleu"] <= 100
    assert scores["samples"][0].keys() == {"source", "text", "cosine"} and len(scores["samples"]) == 10
    saved = json.loads((checkpoint / "v2t.json").read_text())["held_out"]["loss"]
    assert scores["loss"] == pytest.approx(saved, abs=1e-3)


def test_eval_texts_as_they_are(v2t, checkpoint, texts_file, tmp_path):
    (tmp_path / "t.txt").write_text("да\nда\n\n" + SENTENCES[0] + " " + SENTENCES[1], encoding="utf-8")
    result = v2t("eval", "--checkpoint", checkpoint, "--texts", "t.txt", "--json", "--quality", "fast", "--device", "cpu")
    assert json.loads(result.stdout)["n"] == 4


def test_eval_table(v2t, checkpoint):
    result = v2t("eval", "--checkpoint", checkpoint, "--device", "cpu", "--set", "eval.samples=3")
    assert result.exit_code == 0
    for name in ("exact match", "BLEU", "chrF", "token F1", "cosine", "perplexity", "generated", "version:", "95 %", "tokens"):
        assert name in result.stdout
    assert "nearest" not in result.stdout and "--train-texts" in result.stderr


def test_eval_beside_the_nearest_training_text(v2t, checkpoint, texts_file):
    options = ["eval", "--checkpoint", checkpoint, "--device", "cpu", "--train-texts", texts_file]
    assert "nearest training text" in v2t(*options).stdout
    nearest = json.loads(v2t(*options, "--json").stdout)["nearest"]
    # The file has the held-out texts too, and each would find itself.
    assert nearest["exact_match"] == 0 and 0.5 < nearest["cosine"] < 0.9999
    refused(v2t(*options[:-1], "absent.txt"), "absent.txt: no such text file")
    refused(v2t(*options[:-1], checkpoint / "held_out.txt"), "no text besides those that the run held out")


def test_a_checkpoint_without_an_encoder(v2t, labse, texts_file, tmp_path):
    v2t("embed", texts_file, "-o", "vecs.npy", "--encoder", labse, "--device", "cpu")
    sets = ["--set", "data.vectors=vecs.npy", "--set", "encoder.model=null", "--set", f"data.texts={texts_file}"]
    assert v2t("train", *sets, *TINY).exit_code == 0
    plain = v2t("decode", "vecs.npy", "--format", "jsonl", "--device", "cpu")
    assert plain.exit_code == 0 and json.loads(plain.stdout.splitlines()[0])["cosine"] is None
    assert "this checkpoint has no encoder, so there is no cosine and no re-ranking" in plain.stderr
    reranked = v2t("decode", "vecs.npy", "--format", "jsonl", "--encoder", labse, "--device", "cpu")
    assert json.loads(reranked.stdout.splitlines()[0])["cosine"] is not None
    refused(v2t("eval", "--device", "cpu"), "name one with --encoder")
    refused(v2t("embed", texts_file, "-o", "x.npy", "--checkpoint", "checkpoint"), "name one with --encoder")
    scores = json.loads(v2t("eval", "--texts", texts_file, "--vectors", "vecs.npy", "--json", "--device", "cpu").stdout)
    assert scores["n"] == 100 and scores["cosine"] is None
    refused(v2t("eval", "--vectors", "vecs.npy", "--device", "cpu"), "--vectors needs --texts")
    (tmp_path / "t.txt").write_text("да\nнет\n", encoding="utf-8")
    refused(v2t("eval", "--vectors", "vecs.npy", "--texts", "t.txt", "--device", "cpu"), "100 vectors for 2 texts")


# all of them


def test_quiet_and_verbose(v2t, checkpoint, texts_file):
    command = ("eval", "--checkpoint", checkpoint, "--texts", texts_file, "--quality", "fast", "--device", "cpu")
    assert "no baseline; --train-texts" in v2t(*command).stderr
    assert v2t(*command, "--quiet").stderr == ""
    told = v2t(*command, "-v").stderr
    assert 'settings: {"seed":0' in told and "no baseline; --train-texts" in told
    result = v2t("eval", "--checkpoint", "absent", "-q")
    assert result.exit_code == 2 and result.stderr.startswith("error: absent")


def test_that_there_is_no_gpu_is_told_on_demand(v2t, labse, texts_file, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    command = ("embed", texts_file, "-o", "v.npy", "--encoder", labse)
    assert "GPU" not in v2t(*command).stderr
    assert "no GPU found" in v2t(*command, "--verbose").stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("v2t train --set train.ep", {"train.epochs="}),
        (
            "v2t train --set decoder.sc",
            {f"decoder.scratch{key}=" for key in ("", ".n_layer", ".n_embd", ".n_head", ".n_positions", ".vocab_size")},
        ),
        ("v2t embed t.txt --encoder us", {"usem3"}),
        ("v2t decode v.npy --encoder all", {"all-MiniLM-L6-v2"}),
        ("v2t decode v.npy --quality b", {"balanced", "best"}),
    ],
)
def test_completion(monkeypatch, line, expected):
    words = line.split()
    script = "from v2t_cli.cli import app; import sys; sys.modules['torch'] = None; app(prog_name='v2t')"
    environment = {**os.environ, "_V2T_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == expected, done.stderr


def test_every_option_is_explained():
    for name, command in get_command(app).commands.items():
        for parameter in command.params:
            assert parameter.help and parameter.help[0].isupper() or parameter.name in ("quality", "format_"), f"{name} {parameter.name}"
            assert parameter.help.endswith("."), f"{name} {parameter.name}: {parameter.help}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("embed absent.txt -o v.npy", "absent.txt: no such text file"),
        ("embed t.txt -o t.txt/v.npy", "t.txt/v.npy: cannot be written: t.txt is a file"),
        ("train --texts absent.txt", "absent.txt: no such text file"),
        ("train --texts t.txt --output t.txt/out", "t.txt/out: cannot be created: t.txt is a file"),
        ("train --texts t.txt --set data.vectors=absent.npy", "absent.npy: no such vector file"),
        ("decode absent.npy --checkpoint {checkpoint}", "absent.npy: no such vector file"),
        ("decode t.txt --checkpoint {checkpoint}", "t.txt: is text, not a .npy file"),
        ("decode v.npy --checkpoint {checkpoint} -o .", "is a folder"),
        ("decode v.npy --checkpoint {checkpoint} -o v.npy/out.txt", "v.npy/out.txt: cannot be written: v.npy is a file"),
        ("decode v.npy --checkpoint {checkpoint} --report t.txt/r.html", "t.txt/r.html: cannot be written: t.txt is a file"),
        ("decode v.npy --checkpoint {checkpoint} --redact", "--redact needs --report"),
        ("eval --checkpoint {checkpoint} --texts absent.txt", "absent.txt: no such text file"),
        ("eval --checkpoint {checkpoint} --texts t.txt --vectors absent.npy", "absent.npy: no such vector file"),
        ("eval --checkpoint {checkpoint} --report t.txt/r.html", "t.txt/r.html: cannot be written: t.txt is a file"),
    ],
)
def test_mistakes_with_files_are_told_before_torch_is_loaded(checkpoint, vectors, tmp_path, command, words):
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "t.txt").write_text("Где лодка?\n", encoding="utf-8")
    arguments = command.format(checkpoint=checkpoint).split()
    script = f"import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from v2t_cli.cli import app; app({arguments})"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["t.txt", "v.npy"]


# the boundary


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (Terminated(), 143, "stopped"),
        (OSError(28, "No space left on device", "v.npy"), 1, "v.npy: No space left on device"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("CUDA error: out of memory"), 1, "out of memory; lower train.batch_size"),
    ],
)
def test_exit_codes(v2t, monkeypatch, error, code, message):
    from typer.core import TyperGroup

    def fail(self, ctx):
        raise error

    monkeypatch.setattr(TyperGroup, "invoke", fail)
    result = v2t("decode", "v.npy")
    refused(result, message, code=code)


def test_bugs_keep_their_traceback(v2t, monkeypatch):
    from typer.core import TyperGroup

    def fail(self, ctx):
        raise IndexError("a bug")

    monkeypatch.setattr(TyperGroup, "invoke", fail)
    with pytest.raises(IndexError):
        v2t("decode", "v.npy")


def test_signal_handlers_are_given_back(v2t):
    before = signal.getsignal(signal.SIGTERM)
    v2t("decode", "absent.npy", "--checkpoint", "absent")
    assert signal.getsignal(signal.SIGTERM) is before
