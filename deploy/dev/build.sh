#!/usr/bin/env bash
# Builds the release binary and leaves it at ${CARGO_TARGET_DIR:-target}/release/holdfast. V=1 shows what cargo says.
#
# Without CARGO_TARGET_DIR the compiling happens in the cache outside the clone (so that another clone on this machine
# need not start from nothing), and the binary is copied into the clone.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
wanted=${CARGO_TARGET_DIR:-target}

deploy/dev/deps.sh
source deploy/build/env.sh
source deploy/build/progress.sh
cargo_progress "compiling the hub" 200 build --release --locked -p holdfast
if [ "$CARGO_TARGET_DIR" != "$wanted" ]; then
  mkdir -p "$wanted/release"
  # Through a rename: the old binary may be running.
  cp "$CARGO_TARGET_DIR/release/holdfast" "$wanted/release/.holdfast.new"
  mv -f "$wanted/release/.holdfast.new" "$wanted/release/holdfast"
fi
echo "build: $wanted/release/holdfast" >&2
