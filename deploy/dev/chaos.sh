#!/usr/bin/env bash
# The long form of the chaos run: three nodes and a spare one, CHAOS_FAULTS faults (default 200), a report at the end.
#
# CHAOS_SEED draws the same faults again; CHAOS_FOLDER says where logs and reports are kept; more arguments go to the
# program (`--help` lists them). Faults of the network need root; without it they are skipped, and the report says so.
# The exit code is 0 when every promise was kept, 1 when one was broken, 2 when the run could not be done.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
deploy/dev/deps.sh chaos
source deploy/build/env.sh
if [ -z "${HOLDFAST_BIN:-}" ]; then
  deploy/dev/build.sh
  HOLDFAST_BIN=$CARGO_TARGET_DIR/release/holdfast
fi
source deploy/build/progress.sh
cargo_progress "compiling the chaos run" 120 build --locked -p holdfast-chaos
folder=${CHAOS_FOLDER:-$CARGO_TARGET_DIR/chaos/$(date -u +%Y%m%d-%H%M%S)}
mkdir -p "$folder"
echo "chaos: logs and reports go to $folder" >&2
args=(--binary "$HOLDFAST_BIN" --folder "$folder" --faults "${CHAOS_FAULTS:-200}")
[ -z "${CHAOS_SEED:-}" ] || args+=(--seed "$CHAOS_SEED")
exec "$CARGO_TARGET_DIR/debug/chaos" "${args[@]}" "$@"
