#!/usr/bin/env bash
# Paraphrases: of each line of FILE (or of stdin) other texts whose vectors lie near its own, the nearest first.
#
#   echo 'Где ближайшая аптека?' | examples/paraphrase.sh
#   CHECKPOINT=my-inverter N=10 MIN=0.95 examples/paraphrase.sh texts.txt > paraphrases.tsv
#
# A line a paraphrase: the source, the paraphrase and the cosine of their vectors; at most N of each (5), of a cosine of at least
# MIN (0.85). Beams bring the likeliest texts, sampling more various ones; copies of the source and repetitions, also those that
# differ in case and punctuation alone, are left out. They are as good as the checkpoint: ru-mini is small, and makes up words.
set -euo pipefail
[ $# -eq 0 ] || [ "$1" = - ] || [ -f "$1" ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
checkpoint=${CHECKPOINT:-$(dirname "$0")/ru-mini}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

grep -v '^[[:space:]]*$' -- "${1:--}" > "$folder/texts.txt" || true # blank lines have none
v2t embed "$folder/texts.txt" -o "$folder/vecs.npy" --checkpoint "$checkpoint" --quiet
decode() { v2t decode "$folder/vecs.npy" --checkpoint "$checkpoint" --format jsonl --candidates 16 --quiet "$@"; }
decode --set decode.rounds=1 > "$folder/beams.jsonl"
decode --strategy sample --set decode.top_p=0.95 --set decode.rounds=0 > "$folder/drawn.jsonl"

python3 - "$folder" "${N:-5}" "${MIN:-0.85}" << 'PYTHON'
import json
import pathlib
import re
import sys

folder, count, least = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
words = lambda text: tuple(re.findall(r"\w+", text.lower()))
sources = (folder / "texts.txt").read_text(encoding="utf-8").split("\n")
found = [map(json.loads, open(folder / name, encoding="utf-8")) for name in ("beams.jsonl", "drawn.jsonl")]
for source, *rows in zip(sources, *found):
    seen, texts = {words(source), ()}, []
    for candidate in sorted((candidate for row in rows for candidate in row["candidates"]), key=lambda it: -it["cosine"]):
        if words(candidate["text"]) not in seen and candidate["cosine"] >= least:
            seen.add(words(candidate["text"]))
            texts.append(f"{source}\t{candidate['text']}\t{candidate['cosine']:.3f}")
    print(*texts[:count], sep="\n", end="\n" if texts else "")
PYTHON
