#!/usr/bin/env bash
# Builds RocksDB once per machine as a static archive, and prints the folder that holds it.
#
# Why: cargo would compile RocksDB (a quarter of an hour on two cores) again for every profile, feature set and
# clone. An archive outside any target directory, at -O2 without debug info, is linked by all of them.
# `cargo build` without it still works: librocksdb-sys then compiles its bundled copy.
#
# The sources are those that the librocksdb-sys crate bundles, in the version that Cargo.lock pins, and they are
# compiled by that crate's own build script, so that archive and bindings cannot differ.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' "$root/Cargo.lock")
[ -n "$version" ] || { echo "rocksdb-archive: Cargo.lock does not pin librocksdb-sys" >&2; exit 1; }

arch=$(uname -m)
# Hardware CRC32C: each byte of the write-ahead log is checksummed. Every x86-64 server since 2010 has these.
case "$arch" in
  x86_64) flags="-Ctarget-feature=+sse4.2,+pclmulqdq" ;;
  *) flags="" ;;
esac

cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}
dir="$cache/rocksdb-$version-$arch-1"
if [ -f "$dir/librocksdb.a" ]; then
  echo "$dir"
  exit 0
fi

echo "rocksdb-archive: compiling RocksDB once for this machine; takes 10-20 minutes on 2 cores" >&2
mkdir -p "$cache"
# One builder at a time; whoever waited finds the archive made.
exec 9>"$dir.lock"
flock 9
if [ -f "$dir/librocksdb.a" ]; then
  echo "$dir"
  exit 0
fi
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
echo 'fn main() {}' >"$work/src/main.rs"
cat >"$work/Cargo.toml" <<TOML
[package]
name = "rocksdb-archive"
version = "0.0.0"
edition = "2021"
[dependencies]
librocksdb-sys = { version = "=$version", default-features = false, features = ["lz4", "bindgen-runtime"] }
[profile.release]
opt-level = 2
debug = false
[workspace]
TOML
start=$(date +%s)
(
  cd "$work"
  unset ROCKSDB_LIB_DIR ROCKSDB_STATIC
  CARGO_TARGET_DIR="$work/target" RUSTFLAGS="$flags" cargo build --release --quiet >&2 &
  pid=$!
  while kill -0 $pid 2>/dev/null; do
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do
      kill -0 $pid 2>/dev/null || break
      sleep 5
    done
    done_files=$(find "$work/target/release/build" -name '*.o' 2>/dev/null | wc -l)
    echo "rocksdb-archive: $done_files of about 360 files after $(( ($(date +%s) - start) / 60 )) min" >&2
  done
  wait $pid
)
found=$(find "$work/target/release/build" -name librocksdb.a | head -1)
[ -n "$found" ] || { echo "rocksdb-archive: the build left no librocksdb.a" >&2; exit 1; }
mkdir -p "$dir"
mv "$found" "$dir/librocksdb.a.tmp"
mv "$dir/librocksdb.a.tmp" "$dir/librocksdb.a"
echo "$dir"
