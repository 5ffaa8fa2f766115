"""The HTML report: the page, which a browser opens, and the option that writes it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny import SENTENCES

from v2t_cli.core.config import DecodeConfig
from v2t_cli.core.errors import V2TError
from v2t_cli.decoding.candidates import SureWord
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation import audit as measures
from v2t_cli.evaluation.audit import Findings, NoiseResult, audit, outcomes, recalls, trust
from v2t_cli.evaluation.evaluate import Sample, evaluate
from v2t_cli.evaluation.html_report import _marked, _percent, html_report, report_facts

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
EVIL = "<script>alert(1)</script> & \x1b[31mкрасный"
TEXTS = [*SENTENCES[:30], EVIL]
SEARCH = resolve_search(DecodeConfig(beams=2, rounds=0))


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(TEXTS)


@pytest.fixture(scope="module")
def evaluation(opened, vectors):
    return evaluate(opened, TEXTS, vectors, fit(opened, SEARCH))


@pytest.fixture(scope="module")
def findings(opened, evaluation, vectors):
    return audit(opened, evaluation, vectors, fit(opened, SEARCH))


def page_of(checkpoint, evaluation, findings, vectors) -> str:
    facts = report_facts(evaluation, vectors, checkpoint.folder, checkpoint.info, fit(checkpoint, SEARCH).max_new_tokens)
    return html_report(evaluation, findings, facts)


def test_percents_round_to_all_and_none_only_where_that_is_true():
    values = (0, 1e-9, 0.05, 0.5, 0.996, 0.99999, 1)
    assert [_percent(value) for value in values] == ["0%", "0.1%", "5.0%", "50%", "99.6%", "99.9%", "100%"]


def test_words_are_marked_by_how_sure_they_are():
    pair = Sample("", "Да, <b> нет!", 0.9, [SureWord("Да", 0.99), SureWord("b", 0.7), SureWord("нет", 0.3)])
    assert [part for part in _marked(pair) if part[0]] == [("Да", "sure"), (", <", ""), ("b", ""), ("> ", ""), ("нет", "unsure"), ("!", "")]
    assert "".join(part for part, _ in _marked(Sample("", "Что\n?", None))) == "Что ?"


class Checker(HTMLParser):
    """Checks that every element is closed, and collects what would be loaded from elsewhere."""

    VOID = {"meta", "br", "hr", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.outside = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [value for name, value in attributes if name in ("src", "href", "xlink:href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attributes):
        self.outside += [value for name, value in attributes if name in ("src", "href", "xlink:href") and not value.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


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
    page = page_of(loaded, evaluation, audit(loaded, evaluation, vectors, fit(loaded, SEARCH)), vectors)
    check_page(page)
    assert "Can an attacker tell" not in page


def test_kinds_without_words(opened, evaluation, vectors):
    none = NoiseResult(0.0, 1, 0.0, None, None)
    nothing = Findings(outcomes([Sample("да", "нет", 0.1)]), recalls([Sample("да 5", "да", 1.0)]), trust([]), [none], [], [], [])
    page = page_of(opened, evaluation, nothing, vectors)
    check_page(page)
    assert "<td>names</td><td>0</td><td>0</td><td>none there</td>" in page
    assert "<td>numbers</td><td>1</td><td>0</td><td>too few to say</td>" in page


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
