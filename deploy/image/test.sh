#!/usr/bin/env bash
# Builds the image of a built binary without a container runtime, and runs it: test.sh BINARY. As root; needs buildah and mmdebstrap (Debian).
#
# The last stage of the Dockerfile is built as it stands, twice, on a base made of Debian's packages; the first stage, which compiles, is replaced by one with
# the binary. Then: equal layers, the user, a root that is read-only, a hub that starts and stops. Exit code 3: cannot be tried.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { echo "image: test.sh BINARY" >&2; exit 2; }
binary=$(realpath "$1")
[ "$(id -u)" = 0 ] && command -v buildah mmdebstrap unshare setpriv curl >/dev/null || { echo "image: needs root, buildah, mmdebstrap, unshare, setpriv and curl; not tried" >&2; exit 3; }
work=$(mktemp -d)
fail() { echo "image: $*" >&2; exit 1; }
hub=
mount=
end() {
  [ -z "$hub" ] || kill "$hub" 2>/dev/null || true
  [ -z "$mount" ] || buildah umount --all >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap end EXIT
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct)} BUILDAH_ISOLATION=chroot
# Images and layers of this test alone.
export CONTAINERS_STORAGE_CONF=$work/storage.conf
printf '[storage]\ndriver = "vfs"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' "$work" "$work" >"$CONTAINERS_STORAGE_CONF"

base=${HOLDFAST_IMAGE_BASE:-$work/base.tar}
if [ ! -e "$base" ]; then
  mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io --include=libstdc++6 --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$base" ||
    { echo "image: mmdebstrap cannot fetch Debian here; not tried" >&2; exit 3; }
fi
container=$(buildah from scratch)
buildah add --quiet "$container" "$base" / >/dev/null
buildah commit --quiet --timestamp "$SOURCE_DATE_EPOCH" "$container" localhost/base >/dev/null
buildah rm "$container" >/dev/null

context=$work/context
install -D -m 755 "$binary" "$context/out/usr/local/bin/holdfast"
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$context/out/etc/ssl/certs/ca-certificates.crt"
install -D -m 644 "$here/../../LICENSE" "$context/out/usr/share/doc/holdfast/LICENSE"
install -d -m 700 "$context/data/holdfast"
{
  echo 'ARG BASE_IMAGE'
  printf 'FROM scratch AS build\nCOPY out /out\nCOPY data /data\n'
  sed -n '/^FROM \${BASE_IMAGE}/,$p' "$here/Dockerfile"
} >"$work/Dockerfile"
for number in 1 2; do
  # Other times of the files, as on another machine.
  find "$context" -exec touch -d "2026-01-0$number" {} +
  buildah bud --quiet --no-cache --layers --timestamp "$SOURCE_DATE_EPOCH" --build-arg BASE_IMAGE=localhost/base -f "$work/Dockerfile" -t "localhost/holdfast:$number" "$context" >/dev/null
  buildah inspect --type image --format '{{range .OCIv1.RootFS.DiffIDs}}{{.}} {{end}}' "localhost/holdfast:$number" >"$work/layers-$number"
done
cmp "$work/layers-1" "$work/layers-2" || fail "two builds have different layers: $(cat "$work"/layers-[12])"
config=$(buildah inspect --type image --format '{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.StopSignal}} {{len .OCIv1.Config.ExposedPorts}}' localhost/holdfast:1)
[ "$config" = "10001:10001 [/usr/local/bin/holdfast] SIGTERM 5" ] || fail "another configuration: $config"

container=$(buildah from localhost/holdfast:1)
mount=$(buildah mount "$container")
[ "$(stat -c '%u:%g %a' "$mount/var/lib/holdfast")" = "10001:10001 700" ] || fail "/var/lib/holdfast is not the user's: $(stat -c '%u:%g %a' "$mount/var/lib/holdfast")"
[ "$(stat -c '%u:%g %a' "$mount/var/lib")" = "0:0 755" ] || fail "/var/lib has another owner: $(stat -c '%u:%g %a' "$mount/var/lib")"
# As a pod of the chart runs it: a read-only root, one volume, no capabilities.
inside=(unshare --mount bash -c '
  mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs -o mode=700,uid=10001,gid=10001 tmpfs "$0/var/lib/holdfast" &&
  mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot --userspec=10001:10001 --groups=10001 "$0" setpriv --no-new-privs -- "$@"' "$mount")
"${inside[@]}" /usr/local/bin/holdfast --version || fail "the binary does not run"
"${inside[@]}" /bin/sh -c 'touch /etc/written 2>/dev/null' && fail "its root can be written"
"${inside[@]}" /usr/local/bin/holdfast dev --data-dir /var/lib/holdfast --host 127.0.97.1 --port-offset 20000 >"$work/log" 2>&1 &
hub=$!
for _ in $(seq 120); do
  ! curl -fs http://127.0.97.1:29600/readyz >/dev/null || break
  kill -0 "$hub" 2>/dev/null || break
  sleep 0.5
done
curl -fs http://127.0.97.1:29600/readyz >/dev/null || { cat "$work/log" >&2; fail "the hub is not ready"; }
grep -q '^Uid:	10001	10001' "/proc/$hub/status" || fail "it does not run as 10001"
kill "$hub"
wait "$hub" || fail "the hub does not stop in order"
hub=
size=$(du -sm --apparent-size "$mount" | cut -f1)
echo "image: built twice with equal layers, runs as 10001 on a read-only root, ready and stopped; $size MB unpacked, the binary $(du -m --apparent-size "$binary" | cut -f1)"
