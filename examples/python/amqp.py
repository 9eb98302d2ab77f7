"""A device without an SDK, in Python with qpid-proton: sends over AMQP 1.0 and takes a message.

DEVICE_CONNECTION_STRING says which device, CA_FILE whom it trusts. `--once` ends after the first message to the device.
"""

import base64
import hashlib
import hmac
import os
import sys
import time
import urllib.parse

from proton import Message, SSLDomain
from proton.utils import BlockingConnection

parts = dict(part.split("=", 1) for part in os.environ["DEVICE_CONNECTION_STRING"].split(";"))
host, device, key = parts["HostName"], parts["DeviceId"], parts["SharedAccessKey"]


def token(lifetime=3600):
    """The password: the resource and the time of expiry, signed with the device's key."""
    resource = urllib.parse.quote(f"{host}/devices/{device}", safe="")
    expiry = int(time.time()) + lifetime
    digest = hmac.new(base64.b64decode(key), f"{resource}\n{expiry}".encode(), hashlib.sha256).digest()
    return f"SharedAccessSignature sr={resource}&sig={urllib.parse.quote(base64.b64encode(digest), safe='')}&se={expiry}"


trust = SSLDomain(SSLDomain.MODE_CLIENT)
trust.set_trusted_ca_db(os.environ.get("CA_FILE", "data/ca.pem"))
trust.set_peer_authentication(SSLDomain.VERIFY_PEER_NAME)
connection = BlockingConnection(
    f"amqps://{host}:5671",
    timeout=30,
    heartbeat=60,
    ssl_domain=trust,
    allowed_mechs="PLAIN",
    user=f"{device}@sas.{host}",
    password=token(),
)
print("connected", flush=True)

sender = connection.create_sender(f"/devices/{device}/messages/events")
# `inferred` with bytes makes a data section, which is what the hub stores. `send` returns when the message is on disk.
sender.send(Message(
    body=b'{"temperature": 22}', inferred=True,
    content_type="application/json", content_encoding="utf-8", properties={"room": "kitchen"},
))
print("sent", flush=True)

receiver = connection.create_receiver(f"/devices/{device}/messages/devicebound", credit=10)
while True:
    message = receiver.receive(timeout=None)
    body = message.body.tobytes() if isinstance(message.body, memoryview) else bytes(message.body)
    print(f"{message.id} {body.decode()} {message.properties}", flush=True)
    receiver.accept()  # completes it; `release` gives it back, `reject` makes it a dead letter
    if "--once" in sys.argv:
        break
connection.close()
