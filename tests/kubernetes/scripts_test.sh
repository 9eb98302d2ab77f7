#!/bin/sh
# The scripts that pods run (helm/holdfast/files/scripts), with a `holdfast` that answers from a file.
set -eu
scripts=$(cd "$(dirname "$0")/../../helm/holdfast/files/scripts" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
PATH="$work/bin:$PATH"
export PATH

fail() { echo "scripts_test: $*" >&2; exit 1; }

# prepare.sh ---------------------------------------------------------------------------------------------------------------------
cat >"$work/bin/holdfast" <<'H'
#!/bin/sh
echo "$*" >>"$CALLS"
[ "${HUB_ANSWERS:-}" = yes ] || exit 4
case "$1 $2" in
  "node list") printf 'NAME  STATE\n%s  active\n' "${LISTED:-hub-0}" ;;
  "node remove") ;;
  "cluster status") printf 'cluster %s: healthy, feature level 1\n\nNAME\n' "${CLUSTER:-c}" ;;
  *) echo 0123abcd ;;
esac
H
chmod +x "$work/bin/holdfast"
# prepare NAME=VALUE…: runs it in a fresh pod, output in $work/said
prepare() {
  rm -rf "$work/run" "$work/calls"
  mkdir "$work/run"
  : >"$work/calls"
  env CALLS="$work/calls" LOGIN_FILE="$work/login" DATA_DIR="$work/data" RUN_DIR="$work/run" TOKENS_DIR="$work/tokens" FOUNDING_SECRET=hub-join "$@" \
    sh "$scripts/prepare.sh" 2>"$work/said"
}
mkdir "$work/data" "$work/tokens"
printf '1111' >"$work/tokens/hub-1"
printf '2222\n' >"$work/tokens/hub-2"

prepare NODE=hub-0 ROLE=core FOUNDING=hub-0 OTHERS=true || fail "pod 0 of a new hub: $(cat "$work/said")"
[ "$(cat "$work/run/initial-tokens")" = "$(printf '1111\n2222')" ] || fail "one token a line, with and without a line end in the Secret"
[ ! -e "$work/run/join-token" ] || fail "pod 0 has no token of its own"
[ ! -s "$work/calls" ] || fail "without a credential no call is made"
[ "$(stat -c %a "$work/run/initial-tokens")" = 600 ] || fail "tokens are private"

printf '3333\n' >"$work/tokens/hub-gateway-0"
prepare NODE=hub-0 ROLE=core FOUNDING=hub-0 OTHERS=true GATEWAYS=hub-gateway- || fail "tokens of gateways: $(cat "$work/said")"
[ "$(cat "$work/run/initial-tokens")" = "$(printf '1111\n2222\n3333 gateway')" ] || fail "a gateway's token names its role"
rm "$work/tokens/hub-gateway-0"

prepare NODE=hub-1 ROLE=core FOUNDING=hub-0 OTHERS=true || fail "pod 1"
[ "$(cat "$work/run/join-token")" = 1111 ] || fail "pod 1 gets its token"
[ ! -e "$work/run/initial-tokens" ] || fail "pod 1 gets its own token alone"

prepare NODE=hub-3 ROLE=core FOUNDING= OTHERS=true && fail "a pod without a token must say so"
grep -q 'admin.existingSecret' "$work/said" || fail "it names the remedy: $(cat "$work/said")"

prepare NODE=hub-gateway-0 ROLE=gateway HOLDFAST_LOGIN=x HUB_ANSWERS=yes || fail "a gateway"
[ "$(cat "$work/run/join-token")" = 0123abcd ] || fail "a gateway's token is made for it"
grep -q -- 'node token --role gateway --valid' "$work/calls" || fail "its role is in the token: $(cat "$work/calls")"

if grep -q 'node remove' "$work/calls"; then fail "nothing of its name is there to be removed"; fi
prepare NODE=hub-gateway-0 ROLE=gateway HOLDFAST_LOGIN=x HUB_ANSWERS=yes LISTED=hub-gateway-0 || fail "a gateway that has lost its volume"
grep -q 'node remove hub-gateway-0 --dead' "$work/calls" || fail "its former self is forgotten: $(cat "$work/calls")"
[ "$(cat "$work/run/join-token")" = 0123abcd ] || fail "and it joins anew"

printf 'HostName=h\n' >"$work/login"
prepare NODE=hub-gateway-1 ROLE=gateway HUB_ANSWERS=yes || fail "a credential in a Secret"
[ -e "$work/run/join-token" ] || fail "makes a token"
rm "$work/login"

prepare NODE=hub-1 ROLE=core FOUNDING=hub-0 HOLDFAST_LOGIN=x || fail "a hub that does not exist yet: the Secret's token"
[ "$(cat "$work/run/join-token")" = 1111 ] || fail "the Secret's token"

mkdir "$work/empty"
prepare NODE=hub-0 ROLE=core FOUNDING=hub-0 OTHERS=true TOKENS_DIR="$work/empty" && fail "no tokens for the others"
grep -q 'Secret hub-join has no tokens' "$work/said" || fail "it names the Secret: $(cat "$work/said")"
prepare NODE=hub-0 ROLE=core FOUNDING=hub-0 OTHERS=false TOKENS_DIR="$work/empty" || fail "a hub of one node needs none"

printf '# Holdfast node.\nformat = 1\ncluster = c\nincarnation = 1\ndatabase = made\ncrc32c = 0\n' >"$work/data/holdfast.node"
prepare NODE=hub-9 ROLE=core FOUNDING= HOLDFAST_LOGIN=x || fail "a node with data needs nothing"
if grep -q 'node token' "$work/calls"; then fail "it makes no token"; fi
prepare NODE=hub-9 ROLE=core FOUNDING= HOLDFAST_LOGIN=x HUB_ANSWERS=yes || fail "a node with data of this hub: $(cat "$work/said")"
prepare NODE=hub-9 ROLE=core FOUNDING= HOLDFAST_LOGIN=x HUB_ANSWERS=yes CLUSTER=d && fail "a volume of another hub must be refused"
grep -q 'data of another hub: of the cluster c, and this release.s hub is d' "$work/said" || fail "it names both: $(cat "$work/said")"
prepare NODE=hub-9 ROLE=core FOUNDING= || fail "without a credential nothing is compared"
[ ! -s "$work/calls" ] || fail "and no call is made"
sed -i 's/database = made/database = pending/' "$work/data/holdfast.node"
prepare NODE=hub-9 ROLE=core FOUNDING= HOLDFAST_LOGIN=x HUB_ANSWERS=yes || fail "a join that was cut off is repeated"
[ -s "$work/run/join-token" ] || fail "with a token"

# remove-members.sh --------------------------------------------------------------------------------------------------------------
# The hub: a file "NAME STATE" a line; a drain ends at the second look.
cat >"$work/bin/holdfast" <<'H'
#!/bin/sh
echo "$*" >>"$CALLS"
set_state() { sed -i "s/^$1 .*/$1 $2/" "$NODES"; }
case "$1 $2" in
  "node list")
    [ -e "$NODES" ] || exit 4
    echo "NAME  STATE  UP"
    sed 's/$/ true/' "$NODES"
    [ -n "${NEVER:-}" ] || sed -i 's/ moving$/ drained/; s/ draining$/ moving/' "$NODES"
    ;;
  "node drain")
    case "${4:-}" in --undo) set_state "$3" active; exit ;; esac
    [ "$3" != "${REFUSED:-}" ] || { echo "without $3 there would be too few" >&2; exit 1; }
    set_state "$3" draining
    ;;
  "node remove")
    # The first attempt meets a change of the leader.
    [ -e "$NODES.once" ] || { : >"$NODES.once"; exit 1; }
    grep -q "^$3 drained" "$NODES" && sed -i "/^$3 /d" "$NODES"
    ;;
esac
H
chmod +x "$work/bin/holdfast"
nodes() { printf '%s active\n' hub-0 hub-1 hub-2 hub-3 hub-4 hub-10 hub-gateway-7 hub-x-9 >"$work/nodes"; : >"$work/calls"; }
remove() { env CALLS="$work/calls" NODES="$work/nodes" POLL_SECONDS=0 LOGIN_FILE="$work/none" HOLDFAST_LOGIN="${LOGIN-x}" "$@" 2>"$work/said"; }
left() { cut -d' ' -f1 "$work/nodes" | tr '\n' ' '; }

nodes
remove sh "$scripts/remove-members.sh" hub 3 || fail "5 to 3: $(cat "$work/said")"
[ "$(left)" = "hub-0 hub-1 hub-2 hub-gateway-7 hub-x-9 " ] || fail "members of other pods stay: $(left)"
[ "$(grep -n 'node remove' "$work/calls" | head -1 | cut -d: -f1)" -gt "$(grep -n 'node drain' "$work/calls" | tail -1 | cut -d: -f1)" ] || fail "all are drained before one is removed"
grep -q 'kubectl delete pvc data-hub-10' "$work/said" || fail "volumes that are left are named: $(cat "$work/said")"

nodes
remove sh "$scripts/remove-members.sh" hub 11 || fail "as many as before"
[ "$(cat "$work/calls")" = "node list" ] || fail "nothing is changed: $(cat "$work/calls")"

nodes
remove env REFUSED=hub-3 sh "$scripts/remove-members.sh" hub 3 && fail "a refused drain stops the upgrade"
grep -q '^hub-10 active' "$work/nodes" && grep -q '^hub-4 active' "$work/nodes" || fail "what was begun is taken back: $(cat "$work/nodes")"
! grep -q 'node remove' "$work/calls" || fail "nothing is removed"

nodes
remove env NEVER=1 TIMEOUT_SECONDS=0 sh "$scripts/remove-members.sh" hub 3 && fail "a drain that takes too long stops the upgrade"
grep -q '^hub-4 active' "$work/nodes" || fail "and is taken back: $(cat "$work/nodes")"

rm "$work/nodes"
: >"$work/calls"
remove sh "$scripts/remove-members.sh" hub 3 && fail "a hub that does not answer stops the upgrade"
grep -q -- '--no-hooks' "$work/said" || fail "it names the way around: $(cat "$work/said")"
remove env ALL_STAY=true sh "$scripts/remove-members.sh" hub 3 || fail "but not one in which no core pod goes: it may be what mends the hub"

nodes
LOGIN='' remove env ALL_STAY=true sh "$scripts/remove-members.sh" hub 11 || fail "nothing goes, and there is no credential yet: $(cat "$work/said")"
LOGIN='' remove env ADMIN_SECRET=hub-admin sh "$scripts/remove-members.sh" hub 3 && fail "without a credential nothing can be drained"
grep -q 'the Secret hub-admin is not there' "$work/said" || fail "it names the Secret: $(cat "$work/said")"
[ ! -s "$work/calls" ] || fail "the hub is not called: $(cat "$work/calls")"
echo "scripts of pods: done"
