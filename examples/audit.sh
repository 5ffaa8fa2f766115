#!/usr/bin/env bash
# Audit a folder of vector files: decode each file, count the certain rows, and report where the true texts are known.
#
#   examples/audit.sh VECTORS/ REPORT/
#   CHECKPOINT=my-inverter QUALITY=best EVAL='--redact --no-noise' examples/audit.sh VECTORS/ REPORT/
#
# VECTORS/a.npy gives REPORT/a.tsv. With VECTORS/a.txt beside it (one true text per line) it also gives REPORT/a.html. Results are
# kept unless the vectors are newer. After an interruption, run the same command again to continue (a.html.unfinished is made
# again: it lacks the runs with noise). EVAL: more options of v2t eval; --redact masks names and the like in the .html, not in the .tsv.
#
# stdout is a table with one line per file: its rows; rows that were reliably read (cosine >= 0.999: almost certainly exact); rows that
# came near, including the sure ones (cosine >= 0.9: near in meaning); rows whose text holds a digit or an @; and a note if the file
# or its texts could not be read, or if it was skipped because it is neither .npy nor the texts of one. The exit code is 1 if a file
# could not be read.
set -euo pipefail
[ $# -eq 2 ] && [ -d "$1" ] || { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
checkpoint=${CHECKPOINT:-$(dirname "$0")/en-mini}
quality=${QUALITY:-balanced}
failed=0
mkdir -p "$2"
asked="quality $quality, checkpoint $(cd "$checkpoint" 2> /dev/null && pwd || echo "$checkpoint")${EVAL:+, $EVAL}"
if [ -e "$2/made-with.txt" ] && [ "$(cat "$2/made-with.txt")" != "$asked" ]; then
  echo "error: $2: holds results of $(cat "$2/made-with.txt"); name another folder for those of $asked" >&2
  exit 2
fi
echo "$asked" > "$2/made-with.txt"

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
# Runs a command. If it fails, its last message becomes the note on the file, after what that means.
noting() {
  local code=0 means=$1
  shift
  "$@" 2> "$errors" || code=$?
  cat "$errors" >&2
  [ "$code" -lt 128 ] || exit "$code" # stopped by Ctrl-C
  [ "$code" -ne 0 ] || return 0
  note="$means: $(tail -n 1 "$errors" | sed 's/^error: //' | tr '\t' ' ')" failed=1
  return 1
}

printf 'file\trows\treliably read\tcame near\twith digits or @\tnote\n'
for file in "$1"/*; do
  [ -e "$file" ] || continue # the folder is empty
  name=$(basename "$file")
  if [ "${name%.txt}" != "$name" ] && [ -e "${file%.txt}.npy" ]; then
    continue # the texts of vectors
  elif [ "${name%.npy}" = "$name" ]; then
    printf '%s\t\t\t\t\tskipped: not a .npy file\n' "$name"
    continue
  fi
  name=${name%.npy}
  texts=$1/$name.txt out=$2/$name.tsv page=$2/$name.html note=
  if [ ! -e "$out" ] || [ "$file" -nt "$out" ]; then
    rm -f "$out" "$page"
    if ! noting "could not be read" v2t decode "$file" --checkpoint "$checkpoint" --quality "$quality" --format tsv -o "$out" --resume --quiet; then
      printf '%s\t\t\t\t\t%s\n' "$name" "$note"
      continue
    fi
  fi
  if [ -e "$texts" ] && { [ ! -e "$page" ] || [ "$texts" -nt "$page" ]; }; then
    # shellcheck disable=SC2086
    if noting "no report" v2t eval --checkpoint "$checkpoint" --texts "$texts" --vectors "$file" --quality "$quality" \
      --report "$page.unfinished" --quiet ${EVAL:-} > "$2/$name.scores.txt"; then
      mv "$page.unfinished" "$page"
    fi
  fi
  # Without the checkpoint's encoder there is no cosine.
  awk -F '\t' -v name="$name" -v note="$note" 'NR > 1 { rows++; judged += $4 != ""; sure += $4 >= .999; near += $4 >= .9
      risky += $2 ~ /[0-9@]/ }
    END { printf "%s\t%d\t%s\t%s\t%d\t%s\n", name, rows, judged ? sure + 0 : "?", judged ? near + 0 : "?", risky, note }' "$out"
done
exit "$failed"
