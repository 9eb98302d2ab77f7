#!/usr/bin/env bash
# Makes a Debian package of a built binary: deb.sh BINARY [FOLDER]. Prints the package's path. Needs dpkg-deb; runs as any user.
#
# It holds the binary, the unit of deploy/systemd, the example configuration, the documents, and the bill of materials where cargo is. Installing
# it makes the user and starts nothing: a hub needs a host name and certificates first. Removing it leaves the data.
# Equal inputs give equal bytes (SOURCE_DATE_EPOCH; default: the time of the last commit).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -ge 1 ] || { echo "deb: deb.sh BINARY [FOLDER]" >&2; exit 2; }
binary=$(realpath "$1")
out=$(realpath "${2:-.}")
cd "$root"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# By the binary: it may be for another processor than this machine's.
case $(od -An -tx2 -j18 -N2 "$binary" | tr -d ' ') in
  003e) arch=amd64 ;;
  00b7) arch=arm64 ;;
  *) echo "deb: $binary is no program for amd64 or arm64" >&2; exit 1 ;;
esac
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
doc=$tree/usr/share/doc/holdfast

install -D -m 755 "$binary" "$tree/usr/bin/holdfast"
install -d -m 755 "$tree/etc/holdfast" "$tree/lib/systemd/system" "$doc"
sed 's,/usr/local/bin/holdfast,/usr/bin/holdfast,' deploy/systemd/holdfast.service >"$tree/lib/systemd/system/holdfast.service"
sed -i '/^\[Unit\]$/a # Nothing to start before it is configured.\nConditionPathExists=/etc/holdfast/holdfast.toml' "$tree/lib/systemd/system/holdfast.service"
cp deploy/systemd/holdfast.toml "$doc/holdfast.toml.example"
cp README.md CHANGELOG.md docs/*.md "$doc/"
cp helm/holdfast/files/alerts.yaml "$doc/alerts.yaml"
cp -r helm/holdfast/files/dashboards "$doc/dashboards"
if command -v cargo >/dev/null; then
  case $arch in amd64) triple=x86_64-unknown-linux-gnu ;; arm64) triple=aarch64-unknown-linux-gnu ;; esac
  deploy/package/sbom.py --target $triple >"$doc/holdfast.cdx.json"
fi
cat >"$doc/copyright" <<TEXT
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: holdfast

Files: *
Copyright: the Holdfast authors
License: Apache-2.0
 The full text is in /usr/share/common-licenses/Apache-2.0. The licences of what the binary is built from are in holdfast.cdx.json.
TEXT

install -d -m 755 "$tree/DEBIAN"
size=$(du -sk --apparent-size "$tree" | cut -f1)
cat >"$tree/DEBIAN/control" <<TEXT
Package: holdfast
Version: $version
Architecture: $arch
Maintainer: the Holdfast authors <holdfast@localhost>
Installed-Size: $size
Depends: libc6 (>= 2.36), libgcc-s1, libstdc++6 (>= 12), passwd
Recommends: ca-certificates, systemd
Section: net
Priority: optional
Description: IoT hub that speaks the wire protocols of Azure IoT Hub
 Devices and back ends with the Azure IoT SDKs connect unmodified: MQTT, AMQP and
 HTTPS, telemetry, messages to devices, twins, methods and queries. One binary
 without an external database; several of them are a cluster.
TEXT
cat >"$tree/DEBIAN/postinst" <<'TEXT'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
  if ! getent passwd holdfast >/dev/null; then
    useradd --system --user-group --home-dir /var/lib/holdfast --no-create-home --shell /usr/sbin/nologin holdfast
  fi
  install -d -o holdfast -g holdfast -m 700 /var/lib/holdfast
  # Keys are in it.
  chgrp holdfast /etc/holdfast
  chmod 750 /etc/holdfast
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An upgrade does not stop the running process.
    if [ -n "$2" ] && systemctl is-active --quiet holdfast; then
      echo "holdfast: the running hub is still the old version; restart it when its turn in the cluster has come: systemctl restart holdfast"
    fi
  fi
  [ -e /etc/holdfast/holdfast.toml ] ||
    echo "holdfast: write /etc/holdfast/holdfast.toml (/usr/share/doc/holdfast/holdfast.toml.example), then: systemctl enable --now holdfast"
fi
TEXT
cat >"$tree/DEBIAN/prerm" <<'TEXT'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now holdfast || true
fi
TEXT
cat >"$tree/DEBIAN/postrm" <<'TEXT'
#!/bin/sh
set -e
if [ "$1" = purge ] && [ -e /var/lib/holdfast ]; then
  echo "holdfast: /var/lib/holdfast and /etc/holdfast hold data and keys, and stay"
fi
TEXT
chmod 755 "$tree"/DEBIAN/postinst "$tree"/DEBIAN/prerm "$tree"/DEBIAN/postrm
(cd "$tree" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
package=$out/holdfast_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$tree" "$package" >/dev/null
echo "$package"
