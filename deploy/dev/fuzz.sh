#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS each, one after the other, and fails when one finds something.
#
# cargo-fuzz wants a nightly compiler for its sanitizer flags; RUSTC_BOOTSTRAP=1 lets the pinned stable one take them.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
deploy/dev/deps.sh fuzz
source deploy/build/progress.sh
source deploy/build/env.sh
seconds=${FUZZ_SECONDS:-600}
cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}
export PATH="$cache/tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
  CARGO_TARGET_DIR="$cache/target-tools" progress "compiling cargo-fuzz (once per machine)" 120 0 - true \
    cargo install --locked --root "$cache/tools" cargo-fuzz
fi
export RUSTC_BOOTSTRAP=1
failed=()
for manifest in crates/*/fuzz/Cargo.toml; do
  fuzz=$(dirname "$manifest")
  # The target is outside the clone, as everything that is compiled.
  export CARGO_TARGET_DIR="$cache/target-fuzz/$(basename "$(dirname "$fuzz")")"
  # A target that runs a whole hub says which crates count as covered.
  unset RUSTC_WRAPPER
  unset ASAN_OPTIONS
  if [ -x "$fuzz/instrument" ]; then
    export RUSTC_WRAPPER=$PWD/$fuzz/instrument
    # The hub outlives its input and the fuzzer. An empty `BytesMut` points behind its allocation, which then counts as leaked.
    export ASAN_OPTIONS=detect_leaks=0
  fi
  for target in $(cargo fuzz list --fuzz-dir "$fuzz"); do
    echo "== $fuzz: $target, $seconds s"
    cargo fuzz run --fuzz-dir "$fuzz" "$target" -- -max_total_time="$seconds" -print_final_stats=1 -verbosity=0 ||
      failed+=("$fuzz: $target")
  done
done
if [ ${#failed[@]} -gt 0 ]; then
  printf 'fuzz: findings in %s\n' "${failed[@]}"
  exit 1
fi
echo "fuzz: no findings"
