#!/bin/sh
# Runs before a node and gives it what a node without data needs to enter the hub. A node with data needs nothing.
#
# Pod 0 of a new hub gets the tokens that it accepts from its creation on. Every other node gets a token of its own: made with the
# release's credential for administration where there is one and the hub answers, else from the Secret of the creation.
# Environment: NODE, ROLE (core, gateway), FOUNDING (the name of the pod that may create the hub, or nothing), OTHERS (true with several
# core pods), GATEWAYS (how the names of gateways begin), FOUNDING_SECRET; a bearer token as `holdfast node token` reads it.
set -eu
founder=false
[ "${FOUNDING:-}" != "$NODE" ] || founder=true
umask 077
data=${DATA_DIR:-/var/lib/holdfast/data}
run=${RUN_DIR:-/run/holdfast}
tokens=${TOKENS_DIR:-/etc/holdfast/join}

say() { echo "prepare: $*" >&2; }

# The connection string of a policy, where the release has one.
login=${LOGIN_FILE:-/etc/holdfast/admin/login}
if [ -f "$login" ]; then
  HOLDFAST_LOGIN=$(cat "$login")
  export HOLDFAST_LOGIN
fi

if grep -qs '^database = made$' "$data/holdfast.node"; then
  # A volume of another hub would start that hub, and be ready. A hub that does not answer says nothing about it.
  if [ -n "${HOLDFAST_LOGIN:-}${HOLDFAST_TOKEN_FILE:-}" ]; then
    mine=$(sed -n 's/^cluster = //p' "$data/holdfast.node")
    hub=$(timeout 5 holdfast cluster status 2>/dev/null | sed -n '1s/^cluster \([0-9a-f]*\):.*/\1/p') || hub=
    if [ -n "$hub" ] && [ "$hub" != "$mine" ]; then
      say "the volume has the data of another hub: of the cluster $mine, and this release's hub is $hub. Nothing is changed. Give the pod its own volume;"
      say "if this one is not needed, delete its claim and this pod, and the node joins anew."
      exit 1
    fi
  fi
  say "this node has data: nothing to prepare"
  exit 0
fi

if [ "$founder" = true ]; then
  : >"$run/initial-tokens"
  for file in "$tokens"/*; do
    [ -f "$file" ] || continue
    case ${file##*/} in
      "${GATEWAYS:-/}"*) printf '%s gateway\n' "$(cat "$file")" ;;
      *) printf '%s\n' "$(cat "$file")" ;;
    esac >>"$run/initial-tokens"
  done
  if [ "${OTHERS:-}" = true ] && [ ! -s "$run/initial-tokens" ]; then
    say "the Secret $FOUNDING_SECRET has no tokens, so that no other pod could join the hub that this one is to create."
    say "Make it with one key per core pod but $NODE, such as: kubectl create secret generic $FOUNDING_SECRET \\"
    say "  --from-literal=POD=\$(openssl rand -hex 32) … (docs/kubernetes.md, \"Secrets\"); then delete this pod."
    exit 1
  fi
fi

if [ -n "${HOLDFAST_LOGIN:-}${HOLDFAST_TOKEN_FILE:-}" ]; then
  # A gateway that was killed and has lost its volume is still a member by its name. It holds no data: the hub forgets it. One that is up
  # is refused.
  if [ "$ROLE" = gateway ] && list=$(timeout 60 holdfast node list) && echo "$list" | grep -q "^$NODE "; then
    say "this gateway has no data, and the hub knows one of its name that is down: it is removed"
    timeout 60 holdfast node remove "$NODE" --dead || say "it cannot be removed (above)"
  fi
  if timeout 60 holdfast node token --role "$ROLE" --valid 6h >"$run/join-token.new"; then
    mv "$run/join-token.new" "$run/join-token"
    say "this node has no data, and has got a token to join as $ROLE"
    exit 0
  fi
  say "the hub gives no token (above); it may not exist yet"
fi
if [ -f "$tokens/$NODE" ]; then
  cp "$tokens/$NODE" "$run/join-token"
  say "this node has no data: it joins with the token $NODE of the Secret $FOUNDING_SECRET, which is good once, for 7 days after the hub's creation"
elif [ "$founder" = true ]; then
  say "this node has no data: it creates the hub once the other core nodes have answered that they have none either"
else
  say "this node has no data, and there is no token for it: set admin.existingSecret (docs/kubernetes.md, \"The credential of the chart\"),"
  say "or put the output of 'holdfast node token --role $ROLE' into the Secret $FOUNDING_SECRET under the key $NODE; then delete this pod."
  exit 1
fi
