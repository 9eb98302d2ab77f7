#!/usr/bin/env bash
# Everything of a release from a built binary: release.sh BINARY FOLDER. Runs as any user; needs dpkg-deb, cargo and Python.
#
# FOLDER gets the Debian package, a tarball, the bill of materials, the provenance and SHA256SUMS. Equal inputs give equal bytes
# (SOURCE_DATE_EPOCH; default: the time of the last commit). It compiles, signs and publishes nothing.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# = 2 ] || { echo "release: release.sh BINARY FOLDER" >&2; exit 2; }
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$root"
[ -z "$(ls -A "$out")" ] || { echo "release: $out is not empty" >&2; exit 2; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
package=$(deploy/package/deb.sh "$binary" "$out")
name=$(basename "$package" .deb | tr _ -)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
at=$tree/$name
install -D -m 755 "$binary" "$at/bin/holdfast"
install -D -m 644 -t "$at" LICENSE README.md CHANGELOG.md
install -D -m 644 -t "$at/docs" docs/*.md
install -D -m 644 -t "$at/systemd" deploy/systemd/holdfast.service deploy/systemd/holdfast.toml
install -D -m 644 -t "$at/monitoring" helm/holdfast/files/alerts.yaml helm/holdfast/files/dashboards/*.json
tar -C "$tree" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu -c "$name" | gzip -n >"$out/$name.tar.gz"
dpkg-deb --fsys-tarfile "$package" | tar -xO ./usr/share/doc/holdfast/holdfast.cdx.json >"$out/$name.cdx.json"
deploy/package/provenance.py "$out"/* >"$tree/provenance"
mv "$tree/provenance" "$out/$name.intoto.json"
(cd "$out" && sha256sum -- * >"$tree/sums" && mv "$tree/sums" SHA256SUMS)
chmod 644 "$out"/*
ls -l "$out"
