#!/bin/sh
# Drains and removes the core members that the release is not to have any more, before their pods go: remove-members.sh NAME REPLICAS
#
# Members are NAME-n; those with n >= REPLICAS go. All are drained together, so that no replica moves to a node that goes next. If one
# cannot be drained, those that this run has begun are taken back and the upgrade stops, with nothing lost.
# ALL_STAY=true says that no core pod goes: then neither a missing credential nor a hub that does not answer stops an upgrade, which may be
# what mends it. Without it nothing is known, as before a rollback.
set -eu
name=$1
replicas=$2
deadline=$(($(date +%s) + ${TIMEOUT_SECONDS:-3600}))
begun=

# The connection string of a policy, where the release has one.
login=${LOGIN_FILE:-/etc/holdfast/admin/login}
if [ -f "$login" ]; then
  HOLDFAST_LOGIN=$(cat "$login")
  export HOLDFAST_LOGIN
fi

say() { echo "scale-in: $*" >&2; }
if [ -z "${HOLDFAST_LOGIN:-}${HOLDFAST_TOKEN_FILE:-}" ]; then
  if [ "${ALL_STAY:-}" = true ]; then
    say "no core pod goes, and there is no credential yet: nothing to do"
    exit 0
  fi
  say "the Secret ${ADMIN_SECRET:-of admin.existingSecret} is not there: members that go could not be drained. Make it (docs/kubernetes.md, \"The credential of"
  say "the chart\") and repeat; if no core pod goes, --no-hooks does without"
  exit 1
fi
undo() {
  for node in $begun; do holdfast node drain "$node" --undo || say "cannot take $node back: holdfast node drain $node --undo"; done
}
# A leader may change at any moment: what failed is repeated a few times. A refusal stays one.
retry() {
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 5 ] || return 1
    sleep "${POLL_SECONDS:-5}"
  done
}
# "NAME STATE" of each member that goes, the last one first.
leaving() {
  list=$(holdfast node list) || return 1
  echo "$list" | awk -v prefix="$name-" -v replicas="$replicas" '
    NR > 1 && index($1, prefix) == 1 {
      ordinal = substr($1, length(prefix) + 1)
      if (ordinal ~ /^[0-9]+$/ && ordinal + 0 >= replicas) print ordinal, $1, $2
    }' | sort -rn | cut -d' ' -f2-
}

if ! members=$(retry leaving); then
  if [ "${ALL_STAY:-}" = true ]; then
    say "the hub does not list its members (above); no core pod goes: the upgrade continues"
    exit 0
  fi
  say "the hub does not list its members (above): nothing was changed. If no core pod goes, --no-hooks does without"
  exit 1
fi
if [ -z "$members" ]; then
  say "no member goes"
  exit 0
fi
say "these members go: $(echo "$members" | cut -d' ' -f1 | tr '\n' ' ')"
for node in $(echo "$members" | awk '$2 == "active" || $2 == "joining" { print $1 }'); do
  if ! retry holdfast node drain "$node"; then
    say "$node cannot be drained (above): nothing was removed; the upgrade stops"
    undo
    exit 1
  fi
  begun="$begun $node"
done
last=
while :; do
  members=$(leaving) || members=$last
  [ "$members" = "$last" ] || say "$(echo "$members" | tr '\n' ',')"
  last=$members
  echo "$members" | grep -qv ' drained$' || break
  if [ "$(date +%s)" -ge "$deadline" ]; then
    say "not drained within ${TIMEOUT_SECONDS:-3600} s: they stay members and are taken back; raise scaleIn.timeoutSeconds"
    undo
    exit 1
  fi
  sleep "${POLL_SECONDS:-5}"
done
for node in $(echo "$members" | cut -d' ' -f1); do
  # Removed although no answer came, such as by the attempt before: it is not listed any more.
  if ! retry holdfast node remove "$node" && leaving | grep -q "^$node "; then
    say "$node is drained, and cannot be removed (above): repeat the upgrade"
    exit 1
  fi
  say "$node is no member any more. Once its pod is gone: kubectl delete pvc data-$node"
done
