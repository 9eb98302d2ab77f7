#!/usr/bin/env bash
# Fails when a tracked file uses a word or a pattern of deploy/dev/words.txt. Needs git alone.
#
# docs/glossary.md says which word has which meaning; this check keeps replaced words from coming back.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
list=deploy/dev/words.txt
found=0
while IFS=$'\t' read -r pattern instead paths; do
  case $pattern in '' | '#'*) continue ;; esac
  if [ -z "$instead" ] || [ -z "$paths" ]; then
    echo "words: $list: a line needs a pattern, a replacement and paths, separated by tabs: $pattern" >&2
    exit 2
  fi
  read -ra globs <<<"$paths"
  # Exit code 1 of git grep: no match. Anything above is an error, such as a pattern that does not parse.
  code=0
  hits=$(git grep -nIP -e "$pattern" -- "${globs[@]}" ":!$list") || code=$?
  if [ "$code" -gt 1 ]; then
    echo "words: git grep failed for: $pattern" >&2
    exit 2
  fi
  if [ -n "$hits" ]; then
    found=$((found + $(wc -l <<<"$hits")))
    printf '%s\n  use instead: %s\n' "$(cut -c1-160 <<<"$hits")" "$instead"
  fi
done <"$list"
if [ "$found" -gt 0 ]; then
  echo "words: $found lines use words of $list" >&2
  exit 1
fi
