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
from v2t_cli.core.processes import launched
from v2t_cli.core.types import Form
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.audit import audit, decode_with_noise
from v2t_cli.evaluation.baseline import nearest_texts
from v2t_cli.evaluation.evaluate import Evaluation, evaluate
from v2t_cli.evaluation.html_report import html_report, report_facts
from v2t_cli.evaluation.redaction import Redactor
from v2t_cli.io.atomic import refuse_input, replacing
from v2t_cli.io.stores.batch import UNNAMED, Columns
from v2t_cli.io.texts import read_lines
from v2t_cli.io.vectors import open_vectors
from v2t_cli.models.checkpoint import Checkpoint, open_checkpoint
from v2t_cli.models.encoder import embed_all
from v2t_cli.models.forms import LEARNED, divided, read_form
from v2t_cli.models.metadata import HELD_OUT, read_info
from v2t_cli.models.origin import choose_checkpoint


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
    columns: Columns = UNNAMED,
) -> None:
    """Measure how much of the texts comes back from their vectors.

    show: called with the scores, on the main process, before the report is made. texts: one per line; None: those that the
    training held out. vectors: .npy or store, row i for line i; None: embedded. columns: those of a store; its texts take the place
    of `texts`. train_texts: for the baseline of copying. encoder: the one that the user named. report: the HTML page to write. noise:
    decode again with noise, for the page; a file is written before, and again at the end. redact: mask names, numbers and the like in all
    texts that are shown.

    Raises RequestError for files, checkpoints, encoders and settings that do not fit together.
    """
    for output in ("-", str(report)) if report else ("-",):  # the scores go to stdout
        refuse_input(output, texts or str(checkpoint / HELD_OUT), vectors, train_texts)
    wanted, track = resolve_search(config.decode), console.progress_bar  # refuses wrong settings before anything is loaded
    if read_info(checkpoint).alignment and not vectors:
        raise RequestError(f"{checkpoint}: reads the vectors of an encoder that it does not have; --vectors names those of the texts")
    with ExitStack() as stack:
        processes, device = stack.enter_context(launched(config.device))
        writing = stack.enter_context(ExitStack())
        # Fails now, on all processes, if it cannot be written.
        page = processes.on_all(lambda: writing.enter_context(replacing(report)) if report and processes.is_main else None)
        opened = open_checkpoint(checkpoint, config, device, encoder, "optional" if vectors else "required")
        search = fit(opened, wanted, config.data.cache, track)
        if vectors:
            opened, lines, rows = _stored(opened, texts, vectors, columns, config.decode.form)
        else:
            assert opened.encoder is not None  # it was required
            lines = list(read_lines(texts)) if texts else opened.held_out()
            rows = embed_all(opened.encoder, lines, processes)
        known = None if train_texts is None else list(read_lines(train_texts))
        nearest = nearest_texts(opened, known, lines, rows, track, processes) if known is not None and lines else None
        result = replace(evaluate(opened, lines, rows, search, config.eval.samples, config.seed, track, processes), nearest=nearest)
        if known is None:
            console.log.info("no baseline; --train-texts FILE adds one that copies the nearest training text")
        redactor, broken = Redactor(opened.lexicon) if redact else None, None
        if processes.is_main:
            try:
                show(redactor.evaluation(result) if redactor else result)
            except BrokenPipeError as error:  # the reader left early (`| head -1`), but the report is still wanted
                broken = error
        if report and page:
            findings = audit(result, set(known or []) - set(lines))
            findings = redactor.findings(findings) if redactor else findings
            facts = report_facts(result, rows, opened.folder, opened.info, search.max_new_tokens, redact)
            if noise and (report.is_file() or not report.exists()):  # not to a pipe, whose reader would get two pages
                page.write(html_report(result, findings, facts, noise, redact).encode())
                writing.close()
                console.log.info(f"{report}: written; what noise does is added at the end (--no-noise leaves it out)")
                page = writing.enter_context(replacing(report))
            if noise:
                findings = replace(findings, noise=decode_with_noise(opened, result.pairs, rows, search, config.seed, track))
            page.write(html_report(result, findings, facts, redacted=redact).encode())
            writing.close()
            console.log.info(f"{report}: {'complete' if noise else 'written'}")
        if broken:
            raise broken


def _stored(checkpoint: Checkpoint, texts: str | None, path: str, columns: Columns, form: Form) -> tuple[Checkpoint, list[str], np.ndarray]:
    """The checkpoint for the form of a store, the texts, of their file or of the store, and their vectors: float32 (len(texts), dim)."""
    with open_vectors(path, columns, console.progress_bar) as reader:
        lines = reader.texts.read(0, reader.rows) if reader.texts is not None else list(read_lines(texts)) if texts else []
        if reader.rows != len(lines):
            raise RequestError(f"{path}: {reader.rows} vectors for {len(lines)} texts; row i must belong to line i")
        _, _, stored = choose_checkpoint([checkpoint.folder], reader.array, path, form)
        given = reader.read()  # checks the values
        opened, restore = read_form(checkpoint, reader.array, stored)
        if stored in LEARNED and set(lines) & set(divided(checkpoint.held_out())[0]):
            console.log.warning(f"some of these texts taught how to read form {stored}, so the scores are too high: use texts of your own")
        return opened, lines, restore(given)
