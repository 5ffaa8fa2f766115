"""What protects stored vectors, and what does not: store vectors in several ways, and read each with v2t.

For each way: the bytes of a vector, how many of a whole vector's ten nearest neighbours a search still finds, and what an attacker
gets back: exact texts and token F1, by the checkpoint as it is and, with --train-texts, after more training on vectors stored in the
same way. Against a secret rotation the attacker then knows 1,000 texts with their rotated vectors instead.

$ python examples/protections.py secret.txt                                             # the checkpoint as it is
$ python examples/protections.py secret.txt --train-texts train.txt.gz --minutes 10     # and trained further

stdout is a Markdown table. --folder keeps what was measured: after an interruption, run the same command again. It holds your texts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import faiss
import numpy as np
import torch

from v2t_cli import RequestError
from v2t_cli.core.config import Config, DecodeConfig
from v2t_cli.core.console import bar
from v2t_cli.core.device import has_fast_bfloat16
from v2t_cli.core.types import Form, Quality
from v2t_cli.decoding.search import fit, resolve_search
from v2t_cli.evaluation.audit import neighbours_kept
from v2t_cli.evaluation.evaluate import evaluate
from v2t_cli.io.texts import fingerprint, read_lines
from v2t_cli.models.checkpoint import Checkpoint, open_checkpoint
from v2t_cli.models.encoder import Encoder
from v2t_cli.models.forms import form_of, read_form
from v2t_cli.models.metadata import read_info

EXAMPLES = Path(__file__).parent
PAIRS = 1000  # that the attacker knows of a rotation
CODES = 64  # bytes of product quantisation
SEARCHED = 2000  # texts

Store = Callable[[np.ndarray], np.ndarray]


class Protection:
    """A way to store vectors. store: (rows, dim) float32 -> what lies in the store; whole: that as float32 (rows, dim) again.

    adapts: whether it is worth to train on such vectors. form: as `v2t decode --form` knows it.
    """

    def __init__(self, name: str, size: int, store: Store, whole: Store, adapts: bool = True, form: Form = "auto"):
        self.name, self.size, self.store, self.whole, self.adapts, self.form = name, size, store, whole, adapts, form


def protections(train: np.ndarray) -> list[Protection]:
    """train: vectors, float32 (rows, dim), that the owner of the store may fit a quantiser to."""
    dim, largest = train.shape[1], float(np.abs(train).max())
    if len(train) < 256:
        raise RequestError(f"{len(train)} texts are too few for product quantisation, which needs 256; --train-texts may have more")
    if dim % CODES:
        raise RequestError(f"vectors of {dim} numbers cannot be divided into {CODES} parts for product quantisation")
    quantiser = faiss.ProductQuantizer(dim, CODES, 8)
    quantiser.train(train)

    def noisy(length: float) -> Store:
        def add(vectors: np.ndarray) -> np.ndarray:
            noise = np.random.default_rng(len(vectors)).normal(size=vectors.shape)  # the same in every run
            noise *= np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
            return (vectors + length * noise).astype(np.float32)

        return add

    def signs(bits: np.ndarray) -> np.ndarray:
        return ((2.0 * np.unpackbits(bits, axis=1)[:, :dim] - 1) / dim**0.5).astype(np.float32)

    def same(stored: np.ndarray) -> np.ndarray:
        return stored.astype(np.float32)

    half = dim // 2
    return [
        Protection("float32, unprotected", 4 * dim, same, same, adapts=False),
        Protection("float16", 2 * dim, lambda rows: rows.astype(np.float16), same, adapts=False),
        Protection(
            "8-bit integers", dim, lambda rows: (rows * (127 / largest)).round().clip(-127, 127).astype(np.int8), same, adapts=False
        ),
        Protection(f"product quantisation, {CODES} bytes", CODES, lambda rows: quantiser.decode(quantiser.compute_codes(rows)), same),
        Protection("sign bits", -(-dim // 8), lambda rows: np.packbits(rows > 0, axis=1), signs),
        Protection(
            "the first half of the numbers",
            2 * dim,
            lambda rows: rows[:, :half],
            lambda rows: np.pad(rows, ((0, 0), (0, half))),
            form="cut",
        ),
        *(Protection(f"noise, {length} of the length", 4 * dim, noisy(length), same, adapts=length > 0.1) for length in (0.05, 0.2, 0.5)),
        Protection("noise as long as the vector", 4 * dim, noisy(1), same),
    ]


def v2t(*arguments: object) -> str:
    """stdout of a command. If it fails, this script ends with its exit code; its message is on stderr."""
    done = subprocess.run([sys.executable, "-m", "v2t_cli", *map(str, arguments)], stdout=subprocess.PIPE, encoding="utf-8")
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


class Attack:
    """Measures what an attacker reads, and keeps it in a folder.

    opened: the checkpoint as it is; texts: that are behind the vectors.
    """

    def __init__(self, folder: Path, opened: Checkpoint, texts: list[str], qualities: list[Quality]):
        self.folder, self.opened, self.texts, self.qualities = folder, opened, texts, qualities

    def restored(self, stored: np.ndarray, form: Form) -> tuple[np.ndarray, Encoder | None]:
        """Stored vectors as `v2t decode` restores them, float32 (rows, dim), and the encoder that compares texts with them."""
        read, restore = read_form(self.opened, stored, form_of(stored, self.opened.info, "the store", form))
        return np.concatenate([restore(stored[start : start + 4096]) for start in range(0, len(stored), 4096)]), read.encoder

    def scores(self, name: str, checkpoint: Checkpoint, vectors: np.ndarray, encoder: Encoder | None) -> dict[str, tuple[float, float]]:
        """Exact match and token F1 by quality, from 0 to 1, of the texts. vectors: float32 (rows, dim); name: of the files that keep it."""
        out = {}
        for quality in self.qualities:
            path = self.folder / f"{name}.{quality}.json"
            if not path.exists():
                search = fit(checkpoint, resolve_search(DecodeConfig(quality=quality)))  # with the words' whole vectors
                formed = replace(checkpoint, encoder=encoder)
                found = evaluate(formed, self.texts, vectors[: len(self.texts)], search, samples=0, track=bar).scores
                unfinished = path.with_suffix(".new")
                unfinished.write_text(json.dumps({"exact_match": found.exact_match, "token_f1": found.token_f1}), encoding="utf-8")
                unfinished.rename(path)
            kept = json.loads(path.read_text(encoding="utf-8"))
            out[quality] = kept["exact_match"], kept["token_f1"]
        return out


def check_folder(folder: Path, made_with: dict[str, object]) -> None:
    """Raises RequestError for results of something else: what is kept must belong together."""
    path, wanted = folder / "made-with.json", json.dumps(made_with)
    if path.exists() and path.read_text(encoding="utf-8") != wanted:
        raise RequestError(f"{folder}: holds results for other texts, checkpoints or trainings; name another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(wanted, encoding="utf-8")


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def embedded(checkpoint: Path, texts: list[str], folder: Path, name: str) -> np.ndarray:
    """Vectors of the texts by the checkpoint's encoder: float32 (rows, dim). The folder keeps them."""
    write_lines(folder / f"{name}.txt", texts)
    vectors = folder / f"{name}.npy"
    if not vectors.exists():
        v2t("embed", folder / f"{name}.txt", "-o", vectors, "--checkpoint", checkpoint, "--resume")
    return np.load(vectors)


def trained_on(checkpoint: Path, folder: Path, name: str, vectors: np.ndarray, minutes: float) -> Path:
    """The checkpoint after more training, on the vectors of folder/train.txt as they are stored."""
    np.save(folder / f"{name}.npy", vectors)
    settings = {
        "data.vectors": folder / f"{name}.npy",
        "encoder.model": "null",
        "decoder.model": checkpoint,
        "train.epochs": 100,
        "train.max_minutes": minutes,
        "train.optimizer": "muon",
        "train.batch_size": 192,
        "train.learning_rate": 3e-4,
        "train.adapter_learning_rate": 6e-4,
        "train.precision": "bf16" if has_fast_bfloat16(torch.device("cpu")) else "auto",
    }
    output = folder / name
    pairs = (f"{key}={value}" for key, value in settings.items())
    if not (folder / f"{name}.done").exists():
        sets = [option for pair in pairs for option in ("--set", pair)]
        v2t("train", "--texts", folder / "train.txt", *sets, "-o", output, "--resume")
        (folder / f"{name}.done").touch()
    return output


def aligned(checkpoint: Path, folder: Path, texts: list[str], vectors: np.ndarray) -> Path:
    """The checkpoint with a map from vectors that the attacker has of some texts."""
    write_lines(folder / "pairs.txt", texts)
    np.save(folder / "pairs.npy", vectors)
    settings = (f"data.vectors={folder / 'pairs.npy'}", f"decoder.model={checkpoint}", "adapter.align=true", "data.min_chars=0")
    sets = [option for pair in settings for option in ("--set", pair)]
    v2t("train", "--texts", folder / "pairs.txt", *sets, "-o", folder / "aligned", "--overwrite")
    return folder / "aligned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "texts",
        type=Path,
        help="texts that the checkpoint has not seen, one per line; not its held_out.txt, which teaches it to read bits and cut vectors; "
        "searches look through the first 2,000",
    )
    parser.add_argument("--checkpoint", type=Path, default=EXAMPLES / "en-mini", help="default: examples/en-mini")
    parser.add_argument("--folder", type=Path, default=Path("protections"), help="for what is measured (default: protections)")
    parser.add_argument("--decode", type=int, default=200, metavar="N", help="decode the first N texts (default: 200)")
    parser.add_argument("--quality", nargs="+", choices=("fast", "balanced", "best"), default=["fast", "balanced"])
    parser.add_argument("--train-texts", type=Path, metavar="FILE", help="texts like those of the training, also .gz; without: no training")
    parser.add_argument("--train-count", type=int, default=100_000, metavar="N", help="train on the first N (default: 100,000)")
    parser.add_argument("--minutes", type=float, default=10, help="minutes of training for each way to store (default: 10)")
    given = parser.parse_args()
    checkpoint, name = given.checkpoint, read_info(given.checkpoint).encoder_name

    texts = list(islice(read_lines(str(given.texts)), SEARCHED))
    known = list(islice(read_lines(str(given.train_texts)), given.train_count)) if given.train_texts else []
    kept = {"texts": fingerprint(texts).sha256, "train texts": fingerprint(known).sha256, "checkpoint": str(checkpoint.resolve())}
    check_folder(given.folder, kept | {"decode": given.decode, "minutes": given.minutes})
    vectors = embedded(checkpoint, texts, given.folder, "texts")
    train = embedded(checkpoint, known, given.folder, "train") if known else vectors
    opened = open_checkpoint(checkpoint, Config(), use="required")
    attack = Attack(given.folder, opened, texts[: given.decode], given.quality)

    print(
        "| stored as | bytes | neighbours found |",
        *(f"{it} |" for it in given.quality),
        *(f"{it}, trained further |" for it in given.quality),
    )
    print("|---|---|---|" + "---|" * 2 * len(given.quality))

    def show(name: str, size: int, kept: float | None, as_is: dict, adapted: dict | None) -> None:
        cells = [f"{exact:.1%}, {f1:.2f}" for exact, f1 in as_is.values()]
        cells += [f"{exact:.1%}, {f1:.2f}" for exact, f1 in adapted.values()] if adapted else [""] * len(given.quality)
        print(f"| {name} | {size:,} |", "" if kept is None else f"{kept:.0%}", "|", " | ".join(cells), "|", flush=True)

    for number, way in enumerate(protections(train)):
        stored = way.store(vectors)
        read, encoder = attack.restored(stored, way.form)
        as_is, adapted = attack.scores(f"stored-{number}", opened, read, encoder), None
        if known and way.adapts:
            folder = trained_on(
                checkpoint, given.folder, f"trained-{number}", attack.restored(way.store(train), way.form)[0], given.minutes
            )
            better = open_checkpoint(folder, Config(), encoder=name, use="required")
            adapted = attack.scores(f"read-{number}", better, read, encoder)
        show(way.name, way.size, neighbours_kept(vectors, way.whole(stored)), as_is, adapted)

    dim = vectors.shape[1]
    secret = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0].astype(np.float32)
    as_is, adapted = attack.scores("rotated", opened, vectors @ secret, opened.encoder), None
    if known:
        better = open_checkpoint(aligned(checkpoint, given.folder, known[:PAIRS], train[:PAIRS] @ secret), Config(), use="required")
        adapted = attack.scores("rotated-read", better, better.aligned(vectors @ secret), better.encoder)
    show("a secret rotation", 4 * dim, neighbours_kept(vectors, vectors @ secret @ secret.T), as_is, adapted)  # who knows it undoes it


if __name__ == "__main__":
    try:
        main()
    except (RequestError, OSError) as error:
        sys.exit(f"error: {error}")
