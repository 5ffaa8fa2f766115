#!/usr/bin/env bash
# Audit a folder of vector files: decode each file, count the certain rows, and report where the true texts are known.
#
#   examples/audit.sh VECTORS/ REPORT/
#   CHECKPOINT=my-inverter QUALITY=best examples/audit.sh VECTORS/ REPORT/
#
# VECTORS/a.npy gives REPORT/a.tsv. With VECTORS/a.txt beside it (one true text per line) it also gives REPORT/a.html. Results are
# kept unless the vectors are newer. After an interruption, run the same command again to continue.
#
# stdout is a table with one line per file: its rows; rows that were surely read (cosine >= 0.999: almost surely exact); rows that
# came near, including the sure ones (cosine >= 0.9: near in meaning); rows whose text holds a digit or an @.
set -euo pipefail
[ $# -eq 2 ] && [ -d "$1" ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
checkpoint=${CHECKPOINT:-$(dirname "$0")/ru-mini}
quality=${QUALITY:-balanced}
failed=0
mkdir -p "$2"
asked="quality $quality, checkpoint $(cd "$checkpoint" 2> /dev/null && pwd || echo "$checkpoint")"
if [ -e "$2/made-with.txt" ] && [ "$(cat "$2/made-with.txt")" != "$asked" ]; then
  echo "error: $2: holds results of $(cat "$2/made-with.txt"); name another folder for those of $asked" >&2
  exit 2
fi
echo "$asked" > "$2/made-with.txt"

printf 'file\trows\tsurely read\tcame near\twith digits or @\n'
for vectors in "$1"/*.npy; do
  name=$(basename "$vectors" .npy)
  texts=$1/$name.txt out=$2/$name.tsv page=$2/$name.html
  if [ ! -e "$out" ] || [ "$vectors" -nt "$out" ]; then
    rm -f "$out" "$page"
    if ! v2t decode "$vectors" --checkpoint "$checkpoint" --quality "$quality" --format tsv -o "$out" --resume --quiet; then
      failed=1 # decode has printed the error; continue with the other files
      continue
    fi
  fi
  if [ -e "$texts" ] && { [ ! -e "$page" ] || [ "$texts" -nt "$page" ]; }; then
    v2t eval --checkpoint "$checkpoint" --texts "$texts" --vectors "$vectors" --quality "$quality" --report "$page" --quiet \
      > "$2/$name.scores.txt" || failed=1
  fi
  # QUALITY=fast gives no cosine.
  awk -F '\t' -v name="$name" 'NR > 1 { rows++; judged += $4 != ""; sure += $4 >= .999; near += $4 >= .9; risky += $2 ~ /[0-9@]/ }
    END { printf "%s\t%d\t%s\t%s\t%d\n", name, rows, judged ? sure + 0 : "?", judged ? near + 0 : "?", risky }' "$out"
done
exit "$failed"
