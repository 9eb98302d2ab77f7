"""The Python processors of the soak: two of them print a line for each event until the program is killed."""

import os
import sys
import threading

from azure.eventhub import EventHubConsumerClient
from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore
from azure.storage.blob import ContainerClient


def main(connection_string, group):
    blobs = os.environ["HOLDFAST_SOAK_BLOBS"]
    ContainerClient.from_connection_string(blobs, f"{group}-checkpoints").create_container()
    lock = threading.Lock()

    def run(name):
        def on_events(context, events):
            for event in events:
                show(context, event)
            if events:
                context.update_checkpoint(events[-1])

        def show(context, event):
            properties = {(k.decode() if isinstance(k, bytes) else k): v for k, v in event.system_properties.items()}
            device = properties["iothub-connection-device-id"]
            device = device.decode() if isinstance(device, bytes) else device
            with lock:
                print(name, context.partition_id, event.sequence_number, device, event.body_as_str(), flush=True)

        def on_error(context, error):
            print(f"{name}: {error}", file=sys.stderr, flush=True)

        client = EventHubConsumerClient.from_connection_string(
            connection_string,
            consumer_group=group,
            checkpoint_store=BlobCheckpointStore.from_connection_string(blobs, f"{group}-checkpoints"),
            connection_verify=os.environ["SSL_CERT_FILE"],
            load_balancing_interval=5,
            partition_ownership_expiration_interval=15,
        )
        # Without batches the SDK hands over a few events a second of each partition.
        client.receive_batch(on_events, on_error=on_error, starting_position="-1", max_wait_time=1)
        print(f"{name}: receive has returned", file=sys.stderr, flush=True)

    threads = [threading.Thread(target=run, args=(f"python-{number}",)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
