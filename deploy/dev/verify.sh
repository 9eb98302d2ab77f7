#!/usr/bin/env bash
# Looks and changes nothing: formatting, lints with warnings denied, licenses, bans and sources.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
source deploy/build/env.sh
deploy/dev/words.sh
cargo fmt --all --check
source deploy/build/progress.sh
cargo_progress "checking" 240 clippy --locked --workspace --all-targets -- -D warnings
deploy/dev/deny.sh
