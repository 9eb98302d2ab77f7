# Sourced by every script with a long step: one line that says how far the step is.
#
#   progress NAME SECONDS TOTAL UNIT COUNT COMMAND…   COUNT prints how many of TOTAL units are done; TOTAL 0: not counted
#   cargo_progress NAME SECONDS build|test|clippy …   the same for cargo: counts crates, and test programs with `test`
#
# SECONDS is how long the step takes on two cores when nothing is built yet (0: not said). COMMAND's output goes to a
# file, which is shown when COMMAND fails. On a terminal the line is rewritten every second; elsewhere it is printed every
# half minute. With V=1 there is no line: COMMAND's own output is shown.

_progress_time() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# Prints the line until the step ends. The command is in the foreground, so that Ctrl-C reaches it; this loop ends by
# itself when the script that started it is gone.
_progress_ticker() { # script-pid name seconds total unit count
  local script=$1 name=$2 seconds=$3 total=$4 unit=$5 count=$6 start=$SECONDS next=30 line elapsed
  while sleep 1 && kill -0 "$script" 2>/dev/null; do
    elapsed=$((SECONDS - start))
    [ -t 2 ] || [ "$elapsed" -ge "$next" ] || continue
    next=$((elapsed + 30))
    line="$name: "
    [ "$total" = 0 ] || line+="$("$count") of $total $unit, "
    line+=$(_progress_time "$elapsed")
    # An expectation that is exceeded is not repeated.
    [ "$elapsed" -ge "$seconds" ] || line+=" of about $(_progress_time "$seconds")"
    if [ -t 2 ]; then printf '\r\033[K%s' "$line" >&2; else printf '%s\n' "$line" >&2; fi
  done
}

progress() {
  local name=$1 seconds=$2 total=$3 unit=$4 count=$5 log ticker code=0 start=$SECONDS cores
  shift 5
  if [ "${V:-0}" != 0 ]; then
    if [ -z "${PROGRESS_LOG:-}" ]; then "$@" >&2; else "$@" 2>&1 | tee "$PROGRESS_LOG" >&2; fi
    return
  fi
  cores=$(nproc 2>/dev/null || echo 2)
  [ "$cores" -le 2 ] || seconds=$((seconds * 2 / cores))
  log=${PROGRESS_LOG:-$(mktemp)}
  _progress_ticker $$ "$name" "$seconds" "$total" "$unit" "$count" &
  ticker=$!
  "$@" >"$log" 2>&1 || code=$?
  kill "$ticker" 2>/dev/null
  wait "$ticker" 2>/dev/null || true
  if [ -t 2 ]; then printf '\r\033[K' >&2; fi
  if [ $code != 0 ]; then
    cat "$log" >&2
    echo "$name: failed after $(_progress_time $((SECONDS - start)))" >&2
  elif [ $((SECONDS - start)) -ge 5 ]; then
    echo "$name: done in $(_progress_time $((SECONDS - start)))" >&2
  fi
  [ -n "${PROGRESS_LOG:-}" ] || rm -f "$log"
  return $code
}

# Crates whose library or program is there, and test programs. cargo names each on its standard output.
_cargo_done() {
  local crates tests
  crates=$(sed -n '/"kind":\["custom-build"\]/d; s/^{"reason":"compiler-artifact","package_id":"\([^"]*\)".*/\1/p' "$_cargo_messages" |
    sort -u | wc -l)
  tests=$(grep -c '^{"reason":"compiler-artifact".*"test":true},"features"' "$_cargo_messages") || true
  echo $((crates + tests))
}

_cargo_with_messages() { cargo "$1" --message-format=json-render-diagnostics "${@:2}" >"$_cargo_messages"; }

cargo_progress() {
  local name=$1 seconds=$2 total unit=crates code=0 argument scope=()
  shift 2
  if [ "${V:-0}" != 0 ]; then
    cargo "$@" >&2
    return
  fi
  for argument in "$@"; do
    case $argument in --workspace | holdfast-* | holdfast | -p) scope+=("$argument") ;; esac
  done
  # The first call of cargo downloads what is missing; it is quiet about that.
  progress "downloading crates" 0 0 - true cargo fetch --quiet --locked --target "$(rustc -vV | sed -n 's/^host: //p')" || return
  case $* in
    build*) total=$(cargo tree --offline --locked --quiet "${scope[@]}" -e normal,build --prefix none | sed 's/ (\*)$//' | sort -u | wc -l) ;;
    *)
      total=$(cargo tree --offline --locked --quiet "${scope[@]}" -e normal,build,dev --prefix none | sed 's/ (\*)$//' | sort -u | wc -l)
      total=$((total + $(cargo metadata --offline --locked --quiet --no-deps --format-version 1 | grep -o '"test":true' | wc -l)))
      unit="crates and test programs"
      ;;
  esac
  _cargo_messages=$(mktemp)
  progress "$name" "$seconds" "$total" "$unit" _cargo_done _cargo_with_messages "$@" || code=$?
  rm -f "$_cargo_messages"
  return $code
}
