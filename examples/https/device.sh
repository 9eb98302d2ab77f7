#!/usr/bin/env bash
# A device without an SDK and without a connection: sends a message and a batch over HTTPS.
# DEVICE_CONNECTION_STRING says which device, CA_FILE whom it trusts.
set -euo pipefail

part() { tr ';' '\n' <<<"$DEVICE_CONNECTION_STRING" | sed -n "s/^$1=//p"; }
host=$(part HostName)
device=$(part DeviceId)
token=$("${HOLDFAST_BIN:-target/quick/holdfast}" sas-token --device-id "$device")

send() { # [curl's arguments]
  curl --silent --show-error --fail-with-body --cacert "${CA_FILE:-data/ca.pem}" --header "Authorization: $token" "$@" \
    "https://$host/devices/$device/messages/events?api-version=2021-04-12"
}

# 204: the message is on disk.
send --header 'iothub-app-room: kitchen' --header 'iothub-contenttype: application/json' --header 'iothub-contentencoding: utf-8' \
  --data '{"temperature": 20}'
echo "sent"

message() { printf '{"body": "%s", "properties": {"iothub-app-room": "kitchen"}}' "$(printf '{"temperature": %d}' "$1" | base64)"; }
send --header 'Content-Type: application/vnd.microsoft.iothub.json' --data "[$(message 21), $(message 22)]"
echo "sent two more"
