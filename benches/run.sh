#!/usr/bin/env bash
# Measures the hub and its peers with one generator (crates/swarm): benches/run.sh [PART…] [--runs N] …
#
# Parts: compare durable memory reader startup cluster replace down connects throttles protocols provisioning footprint backup; all of them by default. `benches/run.sh --help` tells more.
# Results go to bench-results/ as Markdown and JSON. Peers are installed when a part needs them.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
deploy/dev/deps.sh bench

if [ -z "${ROCKSDB_LIB_DIR:-}" ]; then
  exec deploy/build/with-env.sh "$0" "$@"
fi
if [ -z "${HOLDFAST_BENCH_SWARM:-}" ]; then
  source deploy/build/progress.sh
  cargo_progress "compiling the load generator" 60 build --release --locked -p holdfast-swarm
  export HOLDFAST_BENCH_SWARM=$CARGO_TARGET_DIR/release/swarm
fi
if [ -z "${HOLDFAST_BENCH_HUB:-}" ]; then
  export HOLDFAST_BENCH_HUB=$CARGO_TARGET_DIR/release/holdfast
fi
PYTHONPATH=benches exec python3 -m holdfast_bench "$@"
