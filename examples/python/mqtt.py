"""A device without an SDK, in Python with paho-mqtt: sends, reports its twin, answers a method, and takes a message.

DEVICE_CONNECTION_STRING says which device, CA_FILE whom it trusts. `--once` ends after the first message to the device.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
import urllib.parse

import paho.mqtt.client as mqtt

parts = dict(part.split("=", 1) for part in os.environ["DEVICE_CONNECTION_STRING"].split(";"))
host, device, key = parts["HostName"], parts["DeviceId"], parts["SharedAccessKey"]


def token(lifetime=3600):
    """The password: the resource and the time of expiry, signed with the device's key."""
    resource = urllib.parse.quote(f"{host}/devices/{device}", safe="")
    expiry = int(time.time()) + lifetime
    digest = hmac.new(base64.b64decode(key), f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
    return f"SharedAccessSignature sr={resource}&sig={urllib.parse.quote(base64.b64encode(digest), safe='')}&se={expiry}"


def on_connect(client, userdata, flags, code):
    print(f"connected: {mqtt.connack_string(code)}", flush=True)
    client.subscribe([
        ("$iothub/twin/res/#", 0),  # answers to twin requests
        ("$iothub/twin/PATCH/properties/desired/#", 1),
        ("$iothub/methods/POST/#", 0),
        (f"devices/{device}/messages/devicebound/#", 1),
    ])


def on_subscribe(client, userdata, number, granted):
    # The properties of a message are the end of its topic.
    client.publish(f"devices/{device}/messages/events/room=kitchen&%24.ct=application%2Fjson&%24.ce=utf-8", '{"temperature": 20}', qos=1)
    # `$rid` is any number; the answer carries it.
    client.publish("$iothub/twin/PATCH/properties/reported/?$rid=1", json.dumps({"firmware": "1.0"}))


def on_message(client, userdata, message):
    print(f"{message.topic} {message.payload.decode()}", flush=True)
    if message.topic.startswith("$iothub/methods/POST/"):
        # $iothub/methods/POST/NAME/?$rid=N is answered on $iothub/methods/res/STATUS/?$rid=N.
        number = message.topic.split("?$rid=", 1)[1]
        client.publish(f"$iothub/methods/res/200/?$rid={number}", json.dumps({"echo": json.loads(message.payload)}))
    if message.topic.startswith(f"devices/{device}/messages/devicebound/") and "--once" in sys.argv:
        client.disconnect()


client = mqtt.Client(client_id=device, protocol=mqtt.MQTTv311)
client.username_pw_set(f"{host}/{device}/?api-version=2021-04-12", token())
client.tls_set(ca_certs=os.environ.get("CA_FILE", "data/ca.pem"))
client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
client.connect(host, 8883)
client.loop_forever()
