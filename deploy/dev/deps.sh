#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that this machine lacks: deps.sh [build|tests|bench|chaos|fuzz]. Silent when there
# is nothing to do. Each package stands beside the question that decides whether it is missing.
#
#   build (default, and part of every other)
#     gcc, g++            the linker's driver, the TLS library (C) and RocksDB (C++)
#     make                the Makefile is how everything is called
#     libclang            bindgen, which makes the bindings to RocksDB, loads this library, and it needs clang's own headers
#     ca-certificates     cargo downloads crates over TLS
#   tests                 the SDKs that the hub is tested with (Python, Node, Java), the examples (curl, mosquitto, Go, a browser),
#                         alerts (promtool), a software TPM, namespaces for nodes whose network is broken on purpose (ip), and
#                         `make test-bootstrap`
#   bench                 the measuring scripts (python3, ps, git for the commit's name), certificates (openssl); each part
#                         installs the peers it needs by itself, without letting their services start
#   chaos                 namespaces
#
# Not installed: Rust (rustup or a package of the distribution, 1.95 or newer), and what the compose example needs.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
source "$root/deploy/build/progress.sh"
mode=${1:-build}
case $mode in build | tests | bench | chaos | fuzz) ;; *) echo "deps: unknown mode $mode" >&2; exit 2 ;; esac

# The folders in which bindgen's loader (the clang-sys crate) looks for libclang, in its order.
libclang_folders() {
  local prefix
  if [ -n "${LIBCLANG_PATH:-}" ]; then
    if [ -d "$LIBCLANG_PATH" ]; then echo "$LIBCLANG_PATH"; else dirname "$LIBCLANG_PATH"; fi
    return
  fi
  if prefix=$("${LLVM_CONFIG_PATH:-llvm-config}" --prefix 2>/dev/null); then
    printf '%s\n' "$prefix/bin" "$prefix/lib" "$prefix/lib64"
  fi
  tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}:${LIBRARY_PATH:-}" | grep . || true
  compgen -G '/usr/local/llvm*/lib*' || true
  compgen -G '/usr/local/lib*/*/*' || true
  compgen -G '/usr/local/lib*/*' || true
  compgen -G '/usr/local/lib*' || true
  compgen -G '/usr/lib*/*/*' || true
  compgen -G '/usr/lib*/*' || true
  compgen -G '/usr/lib*' || true
}

# The names it accepts, and only shared objects of this machine's word size. libclang-cpp is another library.
libclangs() {
  local folder file
  libclang_folders | while read -r folder; do
    [ -d "$folder" ] || continue
    for file in "$folder"/libclang.so "$folder"/libclang-*.so "$folder"/libclang.so.* "$folder"/libclang-*.so.*; do
      case ${file##*/} in *-cpp.*) continue ;; esac
      [ -e "$file" ] && [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] && echo "$file"
    done
  done
  return 0
}
has_libclang() { [ -n "$(libclangs)" ]; }

# The headers that belong to the compiler (stddef.h), in the folder that a libclang derives from its own place.
has_clang_headers() {
  local file folder
  while read -r file; do
    for folder in "$(dirname "$file")" "$(dirname "$(readlink -f "$file")")"; do
      compgen -G "$folder/clang/*/include/stddef.h" >/dev/null && return
      compgen -G "$folder/../lib/clang/*/include/stddef.h" >/dev/null && return
    done
  done < <(libclangs)
  # Debian's libclang is in another folder, and is patched to search here.
  compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
}

# The two packages that hold libclang and the headers, without the static libraries (a tenth of the size of
# libclang-dev); libclang-dev where the distribution names them differently.
libclang_packages() {
  local version
  version=$(apt-cache depends libclang-dev 2>/dev/null | sed -n 's/^ *Depends: libclang-\([0-9.]*\)-dev$/\1/p' | head -1) || true
  if [ -n "$version" ] && apt-cache show "libclang1-$version" "libclang-common-$version-dev" >/dev/null 2>&1; then
    echo "libclang1-$version libclang-common-$version-dev"
  else
    echo libclang-dev
  fi
}

missing=()
need() { # package, then a command that succeeds when it is there
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
find_missing() {
  missing=()
  need gcc command -v cc
  need g++ command -v c++
  need make command -v make
  need libclang has_libclang
  [[ " ${missing[*]} " == *" libclang "* ]] || need libclang has_clang_headers
  need ca-certificates test -e "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}"
  case $mode in
    tests)
      need python3 command -v python3
      need python3-venv python3 -c 'import ensurepip, venv'
      need nodejs command -v node
      need npm command -v npm
      need default-jdk-headless command -v javac
      need maven command -v mvn
      need curl command -v curl
      need openssl command -v openssl
      need mosquitto-clients command -v mosquitto_pub
      need mosquitto test -x /usr/sbin/mosquitto
      need golang-go command -v go
      need chromium command -v chromium
      need prometheus command -v promtool
      need swtpm command -v swtpm
      need tpm2-tools command -v tpm2_createek
      need iproute2 command -v ip
      need mount command -v mount
      # Only root can use it.
      [ "$(id -u)" != 0 ] || need debootstrap command -v debootstrap
      ;;
    bench)
      need python3 command -v python3
      need git command -v git
      need openssl command -v openssl
      need procps command -v ps
      ;;
    chaos)
      need iproute2 command -v ip
      need mount command -v mount
      ;;
  esac
}

find_missing
if [ ${#missing[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "deps: this machine has no apt-get; install these yourself: ${missing[*]}" >&2
    exit 1
  fi
  sudo=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "deps: run as root, or install these: ${missing[*]}" >&2; exit 1; }
    sudo=(sudo)
  fi
  apt_get() { "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@"; }
  # No service starts: a broker of this machine would take the hub's port.
  install_missing() {
    local policy=/usr/sbin/policy-rc.d code=0
    if [ ! -e $policy ]; then
      printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
      "${sudo[@]}" chmod 755 $policy
    else
      policy=
    fi
    # shellcheck disable=SC2086
    apt_get install -y --no-install-recommends ${missing[*]/#libclang/$(libclang_packages)} || code=$?
    [ -z "$policy" ] || "${sudo[@]}" rm -f $policy
    return $code
  }
  echo "deps: installing ${missing[*]}" >&2
  progress "updating the list of packages" 0 0 - true apt_get update
  progress "installing packages" 60 0 - true install_missing
  find_missing
  if [ ${#missing[@]} -gt 0 ]; then
    echo "deps: still missing after the installation: ${missing[*]}" >&2
    exit 1
  fi
fi

if ! command -v cargo >/dev/null; then
  [ -e "$HOME/.cargo/env" ] && source "$HOME/.cargo/env"
fi
if ! command -v cargo >/dev/null; then
  echo "deps: Rust is missing; install the toolchain 1.95 or newer with rustup" >&2
  exit 1
fi
