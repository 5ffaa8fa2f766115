"""Bad and hostile input, case by case: accepted, and then right, or refused in one line that leaves nothing behind."""

import gzip
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from tiny import DIM, SENTENCES, without_hashes

from v2t_cli.core.config import Config

ESCAPE = "\x1b]0;owned\x07"


def saved(array, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def header(shape: str, data: bytes = b"", descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


ROWS = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
NAN = np.where(np.arange(5)[:, None] == 3, np.nan, ROWS).astype(np.float32)
LINES = "".join(text + "\n" for text in SENTENCES[:6])


def run(v2t, command, content, tmp_path, *options):
    """Run a command on a file of the given content (None: missing, a folder where it is `dict`); the files that were left beside it."""
    name = {"embed": "in.txt", "train": "in.txt", "decode": "in.npy"}[command]
    path = tmp_path / name
    if content is dict:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    before = {item.name for item in tmp_path.iterdir()}
    result = v2t(command, *options[:1], *options[1:]) if command == "train" else v2t(command, path, *options)
    return result, {item.name for item in tmp_path.iterdir()} - before


def assert_refused(result, left, *words, code=2):
    lines = result.stderr.strip("\n").split("\n")
    assert result.exit_code == code, result.stderr
    assert lines[-1].startswith("error: ") and sum(line.startswith("error: ") for line in lines) == 1, result.stderr
    assert "Traceback" not in result.stderr and "\x1b" not in result.stderr
    for word in words:
        assert word in lines[-1], lines[-1]
    assert not left and not result.stdout


REFUSED_TEXTS = {
    "missing": (None, "no such text file"),
    "a folder": (dict, "cannot be read: Is a directory"),
    "Latin-1": ("Привет\n".encode() + "Grüße\n".encode("latin-1"), "line 2: not UTF-8"),
    "UTF-16": ("Привет\n".encode("utf-16"), "line 1"),
    "NUL bytes": ("Привет\nты\0\n", "line 2: holds a NUL byte"),
    "a line of 10 MB": ("Привет\n" + "а" * 5_000_000 + "\n", "line 2: more than 65,536 bytes; split it"),
}
ACCEPTED_TEXTS = {
    "empty": ("", 0),
    "CRLF": ("Привет!\r\nГде лодка?\r\n", 2),
    "BOM": ("\ufeffПривет!\nГде лодка?\n", 2),
    "no last newline": ("Привет!\nГде лодка?", 2),
    "U+2028 inside": ("Привет!\u2028Где лодка?\n", 1),
    "only blanks": ("\n \n\t\n", 3),
    "all the same": ("Привет!\n" * 4, 4),
    "control characters": (f"Привет!{ESCAPE}\n", 1),
}


@pytest.mark.parametrize("case", REFUSED_TEXTS)
def test_texts_that_are_refused(v2t, labse, tmp_path, case):
    content, words = REFUSED_TEXTS[case]
    result, left = run(v2t, "embed", content, tmp_path, "-o", tmp_path / "out.npy", "--encoder", labse)
    assert_refused(result, left, "in.txt", words)


@pytest.mark.parametrize("case", ACCEPTED_TEXTS)
def test_texts_that_are_accepted(v2t, labse, tmp_path, case):
    content, rows = ACCEPTED_TEXTS[case]
    result, left = run(v2t, "embed", content, tmp_path, "-o", tmp_path / "out.npy", "--encoder", labse)
    assert result.exit_code == 0, result.stderr
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.shape == (rows, DIM) and np.isfinite(vectors).all() and left == {"out.npy"}
    if case in ("CRLF", "BOM", "no last newline"):
        plain = tmp_path / "plain.npy"
        (tmp_path / "plain.txt").write_text("Привет!\nГде лодка?\n", encoding="utf-8")
        assert v2t("embed", tmp_path / "plain.txt", "-o", plain, "--encoder", labse).exit_code == 0
        np.testing.assert_array_equal(vectors, np.load(plain))


def damaged_gz():
    return gzip.compress(LINES.encode())[:-20]


REFUSED_TRAINING = {
    "missing": (None, [], "no such text file"),
    "a folder": (dict, [], "cannot be read"),
    "empty": ("", [], "no text is 2 (data.min_chars) to 160 (data.max_chars) characters long"),
    "only blanks": ("\n \n", [], "no text is 2 (data.min_chars) to 160 (data.max_chars) characters long"),
    "all too long": ("а" * 200 + "\n", [], "no text is 2 (data.min_chars) to 160 (data.max_chars) characters long"),
    "all the same": ("Привет!\n" * 9, [], "1 usable texts are too few to hold out 5% of them"),
    "fewer than are held out": ("Привет!\nПока!\n", ["data.held_out=0.9"], "2 usable texts are too few to hold out 90% of them"),
    "not UTF-8": (b"\xff\xfe\n", [], "line 1"),
    "not a gz": (LINES, ["data.texts=in.txt.gz"], "in.txt.gz"),
    "a damaged gz": (damaged_gz(), ["data.texts=in.txt.gz"], "damaged .gz"),
    "stdin": (LINES, ["data.texts=-"], "cannot be stdin"),
    "vectors missing": (LINES, ["data.vectors=absent.npy"], "absent.npy"),
    "vectors of another count": (LINES, ["data.vectors=five.npy"], "5 vectors for 6 lines"),
    "vectors with NaN": (LINES, ["data.vectors=nan.npy"], "row 3 contains NaN"),
    "vectors that need pickle": (LINES, ["data.vectors=pickle.npy"], "never loaded"),
}


@pytest.mark.parametrize("case", REFUSED_TRAINING)
def test_training_that_is_refused(v2t, labse, tmp_path, case):
    content, sets, words = REFUSED_TRAINING[case]
    np.save(tmp_path / "five.npy", ROWS)
    np.save(tmp_path / "nan.npy", np.vstack([NAN, ROWS[:1]]))
    np.save(tmp_path / "pickle.npy", np.array([{}] * 6, dtype=object), allow_pickle=True)
    if isinstance(content, (str, bytes)):
        (tmp_path / "in.txt.gz").write_bytes(content.encode() if isinstance(content, str) else content)
    base = [
        "data.texts=in.txt",
        "output=out",
        f"encoder.model={labse}",
        "device=cpu",
        "decoder.scratch={n_layer: 1, n_embd: 16, n_head: 2}",
    ]
    options = [part for item in [*base, *sets] for part in ("--set", item)]
    assert_refused(*run(v2t, "train", content, tmp_path, *options), words)


def npz():
    stream = io.BytesIO()
    np.savez(stream, v=ROWS, w=ROWS)
    return stream.getvalue()


def structured():
    return np.zeros(5, dtype=[("x", "<f4"), ("y", "<f4")])


REFUSED_VECTORS = {
    "missing": (None, "no such vector file"),
    "a folder": (dict, "is a folder without vectors"),
    "empty": (b"", "not a .npy"),
    "text": ("0.1 0.2\n", "not a .npy"),
    "pickled objects": (saved(np.array([{"a": 1}], dtype=object), allow_pickle=True), "never loaded"),
    "a bare pickle": (b"cos\nsystem\n(S'touch owned'\ntR.", "not a .npy"),
    "3-D": (saved(np.zeros((2, 3, DIM), np.float32)), "of shape (2, 3, 16)"),
    "0-D": (saved(np.float32(1)), "of shape ()"),
    "0-D and more behind it": (saved(np.float32(1)) + bytes(4), "holds float32 of shape ()"),
    "another width": (saved(np.zeros((2, 3), np.float32)), "vectors of 3 dimensions, but the checkpoint"),
    "int64": (saved(ROWS.astype(np.int64)), "holds int64"),
    "complex": (saved(ROWS.astype(np.complex64)), "holds complex64"),
    "structured": (saved(structured()), "expected floating-point"),
    "strings": (saved(np.array([["a"]])), "holds <U1"),
    "a NaN": (saved(NAN), "row 3 contains NaN"),
    "many NaN": (saved(np.full((9, DIM), np.nan, np.float32)), "rows 0, 1, 2, 3, 4 and 4 more"),
    "infinity": (saved(np.where(ROWS > 9, ROWS, np.float32(np.inf))), "rows 0, 1, 2, 3, 4 contain NaN or infinity"),
    "too large for float32": (saved(np.full((1, DIM), 1e300)), "row 0 contains NaN or infinity (as float32)"),
    "truncated": (saved(ROWS)[:-70], "the header promises 5 rows, the file ends after 3"),
    "a header alone": (header(f"(5, {DIM})"), "the header promises 5 rows, the file ends after 0"),
    "more promised than there is": (
        header(f"({10**3}, {DIM})", ROWS.tobytes()),
        "the header promises 1000 rows, the file ends after 5",
    ),
    "a size beyond all files": (header(f"(9000000000000000, {DIM})"), "the header promises 9000000000000000 rows, the file ends after 0"),
    "a width beyond all files": (header("(1, 9000000000000000000)"), "of shape (1, 9000000000000000000); expected"),
    "no rows of a width beyond memory": (header("(0, 9000000000000000000)"), "of shape (0, 9000000000000000000); expected"),
    "negative rows": (header(f"(-5, {DIM})", ROWS.tobytes()), "expected floating-point"),
    "no columns": (header("(5, 0)"), "expected floating-point"),
    "code in the header": (header("(__import__('os').getpid(), 16)"), "not a .npy"),
    "more behind the rows": (saved(ROWS) + saved(ROWS), "has data after its 5 rows"),
    "an archive of two arrays": (npz(), "several columns can be the vectors: v, w; --column names one"),
}


@pytest.mark.parametrize("case", REFUSED_VECTORS)
def test_vectors_that_are_refused(v2t, checkpoint, tmp_path, case):
    content, words = REFUSED_VECTORS[case]
    result, left = run(v2t, "decode", content, tmp_path, "-o", tmp_path / "out.txt", "--checkpoint", checkpoint, "--quality", "fast")
    assert_refused(result, left, "in.npy", words)


ACCEPTED_VECTORS = {
    "float64": (ROWS.astype(np.float64), "float64 numbers are read as float32"),
    "float16": (ROWS.astype(np.float16), "float16 numbers are read as float32"),
    "big-endian": (ROWS.astype(">f4"), ""),
    "Fortran order": (np.asfortranarray(ROWS), ""),
    "one vector": (ROWS[0], ""),
    "zero rows": (ROWS[:0], ""),
    "vectors of zeros": (np.zeros_like(ROWS), ""),
}


@pytest.mark.parametrize("case", ACCEPTED_VECTORS)
def test_vectors_that_are_accepted(v2t, checkpoint, tmp_path, case):
    array, words = ACCEPTED_VECTORS[case]
    options = ("--checkpoint", checkpoint, "--quality", "fast", "--format", "jsonl")
    result, _ = run(v2t, "decode", saved(array), tmp_path, *options)
    assert result.exit_code == 0 and words in result.stderr, result.stderr
    np.save(tmp_path / "plain.npy", np.atleast_2d(array).astype("<f4"))
    assert result.stdout == v2t("decode", tmp_path / "plain.npy", *options).stdout
    assert len(result.stdout.splitlines()) == len(np.atleast_2d(array))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
REFUSED_CONFIGS = {
    "missing": (None, "no such config"),
    "a folder": (dict, "cannot be read"),
    "not UTF-8": (b"output: \xff\n", "cannot be read"),
    "a list": ("- train\n", "expected sections"),
    "a word": ("train\n", "expected sections"),
    "broken": ("train: {epochs: 2\n", "not valid YAML"),
    "a tab": ("train:\n\tepochs: 2\n", "not valid YAML"),
    "a NUL byte": ("output: a\0b\n", "not valid YAML"),
    "a NUL in a name": ('output: "a\\0b"\n', "output: contains a NUL"),
    "half a character in a name": ('data: {texts: "\\ud800"}\n', "data.texts: contains"),
    "unknown section": ("trian: {}\n", "did you mean 'train'?"),
    "unknown key": ("train: {epoch: 2}\n", "did you mean 'train.epochs'?"),
    "a section that is none": ("train: 5\n", "train: "),
    "a key that is no word": ("5: 6\n", "5: "),
    "a key twice": ("seed: 1\ntrain: {}\nseed: 2\n", "line 3: not valid YAML: 'seed' is set twice"),
    "a nested key twice": ("train:\n  epochs: 1\n  epochs: 2\n", "'epochs' is set twice"),
    "code": ("output: !!python/object/apply:os.system ['touch owned']\n", "not valid YAML"),
    "code in a name": ("output: !!python/name:os.system\n", "not valid YAML"),
    "an alias bomb": (BOMB, "aliases such as *a0 are not allowed"),
    "an alias to itself": ("&a train: *a\n", "aliases such as *a"),
    "a merge": ("train: &t {epochs: 1}\ndata: {<<: *t}\n", "aliases such as *t"),
    "deep": ("train: " + "[" * 20_000 + "\n", "not valid YAML"),
    "several documents": ("seed: 1\n---\nseed: 2\n", "not valid YAML"),
    "a date that is none": ("seed: 2024-13-45\n", "not valid YAML"),
    "an integer of nothing": ('seed: !!int ""\n', "not valid YAML"),
    "an endless number": ("seed: " + "9" * 10_000 + "\n", "not valid YAML"),
}


@pytest.mark.parametrize("case", REFUSED_CONFIGS)
def test_configurations_that_are_refused(v2t, tmp_path, case):
    content, words = REFUSED_CONFIGS[case]
    path = tmp_path / "c.yaml"
    if content is dict:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    before = set(tmp_path.iterdir())
    result = v2t("train", "--config", path)
    assert_refused(result, set(tmp_path.iterdir()) - before, "c.yaml", words)


def every_key():
    for name, value in Config().model_dump().items():
        if isinstance(value, dict):
            yield from (f"{name}.{key}" for key in value if f"{name}.{key}" != "decoder.scratch")
        else:
            yield name
    yield from (f"decoder.scratch.{key}" for key in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size"))


@pytest.mark.parametrize("key", [*every_key(), "decoder.scratch"])
def test_every_key_refuses_another_type(v2t, tmp_path, key):
    result = v2t("train", "--set", f"{key}={'{x: 3}' if key in ('train.trackers', 'data.texts') else '[3, x]'}")
    assert_refused(result, set(tmp_path.iterdir()), f"{key}: ")


OUT_OF_RANGE = [
    *("seed=-1", "seed=4294967296", "encoder.batch_size=0", "adapter.tokens=0", "data.min_chars=-1", "data.max_chars=0"),
    *("data.held_out=1", "data.held_out=-0.1", "train.epochs=0", "train.epochs=.nan", "train.max_minutes=0", "train.batch_size=0"),
    *("train.gradient_accumulation=0", "train.learning_rate=0", "train.learning_rate=1e999", "train.weight_decay=-1", "train.dropout=1"),
    *("train.warmup=1", "train.max_grad_norm=0", "train.precision=int8", "train.eval_steps=0", "train.save_steps=0", "train.samples=-1"),
    *("decode.quality=good", "decode.strategy=guess", "decode.beams=0", "decode.logprob_weight=-1", "decode.rounds=-1", "decode.width=0"),
    *("decode.feedback=-1", "decode.edits=-1", "decode.lexicon=-1", "decode.encoder_calls=-1"),
    *("decode.until_cosine=2", "decode.candidates=0", "decode.temperature=0", "decode.top_p=0", "decode.top_k=-1"),
    *("decode.max_new_tokens=0", "decode.batch_size=0", "decode.batch_size=many", "decode.precision=int4", "eval.samples=-1"),
]


@pytest.mark.parametrize("item", OUT_OF_RANGE)
def test_what_is_out_of_range_is_refused(v2t, tmp_path, item):
    assert_refused(v2t("train", "--set", item), set(tmp_path.iterdir()), item.partition("=")[0].split(".")[0])


def edit(name, **changes):
    def apply(folder):
        value = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**value, **changes}), encoding="utf-8")

    return apply


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def unlink(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def swap(folder):
    model, adapter = folder / "model.safetensors", folder / "adapter.safetensors"
    kept = model.read_bytes()
    model.write_bytes(adapter.read_bytes())
    adapter.write_bytes(kept)


def lead_outside(folder):
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"transformer.wte.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def own_code(folder):
    (folder / "modeling_own.py").write_text("open('owned', 'w')\n")
    edit("config.json", auto_map={"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"}, model_type="own")(
        folder
    )


REFUSED_CHECKPOINTS = {
    "missing": (shutil.rmtree, "no such checkpoint"),
    "no v2t.json": (unlink("v2t.json"), "not a v2t checkpoint"),
    "no config.json": (unlink("config.json"), "missing or damaged"),
    "no tokenizer": (unlink("tokenizer.json"), "missing or damaged"),
    "no weights": (unlink("model.safetensors"), "missing or damaged"),
    "no adapter": (unlink("adapter.safetensors"), "adapter.safetensors: missing"),
    "truncated weights": (cut("model.safetensors"), "missing or damaged"),
    "a truncated adapter": (cut("adapter.safetensors"), "adapter.safetensors: damaged"),
    "swapped weights": (swap, ""),
    "a pickle for weights": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "missing or damaged"),
    "another dim": (edit("v2t.json", dim=DIM + 1), f"not a valid v2t.json: Value error, dim is {DIM + 1}, but encoder.dim is {DIM}"),
    "another dim, of vectors from elsewhere": (edit("v2t.json", dim=DIM + 1, encoder=None), f"but the checkpoint reads {DIM + 1}"),
    "a newer format": (edit("v2t.json", format=2), "newer than this v2t"),
    "an unknown adapter": (edit("v2t.json", adapter={"kind": "own", "tokens": 1}), "adapter kind 'own' is unknown"),
    "v2t.json is no JSON": (write("v2t.json", b"{"), "not a valid v2t.json"),
    "v2t.json is a list": (write("v2t.json", b"[]"), "not a valid v2t.json"),
    "v2t.json is not UTF-8": (write("v2t.json", b"\xff"), "not a valid v2t.json"),
    "v2t.json is deep": (write("v2t.json", b"[" * 100_000), "not a valid v2t.json"),
    "v2t.json has escapes": (edit("v2t.json", adapter={"kind": ESCAPE, "tokens": 1}), "is unknown"),
    "an index that leads outside": (lead_outside, "points outside the folder"),
    "an index of nothing": (write("model.safetensors.index.json", b"{}"), "index.json: damaged"),
    "code of its own": (own_code, "--trust-remote-code"),
}


@pytest.mark.parametrize("hashed", [True, False], ids=["hashed", "of version 0.1.0"])
@pytest.mark.parametrize("case", REFUSED_CHECKPOINTS)
def test_checkpoints_that_are_refused(v2t, checkpoint, tmp_path, case, hashed):
    damage, words = REFUSED_CHECKPOINTS[case]
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    if not hashed:
        without_hashes(folder)
    np.save(tmp_path / "v.npy", ROWS)
    damage(folder)
    before = set(tmp_path.iterdir())
    result = v2t("decode", tmp_path / "v.npy", "--checkpoint", folder, "--quality", "fast", "-o", tmp_path / "out.txt")
    assert_refused(result, set(tmp_path.iterdir()) - before, "checkpoint", "" if hashed else words)
    assert not (tmp_path / "owned").exists()


def test_pickles_in_a_checkpoint_are_not_opened(v2t, checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    for name in ("pytorch_model.bin", "adapter.bin", "training_args.bin"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("data.pkl", b"cos\nsystem\n(S'touch owned'\ntR.")
    np.save(tmp_path / "v.npy", ROWS)
    options = ("--quality", "fast", "--checkpoint")
    assert v2t("decode", tmp_path / "v.npy", *options, folder).stdout == v2t("decode", tmp_path / "v.npy", *options, checkpoint).stdout
    assert not (tmp_path / "owned").exists()


def test_outputs_that_cannot_be_written(v2t, labse, checkpoint, texts_file, tmp_path):
    np.save(tmp_path / "v.npy", ROWS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    before = set(tmp_path.iterdir())
    decode = ("decode", tmp_path / "v.npy", "--checkpoint", checkpoint, "--quality", "fast", "-o")
    embed = ("embed", texts_file, "--encoder", labse, "-o")
    for command in (decode, embed):
        assert_refused(v2t(*command, tmp_path / "folder"), set(tmp_path.iterdir()) - before, "is a folder")
        assert_refused(v2t(*command, tmp_path / "file" / "below"), set(tmp_path.iterdir()) - before, "cannot be written")
        assert_refused(v2t(*command, "/dev/full"), set(tmp_path.iterdir()) - before, "No space left", code=1)


def test_no_escape_of_a_text_reaches_the_terminal(v2t, checkpoint, tmp_path):
    """Of the texts of an evaluation, which are shown beside what was generated."""
    (tmp_path / "t.txt").write_text(f"Привет!{ESCAPE}\n" * 3, encoding="utf-8")
    result = v2t("eval", "--checkpoint", checkpoint, "--texts", tmp_path / "t.txt", "--quality", "fast")
    assert result.exit_code == 0 and "Привет!" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr and "\x07" not in result.stdout + result.stderr


def test_code_runs_only_where_somebody_asked_for_it(v2t, checkpoint, tmp_path):
    """Not because of a v2t.yaml that lies in the folder, nor because an encoder is a folder of this machine."""
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    own_code(tmp_path)
    np.save(tmp_path / "x.npy", ROWS)
    (tmp_path / "v2t.yaml").write_text("decoder: {trust_remote_code: true}\n")
    result = v2t("decode", "x.npy", "--checkpoint", ".")
    assert_refused(result, set(), "v2t.yaml: decoder.trust_remote_code runs code that comes with a model", "--config v2t.yaml")
    assert not (tmp_path / "owned").exists()


def test_an_encoder_in_a_folder_runs_no_code(v2t, labse, tmp_path):
    shutil.copytree(labse, tmp_path / "own")
    modules = json.loads((tmp_path / "own" / "modules.json").read_text())
    modules[0]["type"] = "modeling_own.Own"
    (tmp_path / "own" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "own" / "modeling_own.py").write_text("open('owned', 'w')\n")
    (tmp_path / "t.txt").write_text(LINES, encoding="utf-8")
    assert_refused(v2t("embed", "t.txt", "-o", "v.npy", "--encoder", "own"), set(), "--trust-remote-code runs it")
    assert not (tmp_path / "owned").exists()
