#!/usr/bin/env bash
# Paraphrases: of each line of FILE (or of stdin) other texts whose vectors lie near its own, the nearest first.
#
#   echo 'Где ближайшая аптека?' | examples/paraphrase.sh
#   CHECKPOINT=my-inverter N=10 examples/paraphrase.sh texts.txt > paraphrases.tsv
#
# A line a paraphrase: the source, the paraphrase and the cosine of their vectors. Beams bring the likeliest texts, sampling more
# various ones; copies of the source and repetitions, also those that differ in case and punctuation alone, are left out.
set -euo pipefail
checkpoint=${CHECKPOINT:-$(dirname "$0")/ru-mini}
count=${N:-5}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat -- "${1:--}" > "$folder/texts.txt"
v2t embed "$folder/texts.txt" -o "$folder/vecs.npy" --checkpoint "$checkpoint" --quiet
decode() { v2t decode "$folder/vecs.npy" --checkpoint "$checkpoint" --format jsonl --candidates 16 --quiet "$@"; }
decode --set decode.rounds=1 > "$folder/beams.jsonl"
decode --strategy sample --set decode.top_p=0.95 --set decode.rounds=0 > "$folder/drawn.jsonl"

python3 - "$folder" "$count" << 'PYTHON'
import json
import pathlib
import re
import sys

folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
words = lambda text: tuple(re.findall(r"\w+", text.lower()))
sources = (folder / "texts.txt").read_text(encoding="utf-8").split("\n")
found = [map(json.loads, open(folder / name, encoding="utf-8")) for name in ("beams.jsonl", "drawn.jsonl")]
for source, *rows in zip(sources, *found):
    candidates = [candidate for row in rows for candidate in row["candidates"]]
    seen = {words(source), ()}
    for best in sorted(candidates, key=lambda candidate: -(candidate["cosine"] or candidate["logprob"])):
        if words(best["text"]) not in seen and len(seen) < count + 2:
            seen.add(words(best["text"]))
            print(source, best["text"], "" if best["cosine"] is None else f"{best['cosine']:.3f}", sep="\t")
PYTHON
