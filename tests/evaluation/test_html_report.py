"""The HTML report: the page, which a browser opens, and the option that writes it."""

import fcntl
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from forked import launch
from pages import Checker
from tiny import DIM, SENTENCES

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.errors import V2TError
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation import audit as measures
from v2t_cli.evaluation.audit import Findings, NoiseResult, audit, decode_with_noise, outcomes, trust, word_recalls
from v2t_cli.evaluation.entities import EntityFinder
from v2t_cli.evaluation.evaluate import Sample, evaluate
from v2t_cli.evaluation.html_report import html_report, report_facts
from v2t_cli.evaluation.metrics import Recall
from v2t_cli.evaluation.redaction import Redactor
from v2t_cli.models.lexicon import Lexicon

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
EVIL = "<script>alert(1)</script> & \x1b[31mкрасный"
TEXTS = [*SENTENCES[:30], EVIL]
SEARCH = resolve_search(DecodeConfig(beams=2, feedback=0, rounds=0))


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


@pytest.fixture(scope="module")
def evaluation(opened, vectors):
    return evaluate(opened, TEXTS, vectors, fit(opened, SEARCH))


@pytest.fixture(scope="module")
def findings(opened, evaluation, vectors):
    return replace(audit(evaluation), noise=decode_with_noise(opened, evaluation.pairs, vectors, fit(opened, SEARCH)))


def page_of(checkpoint, evaluation, findings, vectors, noise=False, redacted=False) -> str:
    facts = report_facts(evaluation, vectors, checkpoint.folder, checkpoint.info, fit(checkpoint, SEARCH).max_new_tokens, redacted)
    return html_report(evaluation, findings, facts, noise, redacted)


def check_page(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert not checker.open and not checker.outside and "<script" not in page and "\x1b" not in page
    assert len(page.encode()) < 2**20 and "currentColor" in page and "#010203" not in page


def test_the_page_is_whole_and_loads_nothing(opened, evaluation, findings, vectors):
    page = page_of(opened, evaluation, findings, vectors)
    check_page(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page
    for words in (
        "of 31 texts can be read",
        "Can an attacker tell which texts are right?",
        "Does noise protect?",
        "SHA-256",
        str(opened.folder),
    ):
        assert words in page
    assert "at most 47 tokens" in page, "as many as fit the decoder"


def test_the_page_without_an_encoder(loaded, vectors):
    evaluation = evaluate(loaded, TEXTS, vectors, fit(loaded, SEARCH))
    page = page_of(loaded, evaluation, audit(evaluation), vectors)
    check_page(page)
    assert "Can an attacker tell" not in page


def test_kinds_without_words(opened, evaluation, vectors):
    noise = [NoiseResult(0.0, 1, 0.0, (0.0, 0.8), None, None)]
    words = [Recall.of("names", 0, 0), *word_recalls([Sample("да 5", "да", 1.0)])]
    page = page_of(opened, evaluation, Findings(outcomes([Sample("да", "нет", 0.1)]), words, trust([]), [], [], [], noise), vectors)
    check_page(page)
    rows = [re.findall("<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in page.split("<tr>")]
    assert ["names", "0", "0", "", "none there"] in rows and ["all words", "2", "1", "50%", "9% to 91%"] in rows
    assert ["0%", "0%", "0% to 80%", "too few texts"] in rows
    assert "An attacker" not in page, "no row says whether the cosine can be trusted"


def test_the_page_before_and_without_the_runs_with_noise(opened, evaluation, findings, vectors):
    findings = replace(findings, noise=None)
    for follows, words in ((True, "Not measured yet"), (False, "<code>--no-noise</code>")):
        page = page_of(opened, evaluation, findings, vectors, noise=follows)
        check_page(page)
        assert words in page and "neighbours kept" not in page.partition("<h2>Does noise protect?")[2]


def test_a_redacted_page(opened, evaluation, findings, vectors):
    redactor = Redactor(Lexicon(["мама", "читает", "газету"], [50, 50, 50], ["."]))
    page = page_of(opened, redactor.evaluation(evaluation), redactor.findings(findings), vectors, redacted=True)
    check_page(page)
    shown = " ".join(re.findall("<td dir.*?</td>", page, re.DOTALL))
    assert "[rare word 1]" in shown and "газету" in shown and "сосед" not in shown.lower()
    assert str(opened.folder) not in page and opened.folder.name in page and "SHA-256" not in page and "--redact" not in page
    blind = Redactor(Lexicon([], [], []))
    page = page_of(opened, blind.evaluation(evaluation), blind.findings(findings), vectors, redacted=True)
    check_page(page)
    assert "Left out (<code>--redact</code>)" in page and "газету" not in page


def test_a_checkpoint_without_a_lexicon_counts_no_names(opened, evaluation, vectors):
    blind = replace(evaluation, entities=EntityFinder(Lexicon([], [], [])).recalls(TEXTS, TEXTS))
    page = page_of(opened, blind, audit(blind), vectors)
    assert "<td>names</td>" not in page and "<td>numbers</td>" in page and "were not counted" in page


def test_eval_writes_the_page(v2t, checkpoint, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "NOISE_TEXTS", 10)
    command = ("eval", "--checkpoint", checkpoint, "--texts", texts_file, "--quality", "fast", "--device", "cpu", "--report")
    result = v2t(*command, "a/report.html", "--train-texts", texts_file)
    assert result.exit_code == 0 and "exact match" in result.stdout and "a/report.html: written" in result.stderr
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    check_page(page)
    assert "Copying the training text with the nearest vector would have given" in page
    result = v2t(*command, tmp_path)
    assert result.exit_code == 2 and result.stdout == "" and "is a folder" in result.stderr
    (tmp_path / "file").write_text("")
    result = v2t(*command, "file/report.html")
    assert result.exit_code == 2 and result.stdout == "" and "report.html: cannot be written" in result.stderr


def test_the_scores_are_printed_although_the_report_fails(v2t, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("v2t_cli.pipelines.evaluate.audit", lambda *arguments: (_ for _ in ()).throw(V2TError("no page")))
    command = ("eval", "--checkpoint", checkpoint, "--quality", "fast", "--device", "cpu", "--json")
    result = v2t(*command, "--report", "r.html")
    assert result.exit_code == 1 and json.loads(result.stdout)["n"] == 10 and "error: no page" in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_page_is_written_before_the_runs_with_noise(v2t, checkpoint, tmp_path, monkeypatch):
    command = ("eval", "--checkpoint", checkpoint, "--quality", "fast", "--device", "cpu", "--report", "r.html")
    monkeypatch.setattr("v2t_cli.pipelines.evaluate.decode_with_noise", lambda *arguments: (_ for _ in ()).throw(V2TError("stopped")))
    result = v2t(*command)
    assert result.exit_code == 1 and "error: stopped" in result.stderr and "r.html: written" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"] and "Not measured yet" in (tmp_path / "r.html").read_text()
    assert v2t(*command, "--no-noise").exit_code == 0 and "Not measured: " in (tmp_path / "r.html").read_text()


def test_a_pipe_gets_one_page(v2t, checkpoint, tmp_path, monkeypatch):
    """Its reader may leave after the first."""
    monkeypatch.setattr(measures, "NOISE_TEXTS", 2)
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)  # so that nobody waits for a reader
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 2**20)
    result = v2t("eval", "--checkpoint", checkpoint, "--quality", "fast", "--device", "cpu", "--report", "pipe")
    written = os.read(pipe, 2**20)
    os.close(pipe)
    assert result.exit_code == 0 and "pipe: complete" in result.stderr and "pipe: written" not in result.stderr
    assert written.count(b"</html>") == 1 and b"neighbours kept" in written


def test_a_page_that_cannot_be_written_fails_on_all_processes(checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    np.save(tmp_path / "v.npy", np.zeros((4, DIM), np.float32))
    common = ("--checkpoint", checkpoint, "--device", "cpu", "--report", "file/r.html")
    for command in (("eval",), ("decode", "v.npy", "-o", "o.jsonl", "--format", "jsonl")):
        done = launch(2, *command, *common, folder=tmp_path, fails=True)
        assert done.codes == [2, 2] and done.stderr.count("file/r.html: cannot be written") == 2


def test_redact_masks_what_eval_shows(v2t, checkpoint, tmp_path):
    (tmp_path / "t.txt").write_text("Иван пьёт 5 чаёв с Кириллом.\n", encoding="utf-8")
    command = ("eval", "--checkpoint", checkpoint, "--texts", "t.txt", "--quality", "fast", "--device", "cpu", "--no-noise")
    plain, masked = (v2t(*command, *more).stdout for more in ((), ("--redact", "--report", "r.html")))
    assert "Кириллом" in plain and "numbers, of 1" in plain and "numbers, of 1" in masked
    assert "Кириллом" not in masked + (tmp_path / "r.html").read_text(encoding="utf-8") and "[number 1]" in masked
    entities = json.loads(v2t(*command, "--json").stdout)["entities"]
    assert {it["kind"]: it["n"] for it in entities} == {"names": 1, "numbers": 1, "dates": 0, "phone numbers": 0, "addresses": 0}


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
def test_the_page_fits_a_phone(opened, evaluation, findings, vectors, tmp_path):
    """Nothing is wider than the screen, and no letter of a plot is cut off."""
    page = page_of(opened, evaluation, findings, vectors)
    measure = """frame => { const page = frame.contentDocument
      const out = [...page.querySelectorAll("svg")].some(svg => [...svg.querySelectorAll("text")].some(text => {
        const [a, b] = [svg.getBoundingClientRect(), text.getBoundingClientRect()]
        return b.left < a.left - 1 || b.right > a.right + 1 || b.top < a.top - 1 || b.bottom > a.bottom + 1 }))
      document.title = page.documentElement.scrollWidth + " " + out }"""
    frame = f'<iframe style="width:390px;height:4000px;border:0" srcdoc="{escape(page)}" onload="({escape(measure)})(this)"></iframe>'
    (tmp_path / "phone.html").write_text(f'<!DOCTYPE html><meta charset="utf-8">{frame}', encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run([*command, f"file://{tmp_path / 'phone.html'}"], capture_output=True, text=True, timeout=120, check=True)
    assert "<title>390 false</title>" in done.stdout, re.findall("<title>.*?</title>", done.stdout)[:1]


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(opened, evaluation, findings, vectors, tmp_path, scheme):
    from matplotlib.image import imread

    (tmp_path / "report.html").write_text(page_of(opened, evaluation, findings, vectors), encoding="utf-8")

    def browse(*options):
        preference = f"--blink-settings=preferredColorScheme={'0' if scheme == 'dark' else '1'}"
        common = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=900,3000", preference]
        command = [CHROMIUM, *common, f"--user-data-dir={tmp_path / 'profile'}", *options, f"file://{tmp_path / 'report.html'}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    dom = browse("--dump-dom")
    assert "What these vectors give away" in dom and len(re.findall("<svg", dom)) == 3
    browse(f"--screenshot={tmp_path / 'page.png'}")
    picture = imread(tmp_path / "page.png")[:, :, :3]
    background = picture[5, 5].mean()
    assert (background > 0.9) if scheme == "light" else (background < 0.2)
    assert (np.abs(picture - picture[5, 5]).max(axis=2) > 0.3).mean() > 0.02, "something is on the page"
