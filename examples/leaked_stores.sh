#!/usr/bin/env bash
# Report on leaked vector stores without their texts: decode every store of a folder, write a page on each and an index of them.
#
#   examples/leaked_stores.sh STORES/ REPORT/
#   CHECKPOINT=my-inverter OPTIONS=--redact examples/leaked_stores.sh STORES/ REPORT/
#
# STORES/a.npy gives REPORT/a.jsonl (the decoded rows) and REPORT/a.report.html, STORES/b.parquet gives REPORT/b.parquet.jsonl and so on.
# Stores may be all that v2t decode reads, folders too; .txt files are passed over. REPORT/index.html links the pages, with the number of
# rows and of those reliably read; stdout has the same as a table. Results are kept unless the vectors are newer: after an interruption,
# run the same command again. QUALITY: fast, balanced (default) or best. OPTIONS: more options of v2t decode; --redact masks names and the
# like in the pages, not in the .jsonl. The exit code is 1 if a store could not be read.
set -euo pipefail
[ $# -eq 2 ] && [ -d "$1" ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
checkpoint=${CHECKPOINT:-$(dirname "$0")/en-mini}
quality=${QUALITY:-balanced}
failed=0 rows=
mkdir -p "$2"
asked="quality $quality, checkpoint $(cd "$checkpoint" 2> /dev/null && pwd || echo "$checkpoint")${OPTIONS:+, $OPTIONS}"
if { compgen -G "$2/*.jsonl" || compgen -G "$2/*.report.html"; } > /dev/null && [ -e "$2/made-with.txt" ] && [ "$(cat "$2/made-with.txt")" != "$asked" ]; then
  echo "error: $2: holds results of $(cat "$2/made-with.txt"); name another folder for those of $asked" >&2
  exit 2
fi
echo "$asked" > "$2/made-with.txt"

escaped() { sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g; s/"/\&quot;/g' <<< "$1"; }
# Whether a file, or something in a folder, is newer than another file.
newer() { [ -n "$(find "$1" -newer "$2" -print -quit)" ]; }
# A number that a page holds for programs.
number() { sed -n "s/^<meta name=\"$1\" content=\"\([0-9]*\)\">$/\1/p" "$2"; }

printf 'file\trows\treliably read\tshare\n'
for file in "$1"/*; do
  case $file in *.txt) continue ;; esac # texts, not vectors
  [ -e "$file" ] || continue # the folder is empty
  [ ! "$file" -ef "$2" ] || continue # the reports themselves
  name=$(basename "$file" .npy)
  [ "$1/$name" = "$file" ] || [ ! -e "$1/$name" ] || name=$name.npy # a store beside it has that name
  out=$2/$name.jsonl page=$2/$name.report.html
  if [ ! -e "$page" ] || newer "$file" "$page"; then
    if [ -e "$out" ] && newer "$file" "$out"; then rm -f "$out" "$page"; fi
    code=0
    # shellcheck disable=SC2086
    v2t decode "$file" --checkpoint "$checkpoint" --quality "$quality" --format jsonl -o "$out" --report "$page" \
      --resume --quiet ${OPTIONS:-} || code=$?
    [ "$code" -lt 128 ] || exit "$code" # stopped by Ctrl-C
    if [ "$code" -ne 0 ]; then
      failed=1
      printf '%s\t\t\tcould not be read\n' "$name"
      rows+="<tr><td>$(escaped "$name")</td><td></td><td></td><td>could not be read</td></tr>"$'\n'
      continue
    fi
  fi
  all=$(number rows "$page") sure=$(number reliably-read "$page")
  share=$(awk "BEGIN { if ($all) printf \"%.1f%%\", 100 * $sure / $all }")
  printf '%s\t%s\t%s\t%s\n' "$name" "$all" "$sure" "$share"
  link=$(sed 's/%/%25/g; s/#/%23/g; s/?/%3F/g' <<< "$name.report.html")
  rows+="<tr><td><a href=\"./$(escaped "$link")\">$(escaped "$name")</a></td><td>$all</td><td>$sure</td><td>$share</td></tr>"$'\n'
done

cat > "$2/index.html.new" << END
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What can be read from these stores</title>
<style>
:root { color-scheme: light dark }
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif }
table { width: 100%; border-collapse: collapse } th, td { text-align: left; padding: .4rem; border-bottom: 1px solid #8886 }
</style>
<h1>What can be read from these stores</h1>
<table>
<tr><th>store</th><th>rows</th><th>reliably read</th><th>share</th></tr>
$rows</table>
</html>
END
mv "$2/index.html.new" "$2/index.html"
exit "$failed"
