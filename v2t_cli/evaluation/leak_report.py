"""The report on a leaked store: one HTML page on decoded rows whose true texts nobody has. Its prose is in leak_report.html.jinja."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from v2t_cli.decoding.search import FittedSearch
from v2t_cli.evaluation import redaction
from v2t_cli.evaluation.evaluate import strategy_of
from v2t_cli.evaluation.leak import SURE, Leak
from v2t_cli.evaluation.page import SURE as SURE_WORD
from v2t_cli.evaluation.page import UNSURE as UNSURE_WORD
from v2t_cli.evaluation.page import checkpoint_facts, render, search_fact, versions_fact
from v2t_cli.models.metadata import CheckpointInfo

COLOURS = ("exactly", "nearly", "meaning", "not")  # classes of the page's style, of the bands


def leak_report(leak: Leak, facts: Mapping[str, str], redacted: bool = False, aligned: bool = False) -> str:
    """The page as HTML. Its <meta> elements `rows` and `reliably-read` hold these numbers for programs.

    facts: the table "How this was measured", see leak_facts; redacted: whether the examples are masked; aligned: whether
    the rows are vectors of another encoder than the checkpoint's.
    """
    limits = {"sure": SURE, "rarely": redaction.RARE, "sure_word": SURE_WORD, "unsure_word": UNSURE_WORD}
    given = {"leak": leak, "facts": facts, "redacted": redacted, "aligned": aligned}
    return render("leak_report.html.jinja", **given, colours=COLOURS, limits=limits)


def leak_facts(
    leak: Leak, vectors: str, digest: str, folder: Path, info: CheckpointInfo, search: FittedSearch, redacted: bool = False
) -> dict[str, str]:
    """What the page depends on, by name.

    vectors: what the user calls them; digest: a hash of their values; folder and info: of the checkpoint; redacted: without paths, and
    without the digest, against which guesses of the texts can be checked.
    """
    measured = leak.calibration
    return {
        **checkpoint_facts(folder, info, redacted),
        "search": search_fact(search.quality, strategy_of(search), search.max_new_tokens),
        "confidence": f"measured on {measured.texts:,} held-out texts, of which {measured.right:,} came back word for word",
        "vectors": f"{leak.rows:,} rows" if redacted else f"{vectors}: {leak.rows:,} rows, digest {digest[:16]}…",
        "versions": versions_fact(),
    }
