"""What the tests say about a hub: register, connect, send, read, all through the released SDKs."""

import itertools
import os
import queue
import tempfile
import threading
import time
import uuid

from azure.eventhub import EventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.hub import IoTHubRegistryManager
from harness import fields

TIMEOUT = float(os.environ.get("HOLDFAST_TEST_TIMEOUT") or os.environ.get("HOLDFAST_TEST_PATIENCE") or "60")
_numbers = itertools.count(1)


def unique(prefix="dev") -> str:
    return f"{prefix}-{next(_numbers)}-{uuid.uuid4().hex[:8]}"


def until(condition, what, timeout=TIMEOUT):
    """Waits for a condition, and says what it waited for when it never came."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s for {what}"
        time.sleep(0.02)


def text(value):
    return value.decode() if isinstance(value, bytes) else value


_bundle = tempfile.NamedTemporaryFile("w", prefix="holdfast-sdk-", suffix=".pem", encoding="ascii")


def trust(ca_text):
    """`requests` knows one bundle for the whole process, so the CA of every hub that the tests start goes into it."""
    _bundle.write(ca_text)
    _bundle.flush()
    os.environ["REQUESTS_CA_BUNDLE"] = _bundle.name


class HubUnderTest:
    def __init__(self, running):
        self.running = running
        self.ca_file = self.connection["caFile"]
        trust(self.ca_text())
        self.registry = self.registry_of("owner")

    @property
    def connection(self):
        return self.running.connection

    @property
    def host(self):
        return self.connection["hostName"]

    def registry_of(self, policy):
        return IoTHubRegistryManager.from_connection_string(self.connection[policy])

    def policy_key(self, policy):
        found = fields(self.connection[policy])
        return found["SharedAccessKeyName"], found["SharedAccessKey"]

    # Devices

    def create(self, device_id=None, status="enabled", **more):
        """Registers a device with keys that the hub makes."""
        return self.registry.create_device_with_sas(device_id or unique(), "", "", status, **more)

    def connection_string(self, device, key="primary", module=None):
        keys = (module or device).authentication.symmetric_key
        key = keys.primary_key if key == "primary" else keys.secondary_key if key == "secondary" else key
        part = f"ModuleId={module.module_id};" if module else ""
        return f"HostName={self.host};DeviceId={device.device_id};{part}SharedAccessKey={key}"

    def ca_text(self):
        with open(self.ca_file, encoding="ascii") as file:
            return file.read()

    def client(self, device, key="primary", module=None, retry=False, **more):
        """A device or module client, not connected. Without retry it shows what the hub did, and when."""
        factory = IoTHubModuleClient if module else IoTHubDeviceClient
        more = {"connection_retry": retry, "server_verification_cert": self.ca_text(), **more}
        return factory.create_from_connection_string(self.connection_string(device, key, module), **more)

    def client_with_token(self, token, retry=False, **more):
        more = {"connection_retry": retry, "server_verification_cert": self.ca_text(), **more}
        return IoTHubDeviceClient.create_from_sastoken(token, **more)

    # Events

    def consumer(self, group="$Default", connection_string=None, **more):
        more = {"connection_verify": self.ca_file, "retry_total": 1, **more}
        return EventHubConsumerClient.from_connection_string(
            connection_string or self.connection["eventHub"], consumer_group=group, **more
        )

    def partition_ids(self):
        with self.consumer() as consumer:
            return consumer.get_partition_ids()


class connected:
    """`with connected(client):` connects, and shuts the client down whatever happens."""

    def __init__(self, client):
        self.client = client

    def __enter__(self):
        try:
            self.client.connect()
        except BaseException:
            self.client.shutdown()
            raise
        return self.client

    def __exit__(self, *_):
        self.client.shutdown()


class Reader:
    """Reads partitions, each in its own thread and connection, until the block ends.

    `start` is what the SDK takes: "-1", "@latest", an offset (str), a sequence number (int) or a datetime, or a
    dictionary of these by partition.
    """

    def __init__(self, hub, start="-1", group="$Default", partitions=None, inclusive=False, owner_level=None,
                 client_options=None, **receive_options):
        self.partitions = partitions or hub.partition_ids()
        self.events = []
        self.errors = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._clients = []
        self._threads = []
        for partition in self.partitions:
            client = hub.consumer(group, **(client_options or {}))
            options = {
                "partition_id": partition,
                "starting_position": start[partition] if isinstance(start, dict) else start,
                "starting_position_inclusive": inclusive,
                **receive_options,
            }
            if owner_level is not None:
                options["owner_level"] = owner_level
            thread = threading.Thread(target=self._receive, args=(client, options), daemon=True)
            self._clients.append(client)
            self._threads.append(thread)

    def _receive(self, client, options):
        client.receive(self._on_event, on_error=self._on_error, **options)

    def _on_event(self, context, event):
        if event is not None:
            with self._lock:
                self.events.append((context.partition_id, event))

    def _on_error(self, context, error):
        self.errors.put(error)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for client in self._clients:
            client.close()
        for thread in self._threads:
            thread.join(10)

    def of(self, device_id):
        """The events of a device so far, in order."""
        with self._lock:
            return [event for _, event in self.events if sender(event) == device_id]

    def wait_for(self, device_id, count, timeout=TIMEOUT):
        """The events of a device, once there are so many."""
        try:
            until(lambda: len(self.of(device_id)) >= count, f"{count} events of {device_id}", timeout)
        except AssertionError as error:
            failures = [self.errors.get() for _ in range(self.errors.qsize())]
            raise AssertionError(f"{error}; there are {len(self.of(device_id))}; errors: {failures}") from None
        return self.of(device_id)

    def wait_for_error(self, timeout=TIMEOUT):
        return self.errors.get(timeout=timeout)


def system(event) -> dict:
    return {text(name): value for name, value in event.system_properties.items()}


def properties(event) -> dict:
    return {text(name): text(value) for name, value in (event.properties or {}).items()}


def sender(event):
    return text(system(event).get("iothub-connection-device-id"))


def body(event) -> bytes:
    return b"".join(event.body)


def partition_of(reader, device_id):
    """The partition that a reader has seen events of a device in."""
    found = {partition for partition, event in reader.events if sender(event) == device_id}
    assert len(found) == 1, f"events of one device stand in partitions {found}"
    return found.pop()
