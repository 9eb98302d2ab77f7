#!/usr/bin/env bash
# All tests: Rust, lints, licenses, and the real SDKs against a real hub. The last line counts: `N passed, N failed`.
#
# Each step's output goes to the terminal as it comes; what a step counts is added up. A step without a count of its
# own (lints, licenses) counts as one. Nothing stops at the first failure: one run shows everything that is wrong.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"

deploy/dev/deps.sh tests || exit 1
source deploy/build/env.sh || exit 1
source deploy/build/progress.sh
# Of a clone that is built once, what makes the next build faster is ten gigabytes of disk for nothing.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

passed=0
failed=0
failures=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

say() { printf '\n== %s\n' "$*"; }
fail() { failures+=("$1"); }

# A step that passes or fails as a whole.
step() {
  local name=$1
  shift
  say "$name"
  if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fail "$name"; fi
}

# Adds up what cargo test, pytest, node:test and JUnit say of themselves: sum passed|failed
sum() {
  local node=${1%ed} junit=$1
  [ "$1" = failed ] || junit=successful
  grep -E "^test result: |^=* ?([0-9]+ failed, )?[0-9]+ passed|^=* ?[0-9]+ failed|^(ℹ|#) $node [0-9]+$|^\[ +[0-9]+ tests $junit" "$log" |
    sed -E "s/^(ℹ|#) $node ([0-9]+)$/\2 $1/; s/^\[ +([0-9]+) tests $junit.*/\1 $1/" | grep -oE "[0-9]+ $1" | awk '{ sum += $1 } END { print sum + 0 }'
}

# A step whose output counts its tests.
counted() {
  local name=$1 ok bad code
  shift
  say "$name"
  "$@" 2>&1 | tee "$log"
  code=${PIPESTATUS[0]}
  ok=$(sum passed)
  bad=$(sum failed)
  passed=$((passed + ok))
  failed=$((failed + bad))
  if [ "$code" != 0 ] || [ "$bad" != 0 ]; then
    fail "$name"
    # Something that broke before it could count, such as a crate that does not compile.
    [ "$bad" != 0 ] || failed=$((failed + 1))
  fi
}

step "words" deploy/dev/words.sh
step "formatting" cargo fmt --all --check
step "lints" cargo_progress "checking" 240 clippy --locked --workspace --all-targets -- -D warnings
say "the packages that deps.sh installs, on a bare Debian"
deploy/dev/bootstrap.sh deps
case $? in
  0) passed=$((passed + 1)) ;;
  3) echo "test: skipped: deps.sh was not tried on a bare Debian" ;;
  *) failed=$((failed + 1)); fail "the packages that deps.sh installs" ;;
esac
say "licenses, bans and sources"
deploy/dev/deny.sh
case $? in
  0) passed=$((passed + 1)) ;;
  3) echo "test: skipped: cargo-deny could not be installed" ;;
  *) failed=$((failed + 1)); fail "licenses, bans and sources" ;;
esac
say "the Helm chart"
tests/kubernetes/run.sh fast
case $? in
  0) passed=$((passed + 1)) ;;
  3) echo "test: skipped: helm could not be compiled" ;;
  *) failed=$((failed + 1)); fail "the Helm chart" ;;
esac
if step "compiling the Rust tests" cargo_progress "compiling" 480 test --locked --workspace --no-run; then
  # A test that hangs ends the step, not the run: its name is the last that the step prints.
  counted "Rust tests" timeout --kill-after=30 45m cargo test --locked --workspace --no-fail-fast
fi
if [ -x tests/sdk/run.sh ]; then
  counted "SDK tests" tests/sdk/run.sh
  # All of it takes eight minutes on three nodes: the whole of the smaller suite, and what has to do with several nodes.
  counted "SDK tests on three nodes" env HOLDFAST_NODES=3 tests/sdk/run.sh node
  counted "SDK tests on three nodes: credentials, a hub that is killed" env HOLDFAST_NODES=3 tests/sdk/run.sh python \
    test_credentials.py 'test_restart.py::test_acknowledged_messages_and_identities_survive[kill]'
fi

if [ ${#failures[@]} -gt 0 ]; then
  printf '\nfailed: %s\n' "${failures[@]}"
fi
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
