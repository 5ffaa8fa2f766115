"""The report on a leaked store: the page, and the options of v2t decode that write it."""

import json
import re
import shutil

import numpy as np
import pytest
from forked import launch
from leaks import CALIBRATION, LEXICON, row, tally
from pages import Checker
from tiny import DIM, SENTENCES, interrupting, without_hashes

from v2t_cli.core.errors import V2TError
from v2t_cli.decoding.candidates import SureWord
from v2t_cli.evaluation.calibration import Calibration
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.evaluation.leak import Tally
from v2t_cli.evaluation.leak_report import leak_report
from v2t_cli.evaluation.redaction import Redactor
from v2t_cli.models.lexicon import Lexicon

EVIL = "<script>alert(1)</script> & \x1b[31mкрасный"


def check_page(page):
    checker = Checker()
    checker.feed(page)
    assert not checker.open and not checker.outside and "<script" not in page and "\x1b" not in page and len(page.encode()) < 2**17


def numbers_of(page):
    """What the page tells programs: rows, and those that were reliably read."""
    return tuple(int(number) for number in re.findall('<meta name="(?:rows|reliably-read)" content="([0-9]+)">', page))


def text_of(page):
    """What a reader sees, on one line."""
    return " ".join(re.sub("<.*?>", "", page).split())


def cells(page):
    return [[re.sub("<.*?>", "", cell) for cell in re.findall("<td[^>]*>(.*?)</td>", row, re.DOTALL)] for row in page.split("<tr>")]


# the page


def test_the_page():
    rows = [row(0, EVIL, 1.0), row(1, "Анна ждёт тебя в 5:30", 1.0), row(2, "да", 0.9), row(3, "да", 0.1)]
    page = leak_report(tally(rows), {"date": "<today>"})
    check_page(page)
    assert numbers_of(page) == (4, 2)
    text = text_of(page)
    assert "2 of 4 rows were reliably read (50%): the decoded text is the text behind the vector" in text
    assert "2 of these rows hold a name, number" in text
    assert "about 3 are expected to be right, the sure ones included (95% interval: 3 to " in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page and "Анна ждёт тебя в 5:30" in page and "&lt;today&gt;" in page
    found = cells(page)
    assert ["95% or more", "2", "50%", "2", "2 to 2"] in found and ["below 50%", "1", "25%", "0", "0 to 0"] in found
    assert ["numbers", "3", "2", "3", "2"] in found and ["1", "Анна ждёт тебя в 5:30", "99.0%"] in found
    assert "Find out who is concerned" in text and "1 names" in text


def test_words_are_marked():
    page = leak_report(tally([row(0, "да где", 1.0, [SureWord("да", 0.99), SureWord("где", 0.1)])]), {})
    assert '<span class="sure">да</span> <span class="unsure">где</span>' in page


def test_a_store_without_rows():
    page = leak_report(tally([]), {"date": "today"})
    check_page(page)
    assert numbers_of(page) == (0, 0) and "The store is empty" in page and "How this was measured" in page and "nan" not in page


def test_no_cosine_makes_a_row_sure():
    counted = Tally(Calibration([(1.0, True)] * 10), EntityFinder(LEXICON))
    counted.add(row(0, "да", 1.0))
    page = text_of(leak_report(counted.result(), {}))
    assert "0 of 1 row was reliably read" in page
    assert "no cosine makes a row sure: of the 10 held-out texts with the highest cosines, 10 came back word for word" in page
    assert "knows which rows to trust" not in page


def test_a_redacted_page():
    rows = [row(0, "Анна ждёт тебя в 5:30, 8 марта, 415-555-0134, a@example.org", 1.0), row(1, "Пётр да", 0.1)]
    page = leak_report(Redactor(LEXICON).leak(tally(rows)), {}, redacted=True)
    check_page(page)
    for secret in ("Анна", "Пётр", "5:30", "марта", "415", "example.org"):
        assert secret not in page
    assert "[name 1] ждёт тебя в [number 1], [date 1], [phone 1], [address 1]" in page and "masks with the same number" in page
    assert ["names", "1", "1", "2", "2"] in cells(page), "what is masked is counted"
    blind = Lexicon([], [], [])
    counted = Tally(CALIBRATION, EntityFinder(blind))
    counted.add(row(0, "Анна ждёт тебя", 1.0))
    page = leak_report(Redactor(blind).leak(counted.result()), {}, redacted=True)
    assert "Анна" not in page and "Left out (<code>--redact</code>)" in page and "were not counted" in page


# the command


@pytest.fixture(scope="module")
def leaky(checkpoint, tmp_path_factory):
    """The trained checkpoint, with enough held-out texts to be sure of some rows, and a name in its lexicon."""
    folder = without_hashes(shutil.copytree(checkpoint, tmp_path_factory.mktemp("leaky") / "secret" / "checkpoint"))
    (folder / "held_out.txt").write_text("".join(f"{text}\n" for text in SENTENCES[::2]), encoding="utf-8")
    lexicon = (folder / "lexicon.txt").read_text(encoding="utf-8")
    assert "\tиван\n" in lexicon
    (folder / "lexicon.txt").write_text(lexicon.replace("\tиван\n", "\tИван\n"), encoding="utf-8")
    return folder


@pytest.fixture
def decode(v2t, leaky, encoder, tmp_path):
    """The arguments of v2t decode, for the vectors of 20 texts, and more."""
    np.save(tmp_path / "v.npy", encoder.encode(SENTENCES[50:70]))
    search = ("--set", "decode.beams=4", "--set", "decode.rounds=1", "--batch-size", "4")
    return lambda *more, checkpoint=leaky: ("decode", "v.npy", "--checkpoint", checkpoint, "--device", "cpu", *search, *more)


def page_at(path):
    """The page but for the date."""
    return re.sub(r"<td>20\d\d-.*?</td>", "", path.read_text(encoding="utf-8"))


IN_FILE = ("-o", "out.jsonl", "--format", "jsonl", "--report", "leak.html")


def test_rows_on_stdout(v2t, decode, tmp_path):
    plain = v2t(*decode())
    result = v2t(*decode("--report", "a/leak.html"))
    assert result.exit_code == 0 and result.stdout == plain.stdout and "a/leak.html: written" in result.stderr
    page = page_at(tmp_path / "a" / "leak.html")
    check_page(page)
    rows, sure = numbers_of(page)
    assert rows == 20 and 5 <= sure <= 20
    assert f"<strong>{sure}</strong> of 20 rows were reliably read" in page and "Иван" in page and "v.npy: 20 rows" in page
    assert v2t(*decode(*IN_FILE)).exit_code == 0
    assert page_at(tmp_path / "leak.html") == page, "read back from the file"
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 20


def test_an_interrupted_run_ends_with_the_page_of_one_that_was_not(v2t, decode, tmp_path):
    assert v2t(*decode(*IN_FILE)).exit_code == 0
    whole = page_at(tmp_path / "leak.html")
    (tmp_path / "leak.html").unlink()
    (tmp_path / "out.jsonl").unlink()
    with interrupting(8):
        assert v2t(*decode(*IN_FILE)).exit_code == 130
    assert {path.name for path in tmp_path.iterdir()} == {"v.npy", ".out.jsonl.parts"}, "no half page"
    result = v2t(*decode(*IN_FILE, "--resume"))
    assert result.exit_code == 0 and "8 of 20 rows are already done" in result.stderr
    assert page_at(tmp_path / "leak.html") == whole
    result = v2t(*decode(*IN_FILE, "--resume"))
    assert result.exit_code == 0 and "left unchanged" in result.stderr
    again = page_at(tmp_path / "leak.html")
    assert numbers_of(again) == numbers_of(whole) and "of an earlier run" in again and "of an earlier run" not in whole


def test_a_page_that_fails_leaves_the_rows_and_can_be_made_later(v2t, decode, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("v2t_cli.pipelines.decode.leak_report", lambda *arguments: (_ for _ in ()).throw(V2TError("no page")))
        result = v2t(*decode(*IN_FILE))
    assert result.exit_code == 1 and "error: no page" in result.stderr and "stopped after" not in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"v.npy", "out.jsonl"}
    assert v2t(*decode(*IN_FILE, "--resume")).exit_code == 0
    assert numbers_of(page_at(tmp_path / "leak.html"))[0] == 20


def test_a_run_that_must_be_resumed_is_refused_before_held_out_texts_are_decoded(v2t, decode, monkeypatch):
    with interrupting(8):
        v2t(*decode(*IN_FILE))
    monkeypatch.setattr("v2t_cli.pipelines.decode.calibrate", lambda *arguments: pytest.fail("held-out texts were decoded"))
    result = v2t(*decode(*IN_FILE))
    assert result.exit_code == 2 and "--resume continues it" in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"index": 0, "text": "да", "logprob": -1, "cosine": 1}\n', "out.jsonl: holds 1 rows for 20 vectors"),
        ('{"index": 0, "text": "да", "logprob": -1, "cosine": null}\n', "out.jsonl: row 0 has no cosine"),
        ("да\n", "out.jsonl, line 1: is not decoded row 0 as jsonl; --overwrite decodes again"),
        ('{"index": 1, "text": "да", "logprob": -1, "cosine": 1}\n', "out.jsonl, line 1: is not decoded row 0"),
    ],
)
def test_a_complete_output_that_holds_other_rows(v2t, decode, tmp_path, content, words):
    (tmp_path / "out.jsonl").write_text(content, encoding="utf-8")
    result = v2t(*decode(*IN_FILE, "--resume"))
    assert result.exit_code == 2 and f"error: {words}" in result.stderr and not (tmp_path / "leak.html").exists()


def test_several_processes(v2t, decode, tmp_path):
    assert v2t(*decode(*IN_FILE)).exit_code == 0
    one = page_at(tmp_path / "leak.html")
    launch(2, *decode(*IN_FILE, "--overwrite"), folder=tmp_path)
    assert page_at(tmp_path / "leak.html") == one


def test_redact_masks_the_page_and_not_the_rows(v2t, decode, leaky, tmp_path):
    result = v2t(*decode("--report", "leak.html", "--redact"))
    assert result.exit_code == 0 and "Иван" in result.stdout
    page = page_at(tmp_path / "leak.html")
    check_page(page)
    assert "Иван" not in page and "[name 1]" in text_of(page) and str(leaky.parent) not in page and "v.npy" not in page
    assert "digest" not in page and "digest" in (v2t(*decode("--report", "open.html")) and page_at(tmp_path / "open.html"))
    result = v2t(*decode("--redact"))
    assert result.exit_code == 2 and "--redact needs --report" in result.stderr


def test_an_empty_store(v2t, decode, tmp_path):
    np.save(tmp_path / "v.npy", np.empty((0, DIM), np.float32))
    for more in ((), IN_FILE[:4]):
        assert v2t(*decode("--report", "leak.html", *more)).exit_code == 0
        assert numbers_of(page_at(tmp_path / "leak.html")) == (0, 0)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--report", "file/leak.html"), "file/leak.html: cannot be written"),
        (("--report", "."), "is a folder"),
        (("--report", "v.npy"), "v.npy: is also the input"),
        (("--report", "o", "-o", "o", "--format", "jsonl"), "o: is also the output of the rows"),
        (("--report", "r.html", "-o", "o.txt"), "--report reads the rows back from o.txt, which needs --format jsonl"),
        (("--report", "r.html", "--set", "decode.rerank=false", "--set", "decode.rounds=0"), "--report needs the cosine of each row"),
    ],
)
def test_what_cannot_be_reported_is_refused_before_anything_is_loaded(v2t, decode, tmp_path, monkeypatch, more, words):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("v2t_cli.pipelines.decode.open_checkpoint", lambda *arguments: pytest.fail("a model was loaded"))
    before = {path.name for path in tmp_path.iterdir()}
    result = v2t(*decode(*more))
    assert result.exit_code == 2 and result.stdout == "" and words in result.stderr and result.stderr.count("error: ") == 1
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_checkpoint_without_an_encoder_is_refused(v2t, decode, leaky, tmp_path):
    folder = shutil.copytree(leaky, tmp_path / "blind")
    info = json.loads((folder / "v2t.json").read_text(encoding="utf-8"))
    (folder / "v2t.json").write_text(json.dumps({**info, "encoder": None}), encoding="utf-8")
    result = v2t(*decode("--report", "leak.html", checkpoint=folder))
    assert result.exit_code == 2 and "has no encoder; name one with --encoder" in result.stderr and not (tmp_path / "leak.html").exists()
