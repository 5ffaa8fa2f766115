#!/usr/bin/env bash
# Vectors to text in a few minutes on a CPU: first with the shipped checkpoint for English, examples/en-mini, then with your own,
# trained on the Russian sentences of examples/texts.txt. Uses embed, train, decode and eval.
# All output goes to quickstart/, the checkpoint to quickstart/checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m$ %s\033[0m\n' "$*" >&2; }
run() { say "$*"; "$@"; }

# original | reconstructed | cosine
compare() { tail -n +2 "$2" | cut -f 2,4 | paste "$1" - | sed 's/\t/  |  /g'; }

config=examples/quickstart.yaml
checkpoint=quickstart/checkpoint
mkdir -p quickstart

# 0. Embed sentences and decode their vectors, with a model that was trained for hours on one or two cores.
run v2t embed examples/english.txt -o quickstart/first.npy --checkpoint examples/en-mini
run v2t decode quickstart/first.npy --checkpoint examples/en-mini --quality best --format tsv -o quickstart/first.tsv
say "original | reconstructed | cosine (a cosine of 1.000: almost certainly exact)"
compare examples/english.txt quickstart/first.tsv

# 1. Train your own model: a small GPT that learns to read vectors.
run v2t train --config "$config" --overwrite

# 2. Embed sentences that it has not seen ...
head -n 20 "$checkpoint/held_out.txt" > quickstart/sentences.txt
tail -n 20 "$checkpoint/held_out.txt" >> quickstart/sentences.txt
run v2t embed quickstart/sentences.txt -o quickstart/vectors.npy --config "$config"

# 3. ... and decode their vectors.
run v2t decode quickstart/vectors.npy --checkpoint "$checkpoint" --format tsv -o quickstart/decoded.tsv

say "original | reconstructed | cosine (the first 20 were written by hand, the last 20 by the grammar of make_texts.py)"
compare quickstart/sentences.txt quickstart/decoded.tsv

# 4. Evaluate it on all held-out sentences.
run v2t eval --checkpoint "$checkpoint" --set eval.samples=0

say "try it yourself:"
echo "echo 'Мама купила хлеб.' | v2t embed - -o - --checkpoint $checkpoint | v2t decode - --checkpoint $checkpoint"
