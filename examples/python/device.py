"""A device that sends three messages: DEVICE_CONNECTION_STRING says which, CA_FILE whom it trusts."""

import json
import os
import uuid

from azure.iot.device import IoTHubDeviceClient, Message

with open(os.environ.get("CA_FILE", "data/ca.pem"), encoding="ascii") as file:
    ca = file.read()

client = IoTHubDeviceClient.create_from_connection_string(
    os.environ["DEVICE_CONNECTION_STRING"],
    # The one setting that differs from the cloud. Add websockets=True for port 443.
    server_verification_cert=ca,
)
client.connect()
for number in range(3):
    message = Message(
        json.dumps({"temperature": 20 + number}),
        # Says how to read the body; back ends get both as system properties.
        content_encoding="utf-8",
        content_type="application/json",
    )
    message.message_id = str(uuid.uuid4())
    message.custom_properties["room"] = "kitchen"
    client.send_message(message)  # returns when the hub has it on disk
    print(f"sent {message.data}")
client.shutdown()
