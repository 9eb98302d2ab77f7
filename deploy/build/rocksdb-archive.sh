#!/usr/bin/env bash
# Builds RocksDB once per machine as a static archive, and prints the folder that holds it.
#
# Why: cargo would compile RocksDB again for every profile, feature set and clone. An archive outside any target
# directory, at -O2 without debug info, is linked by all of them. `cargo build` without it still works: librocksdb-sys
# then compiles its bundled copy.
#
# Fast: RocksDB is about 340 files that parse the same headers. Consecutive files are compiled together, as a few units
# of equal size that include them, which takes a third of the time. A unit that does not compile is replaced by
# its files, and the build is repeated.
#
# The sources are those that the librocksdb-sys crate bundles, in the version that Cargo.lock pins, and they are
# compiled by that crate's own build script, so that archive and bindings cannot differ.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p}' "$root/Cargo.lock")
[ -n "$version" ] || { echo "rocksdb: Cargo.lock does not pin librocksdb-sys" >&2; exit 1; }
arch=$(uname -m)
cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}
# The last number counts the ways of building it.
dir="$cache/rocksdb-$version-$arch-2"
if [ -f "$dir/librocksdb.a" ]; then
  echo "$dir"
  exit 0
fi

source "$root/deploy/build/progress.sh"
mkdir -p "$cache"
# One builder at a time; the others wait and find the archive made.
exec 9>"$dir.lock"
flock 9
if [ -f "$dir/librocksdb.a" ]; then
  echo "$dir"
  exit 0
fi
work=$(mktemp -d "$cache/rocksdb-build.XXXXXX")
trap 'rm -rf "$work"' EXIT

cd "$root"
host=$(rustc -vV | sed -n 's/^host: //p')
progress "downloading crates" 0 0 - true cargo fetch --quiet --locked --target "$host"
manifest=$(cargo metadata --quiet --offline --locked --format-version 1 --filter-platform "$host" |
  grep -o '"manifest_path":"[^"]*/librocksdb-sys-[^"/]*/Cargo.toml"' | cut -d'"' -f4)
[ -n "$manifest" ] || { echo "rocksdb: cargo does not say where the sources of librocksdb-sys are" >&2; exit 1; }
sys=$work/librocksdb-sys
cp -r "$(dirname "$manifest")" "$sys"
features='"lz4", "bindgen-runtime"'
# The bindings are made by the hub's build. Without bindgen, which takes half a minute, compiling RocksDB begins at once.
if grep -q '^fn bindgen_rocksdb() {$' "$sys/build.rs" && grep -q '^\[build-dependencies\.bindgen\]$' "$sys/Cargo.toml"; then
  sed -i '/^fn bindgen_rocksdb() {$/,/^}$/c fn bindgen_rocksdb() {}' "$sys/build.rs"
  sed -i '/^\[build-dependencies\.bindgen\]$/,/^$/d; /"bindgen\//d' "$sys/Cargo.toml"
  : >"$sys/src/lib.rs"
  features='"lz4"'
fi
mkdir "$work/src"
: >"$work/src/lib.rs"
# The pinned versions: this build needs no other crates than the hub's.
cp Cargo.lock "$work/"
cat >"$work/Cargo.toml" <<TOML
[package]
name = "rocksdb-archive"
version = "0.0.0"
edition = "2021"
[dependencies]
librocksdb-sys = { path = "librocksdb-sys", default-features = false, features = [$features] }
[profile.release]
opt-level = 2
[workspace]
exclude = ["librocksdb-sys"]
TOML

# Divides the sources, in their order, into units of equal size.
sources=$sys/rocksdb_lib_sources.txt
cp "$sources" "$work/files.txt"
cores=$(nproc 2>/dev/null || echo 2)
# A multiple of 10 divides the ten units further, so that what compiles with ten compiles with more.
units=$(((cores + 4) / 5 * 10))
mkdir "$sys/rocksdb/units"
(
  cd "$sys/rocksdb"
  # The build script compiles build_version.cc by itself, from another folder.
  grep -v '^util/build_version\.cc$' "$work/files.txt" | xargs wc -c | grep -v ' total$' | awk -v units="$units" '
    { size[NR] = $1; file[NR] = $2; all += $1 }
    END {
      for (i = 1; i <= NR; i++) {
        # The middle of a file decides to which unit it belongs.
        unit = int((before + size[i] / 2) * units / all)
        before += size[i]
        printf "#include \"%s\"\n", file[i] >("units/unit_" unit ".cc")
      }
    }'
  ls units/unit_*.cc
) >"$sources"

built=$work/target/release/build
objects() { find "$built"/librocksdb-sys-*/out -newer "$work/started" -name '*.o' 2>/dev/null | wc -l || true; }
build() {
  # Hardware CRC32C: each byte of the write-ahead log is checksummed. Every x86-64 server since 2010 has these.
  local flags=
  [ "$arch" != x86_64 ] || flags="-Ctarget-feature=+sse4.2,+pclmulqdq"
  unset ROCKSDB_LIB_DIR ROCKSDB_STATIC
  cd "$work" && CARGO_TARGET_DIR=$work/target RUSTFLAGS=$flags cargo build --release --offline
}
export PROGRESS_LOG=$work/log
while touch "$work/started" && ! (progress "compiling RocksDB (once per machine)" 180 "$(wc -l <"$sources")" parts objects build); do
  # The compiler's command as the cc crate repeats it in its error.
  failed=$(grep 'error occurred in cc-rs' "$work/log" | grep -o 'units/unit_[0-9]*\.cc' | sort -u) || true
  failed=$(grep -Fx -f <(printf '%s\n' "$failed") "$sources") || { echo "rocksdb: cannot be compiled" >&2; exit 1; }
  for unit in $failed; do
    echo "rocksdb: $unit does not compile as one file; compiling its files one by one" >&2
    grep -vFx "$unit" "$sources" >"$work/rest.txt" || true
    sed -n 's/^#include "\(.*\)"$/\1/p' "$sys/rocksdb/$unit" >>"$work/rest.txt"
    mv "$work/rest.txt" "$sources"
  done
done
found=$(find "$built"/librocksdb-sys-*/out -newer "$work/started" -name librocksdb.a | head -1)
[ -n "$found" ] || { echo "rocksdb: the build left no librocksdb.a" >&2; exit 1; }
mkdir -p "$dir"
mv "$found" "$dir/librocksdb.a.tmp"
mv "$dir/librocksdb.a.tmp" "$dir/librocksdb.a"
echo "$dir"
