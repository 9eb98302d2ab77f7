#!/usr/bin/env bash
# A device without an SDK: what firmware has to do to send one message over MQTT 3.1.1.
# DEVICE_CONNECTION_STRING says which device, CA_FILE whom it trusts. docs/spec/device-mqtt.md has every detail.
set -euo pipefail

# HostName=…;DeviceId=…;SharedAccessKey=…
part() { tr ';' '\n' <<<"$DEVICE_CONNECTION_STRING" | sed -n "s/^$1=//p"; }
host=$(part HostName)
device=$(part DeviceId)
key=$(part SharedAccessKey)

encode() { # percent-encodes base64
  sed 's/+/%2B/g; s,/,%2F,g; s/=/%3D/g'
}

# The password is a token: the resource and the time of expiry, signed with the device's key. It is good for an hour.
resource="$host%2Fdevices%2F$device"
expiry=$(($(date +%s) + 3600))
key_hex=$(base64 -d <<<"$key" | od -An -v -tx1 | tr -d ' \n')
signature=$(printf '%s\n%s' "$resource" "$expiry" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key_hex" -binary | base64 | encode)
password="SharedAccessSignature sr=$resource&sig=$signature&se=$expiry"

# The user name names the hub and the API version; the client id is the device id.
username="$host/$device/?api-version=2021-04-12"

# Properties are part of the topic, percent-encoded: the application's own by name, the system's with $. before it
# ($.ct content type, $.ce content encoding, $.mid message id).
topic="devices/$device/messages/events/room=kitchen&%24.ct=application%2Fjson&%24.ce=utf-8"

# QoS 1: mosquitto_pub returns when the hub has acknowledged, and then the message is on disk.
mosquitto_pub -V mqttv311 -h "$host" -p 8883 --cafile "${CA_FILE:-data/ca.pem}" \
  -i "$device" -u "$username" -P "$password" -q 1 -t "$topic" -m '{"temperature": 20}'
echo "sent"
