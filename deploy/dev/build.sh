#!/usr/bin/env bash
# Builds the release binary and leaves it at ${CARGO_TARGET_DIR:-target}/release/holdfast.
#
# Without CARGO_TARGET_DIR the compiling happens in the cache outside the clone (so that another clone on this machine
# need not start from nothing), and the binary is copied into the clone.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
wanted=${CARGO_TARGET_DIR:-target}

deploy/dev/deps.sh
cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}
if ! compgen -G "$cache/rocksdb-*/librocksdb.a" >/dev/null; then
  echo "build: the first build on this machine takes about 20 minutes on 2 cores: RocksDB 15, the rest 5" >&2
elif [ ! -x "$wanted/release/holdfast" ]; then
  echo "build: building the hub takes about 5 minutes on 2 cores" >&2
fi
source deploy/build/env.sh
cargo build --release --locked -p holdfast
if [ "$CARGO_TARGET_DIR" != "$wanted" ]; then
  mkdir -p "$wanted/release"
  # Through a rename: the old binary may be running.
  cp "$CARGO_TARGET_DIR/release/holdfast" "$wanted/release/.holdfast.new"
  mv -f "$wanted/release/.holdfast.new" "$wanted/release/holdfast"
fi
echo "build: $wanted/release/holdfast" >&2
