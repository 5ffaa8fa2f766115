#!/usr/bin/env bash
# Paraphrase each line of FILE (or stdin): list other texts with a similar vector, the closest first.
#
#   echo 'Где ближайшая аптека?' | examples/paraphrase.sh
#   CHECKPOINT=my-inverter N=10 MIN=0.95 examples/paraphrase.sh texts.txt > paraphrases.tsv
#
# Each output line holds the source, a paraphrase and their cosine: at most N (5) paraphrases per source, with a cosine of at least
# MIN (0.85). Beams give the most likely texts, sampling gives more varied ones. Copies of the source and duplicates are left out,
# even if case or punctuation differ. The quality depends on the checkpoint: ru-mini is small and makes up words.
set -euo pipefail
[ $# -eq 0 ] || [ "$1" = - ] || [ -f "$1" ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
checkpoint=${CHECKPOINT:-$(dirname "$0")/ru-mini}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

grep -v '^[[:space:]]*$' -- "${1:--}" > "$folder/texts.txt" || true # skip blank lines
v2t embed "$folder/texts.txt" -o "$folder/vecs.npy" --checkpoint "$checkpoint" --quiet
decode() { v2t decode "$folder/vecs.npy" --checkpoint "$checkpoint" --format jsonl --candidates 16 --quiet "$@"; }
decode --set decode.rounds=1 > "$folder/beams.jsonl"
decode --strategy sample --set decode.top_p=0.95 --set decode.feedback=0 --set decode.rounds=0 > "$folder/drawn.jsonl"

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
