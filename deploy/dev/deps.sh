#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that this machine lacks: deps.sh [tests|chaos]. Silent when there is nothing to do.
#
#   g++ and make     RocksDB and the TLS library are C++ and C
#   libclang         bindgen reads RocksDB's header with it
#   git, ca-certificates   what cargo and the scripts themselves use
#   python3, nodejs        with `tests`: the SDKs that the hub is tested with
#   iproute2               with `tests` and `chaos`: namespaces for nodes whose network is broken on purpose
set -euo pipefail

missing=()
need() { # package, then a test that passes when it is there
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
has_libclang() { compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' || compgen -G '/usr/lib/*/libclang*.so*'; }
need g++ command -v g++
need make command -v make
need libclang-dev has_libclang
need git command -v git
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
if [ "${1:-}" = tests ]; then
  need python3 command -v python3
  need python3-venv python3 -c 'import ensurepip, venv'
  need nodejs command -v node
  need npm command -v npm
fi
case ${1:-} in tests | chaos) need iproute2 command -v ip ;; esac

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
  echo "deps: installing ${missing[*]} (about a minute)" >&2
  export DEBIAN_FRONTEND=noninteractive
  "${sudo[@]}" apt-get update -qq >&2
  "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if ! command -v cargo >/dev/null; then
  [ -e "$HOME/.cargo/env" ] && source "$HOME/.cargo/env"
fi
if ! command -v cargo >/dev/null; then
  echo "deps: Rust is missing; install the toolchain 1.95 or newer with rustup" >&2
  exit 1
fi
