#!/usr/bin/env bash
# A local mosquitto broker that passes on to the hub what is published on `telemetry`, and publishes on `commands/…` what the hub sends to
# the device. All its clients are one device of the hub: DEVICE_CONNECTION_STRING says which, CA_FILE whom the broker trusts.
#
#   mosquitto_pub -p 1884 -t telemetry -q 1 -m '{"temperature": 20}'
#   mosquitto_sub -p 1884 -t 'commands/#'
#
# BRIDGE_PORT is the local port (1884), on loopback. The token that the bridge logs in with is good for a year: a bridge cannot renew it; a
# certificate of the device (bridge_certfile, bridge_keyfile) needs no token.
set -euo pipefail

part() { tr ';' '\n' <<<"$DEVICE_CONNECTION_STRING" | sed -n "s/^$1=//p"; }
host=$(part HostName)
device=$(part DeviceId)
token=$("${HOLDFAST_BIN:-target/quick/holdfast}" sas-token --device-id "$device" --duration 31536000)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# A mosquitto that root starts gives up its rights: it reads its configuration, with the token, before, and the CA after that.
chmod 711 "$folder"
install -m 644 "${CA_FILE:-data/ca.pem}" "$folder/ca.pem"
install -m 600 /dev/null "$folder/mosquitto.conf"
cat >"$folder/mosquitto.conf" <<CONFIGURATION
listener ${BRIDGE_PORT:-1884} 127.0.0.1
allow_anonymous true

connection holdfast
address $host:8883
bridge_protocol_version mqttv311
bridge_cafile $folder/ca.pem
remote_clientid $device
remote_username $host/$device/?api-version=2021-04-12
remote_password $token
# The hub knows neither retained state topics nor the bits by which brokers recognize bridges.
try_private false
notifications false
bridge_attempt_unsubscribe false
cleansession true
restart_timeout 1 30
# One local topic, one topic of the hub; properties could follow the last slash.
topic "" out 1 telemetry devices/$device/messages/events/
topic # in 1 commands/ devices/$device/messages/devicebound/
CONFIGURATION
PATH=$PATH:/usr/sbin
mosquitto -c "$folder/mosquitto.conf" &
trap 'kill %1 2>/dev/null; rm -rf "$folder"' EXIT
trap exit INT TERM
wait
