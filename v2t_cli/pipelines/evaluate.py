"""`v2t eval`: a checkpoint and a file of texts to scores, and to an HTML report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from v2t_cli.core import console
from v2t_cli.core.config import Config
from v2t_cli.core.errors import RequestError
from v2t_cli.core.processes import Processes, launched
from v2t_cli.decoding.decode import check_width
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.audit import audit, decode_with_noise
from v2t_cli.evaluation.baseline import nearest_texts
from v2t_cli.evaluation.evaluate import Evaluation, evaluate
from v2t_cli.evaluation.html_report import html_report, report_facts
from v2t_cli.evaluation.redaction import Redactor
from v2t_cli.io.atomic import refuse_input, replacing
from v2t_cli.io.texts import read_lines
from v2t_cli.io.vectors import load_vectors
from v2t_cli.models.checkpoint import Checkpoint, open_checkpoint
from v2t_cli.models.encoder import embed_all
from v2t_cli.models.metadata import HELD_OUT, read_info


def evaluate_files(
    checkpoint: Path,
    config: Config,
    show: Callable[[Evaluation], None],
    texts: str | None = None,
    vectors: str | None = None,
    train_texts: str | None = None,
    encoder: str | None = None,
    report: Path | None = None,
    noise: bool = True,
    redact: bool = False,
) -> None:
    """Measure how much of the texts comes back from their vectors.

    show: called with the scores, on the main process, before the report is made. texts: one per line; None: those that the
    training held out. vectors: .npy, row i for line i; None: embedded. train_texts: for the baseline of copying. encoder: the
    one that the user named. report: the HTML page to write. noise: decode again with noise, for the page; it is written before, and
    again at the end. redact: mask names, numbers and the like in all texts that are shown.

    Raises RequestError for files, checkpoints, encoders and settings that do not fit together.
    """
    for output in ("-", str(report)) if report else ("-",):  # the scores go to stdout
        refuse_input(output, texts or str(checkpoint / HELD_OUT), vectors, train_texts)
    wanted, track = resolve_search(config.decode), console.progress_bar  # refuses wrong settings before anything is loaded
    if read_info(checkpoint).alignment and not vectors:
        raise RequestError(f"{checkpoint}: reads the vectors of an encoder that it does not have; --vectors names those of the texts")
    with ExitStack() as stack:
        processes, device = stack.enter_context(launched(config.device))
        first = stack.enter_context(ExitStack())
        page = first.enter_context(replacing(report)) if report and processes.is_main else None  # fails now if it cannot be written
        opened = open_checkpoint(checkpoint, config, device, encoder, "optional" if vectors else "required")
        search = fit(opened, wanted, config.data.cache, track)
        lines = list(read_lines(texts)) if texts else opened.held_out()
        rows = _vectors(opened, lines, vectors, processes)
        known = None if train_texts is None else list(read_lines(train_texts))
        nearest = nearest_texts(opened, known, lines, rows, track, processes) if known is not None and lines else None
        result = replace(evaluate(opened, lines, rows, search, config.eval.samples, config.seed, track, processes), nearest=nearest)
        if known is None:
            console.log.info("no baseline; --train-texts FILE adds one that copies the nearest training text")
        redactor = Redactor(opened.lexicon) if redact else None
        if processes.is_main:
            show(redactor.evaluation(result) if redactor else result)
        if report and page:
            findings = audit(result, set(known or []) - set(lines))
            findings = redactor.findings(findings) if redactor else findings
            facts = report_facts(result, rows, opened.folder, opened.info, search.max_new_tokens, redact)
            page.write(html_report(result, findings, facts, noise, redact).encode())
            first.close()
            console.log.info(f"{report}: written" + ("; what noise does is added at the end (--no-noise leaves it out)" if noise else ""))
            if noise:
                findings = replace(findings, noise=decode_with_noise(opened, result.pairs, rows, search, config.seed, track))
                with replacing(report) as again:
                    again.write(html_report(result, findings, facts, redacted=redact).encode())
                console.log.info(f"{report}: complete")


def _vectors(checkpoint: Checkpoint, lines: list[str], path: str | None, processes: Processes) -> np.ndarray:
    """Of the texts: float32 (len(lines), dim), read or embedded."""
    if path is None:
        assert checkpoint.encoder is not None  # it was required
        return embed_all(checkpoint.encoder, lines, processes)
    rows = load_vectors(path)
    if len(rows) != len(lines):
        raise RequestError(f"{path}: {len(rows)} vectors for {len(lines)} texts; row i must belong to line i")
    check_width(checkpoint.info, rows.shape[1], path)
    return checkpoint.aligned(rows)
