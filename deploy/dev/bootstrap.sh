#!/usr/bin/env bash
# Proves the README's first command on a machine that has nothing: bootstrap.sh [run|deps]
#
#   run    `make run` of a clone of this repository's HEAD, in a minimal Debian with Rust, a C compiler and make, until
#          the hub answers; prints what it did with the seconds since the start
#   deps   only the step that installs packages, and then bindgen itself, as the last build left it, against the libclang
#          that was installed: seconds
#
# The Debian is a folder made by debootstrap (BOOTSTRAP_SUITE, default bookworm), entered with chroot and namespaces of its own,
# so it needs root. The bare one is kept in the cache; each run works on a copy that is deleted at the end. How this machine
# reaches its package sources (apt, cargo, proxies, CA certificates) is carried in. Exit code 3: not possible here.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
mode=${1:-run}
suite=${BOOTSTRAP_SUITE:-bookworm}
cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}/bootstrap
source deploy/build/progress.sh

say() { printf 'bootstrap: %5d s  %s\n' "$SECONDS" "$*"; }
cannot() { echo "bootstrap: not possible here: $*" >&2; exit 3; }
die() { echo "bootstrap: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || cannot "it needs root"
command -v debootstrap >/dev/null || cannot "debootstrap is missing (apt-get install debootstrap)"
unshare --mount --pid --fork true 2>/dev/null || cannot "this machine allows no namespaces"
rust=$(rustc --print sysroot) || cannot "Rust is missing"

# inside FOLDER COMMAND…: runs a command in the root at FOLDER. All its processes and mounts end with it. With replace=exec
# it takes the place of the calling subshell, so that SIGKILL to that ends all of it.
inside() {
  local folder=$1 variable
  local -a carried=(HOME=/root TERM=dumb LANG=C.UTF-8 PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
  shift
  # How registries are reached: proxies, CA certificates, and cargo's own settings.
  for variable in $(compgen -e | grep -iE '^((https?|ftp|all|no)_proxy|SSL_CERT_(FILE|DIR)|CARGO_(HTTP|NET|REGISTR|SOURCE).*)$'); do
    carried+=("$variable=${!variable}")
  done
  # shellcheck disable=SC2016
  ${replace:-} unshare --mount --pid --fork --kill-child bash -c '
    set -e
    folder=$1 rust=$2
    shift 2
    mkdir -p "$folder/opt/rust"
    mount --bind "$rust" "$folder/opt/rust"
    mount -o remount,bind,ro "$folder/opt/rust"
    mount -t proc proc "$folder/proc"
    mount --rbind /dev "$folder/dev"
    exec chroot "$folder" env -i "$@"' - "$folder" "$rust" "${carried[@]}" "$@"
}

# What this machine knows about reaching Debian's packages and cargo's crates.
carry_settings() {
  local folder=$1 cargo_home=${CARGO_HOME:-$HOME/.cargo} file
  cp -L /etc/resolv.conf /etc/hosts "$folder/etc/"
  if grep -qsE "(Suites:|^deb ).*\b$suite\b" /etc/apt/sources.list /etc/apt/sources.list.d/*; then
    rm -rf "$folder/etc/apt/sources.list" "$folder/etc/apt/sources.list.d"
    for file in sources.list sources.list.d apt.conf apt.conf.d auth.conf auth.conf.d keyrings trusted.gpg.d; do
      [ ! -e "/etc/apt/$file" ] || cp -rL "/etc/apt/$file" "$folder/etc/apt/"
    done
  fi
  mkdir -p "$folder/etc/ssl" "$folder/usr/local/share" "$folder/root/.cargo"
  [ ! -d /etc/ssl/certs ] || cp -rL /etc/ssl/certs "$folder/etc/ssl/" 2>/dev/null || true
  [ ! -d /usr/local/share/ca-certificates ] || cp -rL /usr/local/share/ca-certificates "$folder/usr/local/share/"
  [ ! -e "$cargo_home/config.toml" ] || cp "$cargo_home/config.toml" "$folder/root/.cargo/"
}

# The bare Debian, with what an installation of Rust needs as well: a C compiler; and make.
bare=$cache/$suite-1
mkdir -p "$cache"
exec 9>"$bare.lock"
flock 9
if [ ! -e "$bare/.complete" ]; then
  rm -rf "$bare"
  mirror=$(grep -hsE "^(URIs:|deb )" /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1) || true
  progress "making a minimal Debian ($suite)" 40 0 - true debootstrap --variant=minbase "$suite" "$bare" ${mirror:+$mirror} ||
    cannot "debootstrap failed"
  carry_settings "$bare"
  first_packages() {
    inside "$bare" apt-get -qq update &&
      inside "$bare" DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends gcc libc6-dev make
  }
  progress "giving it a C compiler" 30 0 - true first_packages || cannot "the packages of a bare Debian cannot be installed"
  touch "$bare/.complete"
fi
exec 9>&-

work=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$work"' EXIT
debian=$work/root
cp -a "$bare" "$debian"
carry_settings "$debian"
git clone --quiet "file://$root" "$debian/root/holdfast"
SECONDS=0
say "a minimal Debian $suite with $(inside "$debian" cargo --version), gcc and make; a clone of $(git rev-parse --short HEAD)"

if [ "$mode" = deps ]; then
  # A library that has been taken for libclang before.
  libc=$(inside "$debian" bash -c 'ls /usr/lib/*/libc.so.6 | head -1')
  cp "$debian$libc" "$debian$(dirname "$libc")/libclang-cpp.so.14"
  inside "$debian" bash -c 'cd /root/holdfast && deploy/dev/deps.sh && deploy/dev/deps.sh' || die "the packages cannot be installed"
  say "deps.sh has installed what is missing"
  script=$(ls -t "${CARGO_TARGET_DIR:-target}"/*/build/librocksdb-sys-*/build-script-build 2>/dev/null | head -1 || true)
  [ -n "$script" ] || die "nothing has been built here, so there is no bindgen to try"
  host=$(rustc -vV | sed -n 's/^host: //p')
  sources=$(cargo metadata --quiet --offline --locked --format-version 1 --filter-platform "$host" |
    grep -o '"manifest_path":"[^"]*/librocksdb-sys-[^"/]*/Cargo.toml"' | cut -d'"' -f4)
  cp "$script" "$debian/root/bindgen"
  cp -r "$(dirname "$sources")" "$debian/root/librocksdb-sys"
  mkdir "$debian/root/out"
  # With an archive named, the build script only makes the bindings.
  inside "$debian" bash -c "cd /root/librocksdb-sys && OUT_DIR=/root/out TARGET=$host HOST=$host \
    CARGO_MANIFEST_DIR=\$PWD ROCKSDB_LIB_DIR=/ ROCKSDB_STATIC=1 /root/bindgen >/dev/null" || die "bindgen failed"
  grep -q rocksdb_open "$debian/root/out/bindings.rs" || die "bindgen made no bindings"
  say "bindgen has made the bindings to RocksDB: $(wc -l <"$debian/root/out/bindings.rs") lines"
  exit 0
fi

# The first line of the README's block, up to the comment.
command=$(sed -n 's/^    \(make run\) .*/\1/p' README.md | head -1)
[ -n "$command" ] || die "the README's first command is not 'make run' any more"
say "$command"
log=$work/log
(replace=exec inside "$debian" bash -c "cd /root/holdfast && exec $command" >"$log" 2>&1) &
hub=$!
# `unshare` ignores SIGTERM; killed processes may still be writing for a moment.
stop() {
  kill -KILL "$hub" 2>/dev/null || true
  wait "$hub" 2>/dev/null || true
  rm -rf "$work" 2>/dev/null || { sleep 2; rm -rf "$work"; }
}
trap stop EXIT
shown=0
show() { # What has been printed since, with the time.
  local line
  while IFS= read -r line; do
    say "  $line"
    shown=$((shown + 1))
  done < <(tail -n +$((shown + 1)) "$log")
}
until [ -s "$debian/root/holdfast/data/connection.json" ]; do
  kill -0 "$hub" 2>/dev/null || { show; die "it ended before the hub was ready"; }
  show
  sleep 1
done
sleep 1
show
say "the hub is ready"
inside "$debian" bash -c 'cd /root/holdfast && target/quick/holdfast device create bootstrap-1 && target/quick/holdfast device list' |
  grep -q bootstrap-1 || die "the hub does not answer"
say "the hub has registered a device"
