#!/usr/bin/env bash
# Installs a Debian package of deb.sh on a bare Debian 12 and looks at it: test.sh PACKAGE. As root; needs debootstrap. Exit code 3: cannot be tried.
set -euo pipefail
package=$(realpath "$1")
[ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null || { echo "package: needs root and debootstrap; not tried" >&2; exit 3; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
fail() { echo "package: $*" >&2; exit 1; }
debootstrap --variant=minbase --include=libstdc++6,ca-certificates bookworm "$root" >"$root.log" 2>&1 || { tail -5 "$root.log" >&2; echo "package: debootstrap cannot fetch Debian here; not tried" >&2; exit 3; }
rm -f "$root.log"
cp "$package" "$root/holdfast.deb"
inside() { chroot "$root" "$@"; }

inside dpkg -i /holdfast.deb >/dev/null || fail "it does not install"
inside holdfast --version || fail "the binary does not run"
inside getent passwd holdfast >/dev/null || fail "no user holdfast"
[ "$(inside stat -c '%U %a' /var/lib/holdfast)" = "holdfast 700" ] || fail "the data directory is not private: $(inside stat -c '%U %a' /var/lib/holdfast)"
[ "$(inside stat -c '%G %a' /etc/holdfast)" = "holdfast 750" ] || fail "the configuration is not private"
grep -q '^ExecStart=/usr/bin/holdfast start' "$root/lib/systemd/system/holdfast.service" || fail "the unit starts another binary"
if command -v systemd-analyze >/dev/null; then
  # The unit, with the binary where it lies on this machine.
  mkdir "$root/verify"
  sed "s,^ExecStart=/usr,ExecStart=$root/usr,; s,^User=.*,User=root,; s,^Group=.*,Group=root," "$root/lib/systemd/system/holdfast.service" >"$root/verify/holdfast.service"
  problems=$(systemd-analyze verify "$root/verify/holdfast.service" 2>&1 | grep -F holdfast.service || true)
  [ -z "$problems" ] || fail "systemd: $problems"
  systemd-analyze security --offline=true --threshold=30 "$root/verify/holdfast.service" >/dev/null || fail "the unit is less confined than 3.0 of systemd-analyze security"
fi
inside holdfast config check --config /usr/share/doc/holdfast/holdfast.toml.example || fail "the example is wrong"
inside dpkg --verify holdfast | grep . && fail "files differ from their sums"
inside sh -c 'echo mine >/var/lib/holdfast/kept && dpkg -i /holdfast.deb >/dev/null' || fail "it does not install twice"
inside dpkg --purge holdfast >/dev/null 2>&1 || fail "it does not go"
[ -e "$root/var/lib/holdfast/kept" ] || fail "purging deleted data"
[ ! -e "$root/usr/bin/holdfast" ] || fail "the binary stayed"
echo "package: installed, installed again and purged on a bare Debian; data stayed"
