#!/usr/bin/env bash
# The registry over REST, with curl: registers a device, reads it, disables it, deletes it.
# Everything it needs comes from the hub's connection.json, through the holdfast program (HOLDFAST_BIN).
set -euo pipefail
holdfast=${HOLDFAST_BIN:-target/quick/holdfast}
connection=${HOLDFAST_CONNECTION_FILE:-data/connection.json}
device=${1:-rest-example-1}

value() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",]*\).*/\1/p" "$connection" | head -1; }
host=$(value hostName)
# Signed with the key of the policy `iothubowner`, good for an hour.
token=$("$holdfast" sas-token)

call() { # METHOD [curl's arguments]
  local method=$1
  shift
  curl --silent --show-error --fail-with-body --cacert "$(value caFile)" --request "$method" \
    --header "Authorization: $token" --header "Content-Type: application/json" "$@" \
    "https://$host:$(value https)/devices/$device?api-version=2021-04-12"
  echo
}

# Without keys the hub makes them: authentication.symmetricKey in the answer.
call PUT --data "{\"deviceId\": \"$device\"}"
call GET
# If-Match "*" replaces whatever is there; an etag from the last answer would refuse to overwrite another's change.
call PUT --header 'If-Match: "*"' --data "{\"deviceId\": \"$device\", \"status\": \"disabled\", \"statusReason\": \"maintenance\"}"
call DELETE --header 'If-Match: "*"'
echo "deleted $device"
