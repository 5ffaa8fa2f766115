"""The audit report: what is measured, and the page, which a browser opens."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from conftest import SENTENCES

from v2t_cli.core.config import DecodeConfig, EncoderConfig
from v2t_cli.core.errors import V2TError
from v2t_cli.decoding.search import resolve_search
from v2t_cli.evaluation import audit as measures
from v2t_cli.evaluation.audit import Disturbed, Findings, audit, neighbours_kept, recalls, shares, trust
from v2t_cli.evaluation.evaluate import Sample, evaluate
from v2t_cli.evaluation.metrics import wilson_interval
from v2t_cli.evaluation.page import _percent, audit_page
from v2t_cli.models.checkpoint import load_checkpoint
from v2t_cli.models.encoder import open_encoder

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
EVIL = "<script>alert(1)</script> & \x1b[31mкрасный"

PAIRS = [
    Sample("Анна купила 3 яблока.", "Анна купила 3 яблока.", 1.0),
    Sample("Вчера Пётр уехал в Москву.", "вчера Пётр уехал в Москву", 0.97),
    Sample("Он пьёт чай. Она пьёт кофе.", "Они пьют напитки", 0.92),
    Sample("The train leaves at 10:45.", "Кот спит.", 0.1),
]


def test_each_text_counts_once():
    found = {share.how: (share.count, share.share) for share in shares(PAIRS)}
    assert found == {"exactly": (1, 0.25), "nearly": (1, 0.25), "in meaning": (1, 0.25), "not": (1, 0.25)}
    blind = [Sample(pair.source, pair.text, None) for pair in PAIRS]
    assert {share.how: share.count for share in shares(blind)} == {"exactly": 1, "nearly": 1, "in meaning": 0, "not": 2}


def test_texts_without_words_are_not_nearly_the_same():
    found = {share.how: share.count for share in shares([Sample("???", "!!!", 0.2), Sample("😀", "", 0.95)])}
    assert found == {"exactly": 0, "nearly": 0, "in meaning": 1, "not": 1}


def test_a_share_of_nothing_is_not_sure_to_be_nothing():
    """Beside the interval of Wilson 1927 as others compute it (R's prop.test without its correction)."""
    low, high = wilson_interval(0, 30)
    assert low == 0 and high == pytest.approx(0.1135, abs=1e-4)
    assert wilson_interval(30, 30) == pytest.approx((1 - high, 1)) and wilson_interval(15, 30) == pytest.approx((0.3315, 0.6685), abs=1e-4)


def test_percents_round_to_all_and_nothing_only_where_that_is_true():
    assert [_percent(share) for share in (0, 1e-9, 0.05, 0.5, 0.996, 0.99999, 1)] == ["0%", "0.1%", "5.0%", "50%", "99.6%", "99.9%", "100%"]


def test_recall_by_kind():
    found = {recall.kind: (recall.recovered, recall.words) for recall in recalls(PAIRS)}
    assert found["numbers"] == (1, 3), "3, 10 and 45"
    assert found["names"] == (2, 2), "Пётр and Москву; what begins a sentence is capital for that"
    assert found["all words"] == (4 + 5, 4 + 5 + 6 + 6)
    known = {recall.kind: recall.words for recall in recalls(PAIRS, known=["в москву в москву в москву"])}
    assert known["rare words"] == found["rare words"][1] - 2, "what training texts hold is not rare"


def test_an_occurrence_is_recovered_once():
    (words, *_) = recalls([Sample("да да да", "да", 0.5)])
    assert (words.recovered, words.words) == (1, 3)


def test_trust_counts_rows_from_a_cosine_on():
    found = {it.cosine: (it.exact, it.rows) for it in trust(PAIRS)}
    assert found == {0.999: (1, 1), 0.99: (1, 1), 0.95: (1, 2), 0.9: (1, 3), 0.8: (1, 3)}


@pytest.fixture(scope="module")
def audited(checkpoint, labse):
    loaded = load_checkpoint(checkpoint, torch.device("cpu"))
    encoder = open_encoder(EncoderConfig(model=str(labse)), "cpu")
    texts = [*SENTENCES[:30], EVIL]
    vectors, search = encoder.encode(texts), resolve_search(DecodeConfig(beams=2, rounds=0))
    evaluation = evaluate(loaded, texts, vectors, search, encoder)
    return loaded, evaluation, vectors, search, encoder


def test_noise_costs_something(audited):
    loaded, evaluation, vectors, search, encoder = audited
    findings = audit(loaded, evaluation, vectors, search, encoder)
    first, *_, last = findings.noise
    assert first.noise == 0 and first.exact_match == pytest.approx(evaluation.scores.exact_match) and first.texts == 31
    assert last.exact_match < first.exact_match and last.cosine < first.cosine and last.neighbours < first.neighbours == 1
    assert [pair.cosine for pair in findings.worst] == sorted(pair.cosine for pair in findings.worst)
    assert findings.best[0].cosine >= findings.median[0].cosine >= findings.worst[0].cosine


def test_neighbours_that_noise_leaves():
    vectors = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    assert neighbours_kept(vectors, 0.0, 1) == 1 and neighbours_kept(vectors[:1], 0.0, 1) is None
    found = [neighbours_kept(vectors, noise, 1) for noise in (0.3, 3.0, 1e6)]
    assert found[0] > found[1] > found[2] == pytest.approx(10 / 39, abs=0.08), "in the end the ten are any ten of the 39 others"


class Checker(HTMLParser):
    """Every element that is opened is closed, but for those that cannot be, and nothing comes from elsewhere."""

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


def test_the_page(audited):
    loaded, evaluation, vectors, search, encoder = audited
    page = audit_page(loaded, evaluation, audit(loaded, evaluation, vectors, search, encoder), vectors, search)
    check_page(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in page
    for words in ("of 31 texts can be read", "Does the reader know what is right?", "Does noise protect?", "SHA-256", str(loaded.folder)):
        assert words in page


def test_the_page_without_an_encoder(audited):
    loaded, _, vectors, search, _ = audited
    evaluation = evaluate(loaded, [*SENTENCES[:30], EVIL], vectors, search, None)
    page = audit_page(loaded, evaluation, audit(loaded, evaluation, vectors, search, None), vectors, search)
    check_page(page)
    assert "Does the reader know" not in page


def test_kinds_of_which_there_are_none(audited):
    loaded, evaluation, vectors, search, _ = audited
    nothing = Findings(shares(PAIRS), recalls([Sample("да 5", "да", 1.0)]), trust([]), [Disturbed(0.0, 1, 0.0, None, None)], [], [], [])
    page = audit_page(loaded, evaluation, nothing, vectors, search)
    assert "<td>names</td><td>0</td><td>0</td><td>none there</td>" in page
    assert "<td>numbers</td><td>1</td><td>0</td><td>too few to say</td>" in page


def test_the_option(v2t, checkpoint, texts_file, tmp_path, monkeypatch):
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


def test_scores_are_there_although_the_report_fails(v2t, checkpoint, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr("v2t_cli.evaluation.audit.audit", lambda *arguments: (_ for _ in ()).throw(V2TError("no page")))
    command = ("eval", "--checkpoint", checkpoint, "--texts", texts_file, "--quality", "fast", "--device", "cpu", "--json")
    result = v2t(*command, "--report", "r.html")
    assert result.exit_code == 1 and json.loads(result.stdout)["n"] == 100 and "error: no page" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(audited, tmp_path, scheme):
    from matplotlib.image import imread

    loaded, evaluation, vectors, search, encoder = audited
    findings = audit(loaded, evaluation, vectors, search, encoder)
    (tmp_path / "report.html").write_text(audit_page(loaded, evaluation, findings, vectors, search), encoding="utf-8")

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
    assert (np.abs(picture - picture[5, 5]).max(axis=2) > 0.3).mean() > 0.02, "something is written there"
