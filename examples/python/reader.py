"""A back end that prints what devices send, from the oldest message on, until Ctrl-C.

Everything it needs is in the hub's connection.json: HOLDFAST_CONNECTION_FILE, default data/connection.json.
"""

import json
import os

from azure.eventhub import EventHubConsumerClient

with open(os.environ.get("HOLDFAST_CONNECTION_FILE", "data/connection.json"), encoding="utf-8") as file:
    hub = json.load(file)

client = EventHubConsumerClient.from_connection_string(
    hub["eventHub"],
    # Each consumer group reads on its own: `holdfast consumer-group create NAME`.
    consumer_group="$Default",
    # The one setting that differs from the cloud.
    connection_verify=hub["caFile"],
)


def on_event(partition, event):
    device = event.system_properties[b"iothub-connection-device-id"].decode()
    properties = {name.decode(): value.decode() for name, value in (event.properties or {}).items()}
    print(f"{device} [{partition.partition_id}/{event.sequence_number}] {event.body_as_str()} {properties}", flush=True)
    # A back end that must not read twice keeps event.offset with its results, and starts there next time.


with client:
    # "-1": the oldest message; "@latest": only new ones; or an offset, a sequence number, a datetime.
    client.receive(on_event, starting_position="-1")
