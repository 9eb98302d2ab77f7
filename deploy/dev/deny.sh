#!/usr/bin/env bash
# cargo-deny over licenses, bans and sources (deny.toml). Exit code 3: the tool cannot be had here.
#
# The tool is compiled once per machine, into the cache outside the clone, about 5 minutes on 2 cores. The advisories
# check needs a database from the network and is left to machines that have one: cargo deny check advisories
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
source deploy/build/progress.sh
version=0.20.2
cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}
deny="$cache/tools/bin/cargo-deny"
if command -v cargo-deny >/dev/null; then
  deny=cargo-deny
elif [ ! -x "$deny" ]; then
  mkdir -p "$cache/tools"
  if ! CARGO_TARGET_DIR="$cache/target-tools" progress "compiling cargo-deny (once per machine)" 300 0 - true \
    cargo install --locked --root "$cache/tools" --version "$version" cargo-deny; then
    echo "deny: cargo-deny cannot be had here; licenses, bans and sources are NOT checked" >&2
    exit 3
  fi
  rm -rf "$cache/target-tools"
fi
# The checks read crates of every platform; a build fetches those of its own alone.
cargo fetch --quiet --locked
"$deny" --offline --log-level error check --hide-inclusion-graph licenses bans sources
