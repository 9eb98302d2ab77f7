#!/usr/bin/env bash
# A development hub on this machine with a simulated fleet sending through it. Everything it keeps is in ./data.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
wanted=${CARGO_TARGET_DIR:-target}
deploy/dev/build.sh quick
echo "run: starting a hub in $root/data with 20 simulated devices; Ctrl-C stops both" >&2
exec "$wanted/quick/holdfast" dev --data-dir data --simulate "${HOLDFAST_SIMULATE:-20}" "$@"
