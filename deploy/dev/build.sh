#!/usr/bin/env bash
# Builds the hub: build.sh [release|quick]. It is left at ${CARGO_TARGET_DIR:-target}/PROFILE/holdfast. V=1 shows what cargo says.
#
#   release   optimised across crates, for production and benches
#   quick     compiled in half the time, for `make run`
#
# Without CARGO_TARGET_DIR the compiling happens in the cache outside the clone (so that another clone on this machine
# need not start from nothing), and the binary is copied into the clone.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
profile=${1:-release}
wanted=${CARGO_TARGET_DIR:-target}

deploy/dev/deps.sh
source deploy/build/env.sh
source deploy/build/progress.sh
case $profile in quick) seconds=150 ;; *) seconds=300 ;; esac
cargo_progress "compiling the hub" $seconds build --profile "$profile" --locked -p holdfast
if [ "$CARGO_TARGET_DIR" != "$wanted" ]; then
  mkdir -p "$wanted/$profile"
  # Through a rename: the old binary may be running.
  cp "$CARGO_TARGET_DIR/$profile/holdfast" "$wanted/$profile/.holdfast.new"
  mv -f "$wanted/$profile/.holdfast.new" "$wanted/$profile/holdfast"
fi
echo "build: $wanted/$profile/holdfast" >&2
