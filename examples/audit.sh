#!/usr/bin/env bash
# Audit a folder of vector files: decode each, count what is certain, and write a report where the true texts are known.
#
#   examples/audit.sh VECTORS/ REPORT/
#   CHECKPOINT=my-inverter QUALITY=best examples/audit.sh VECTORS/ REPORT/
#
# VECTORS/a.npy gives REPORT/a.tsv; with VECTORS/a.txt beside it, one true text a line, also REPORT/a.html. What is there already
# is left alone, and what was interrupted goes on: run it again until it is done. The summary is a table on stdout.
set -euo pipefail
[ $# -eq 2 ] && [ -d "$1" ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
checkpoint=${CHECKPOINT:-$(dirname "$0")/ru-mini}
quality=${QUALITY:-balanced}
mkdir -p "$2"

printf 'file\trows\tsurely read\tlikely near\twith digits or @\n'
for vectors in "$1"/*.npy; do
  name=$(basename "$vectors" .npy)
  out=$2/$name.tsv
  [ -e "$out" ] || v2t decode "$vectors" --checkpoint "$checkpoint" --quality "$quality" --format tsv -o "$out" --resume --quiet
  if [ -e "$1/$name.txt" ] && [ ! -e "$2/$name.html" ]; then
    v2t eval --checkpoint "$checkpoint" --texts "$1/$name.txt" --vectors "$vectors" --quality "$quality" --report "$2/$name.html" --quiet > "$2/$name.scores.txt"
  fi
  # A cosine of 0.999 is almost surely the text itself, one of 0.9 is near in meaning; QUALITY=fast knows no cosine.
  awk -F '\t' -v name="$name" 'NR > 1 { rows++; judged += $4 != ""; sure += $4 >= .999; near += $4 >= .9; risky += $2 ~ /[0-9@]/ }
    END { printf "%s\t%d\t%s\t%s\t%d\n", name, rows, judged ? sure + 0 : "?", judged ? near + 0 : "?", risky }' "$out"
done
