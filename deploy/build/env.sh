# Sourced by the Makefile's recipes and by .ci/run, and to be sourced before calling cargo by hand: the one place for the
# build's variables.
#
# They are part of cargo's fingerprints: a cargo call without them compiles RocksDB from source (ten minutes)
# and rebuilds all that links it.
if ! command -v cargo >/dev/null && [ -e "$HOME/.cargo/env" ]; then
  # A shell that did not read the profile.
  source "$HOME/.cargo/env"
fi
_holdfast_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
_holdfast_cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$_holdfast_cache/target}
ROCKSDB_LIB_DIR=$("$_holdfast_root/deploy/build/rocksdb-archive.sh") || return 1
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1
