"""Cloud-to-device messages: a back end sends through the service SDK, the device SDK receives, and the back end hears of it."""

import contextlib
import json
import subprocess
import threading
import time

import pytest
import uamqp
from azure.iot.hub import iothub_amqp_client
from harness import binary, fields
from hub_under_test import connected, unique, until


pytestmark = pytest.mark.usefixtures("uamqp_trusts_the_hub")


def cli(hub, *args):
    command = [str(binary()), *args, "--login", hub.connection["owner"], "--ca-file", hub.ca_file, "-o", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


@contextlib.contextmanager
def sender(hub):
    """A service client of its own: the SDK keeps its connection."""
    registry = hub.registry_of("service")
    try:
        yield registry.send_c2d_message
    finally:
        registry.amqp_svc_client.disconnect_sync()


class Received:
    """What a device has received. The SDK acknowledges before it calls the handler."""

    def __init__(self, client):
        self.messages = []
        self.arrived = threading.Condition()
        client.on_message_received = self.add

    def add(self, message):
        with self.arrived:
            self.messages.append(message)
            self.arrived.notify_all()

    def wait(self, count, timeout=60):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.messages) >= count, timeout), f"{len(self.messages)} of {count}"
            return self.messages


def depth(hub, device):
    return hub.registry.get_device(device.device_id).cloud_to_device_message_count


def feedback(hub, device, count, timeout=30):
    """The next `count` records about the device, in the order in which they came; each is accepted."""
    key = fields(hub.connection["service"])
    auth = iothub_amqp_client.IoTHubAmqpClientSharedAccessKeyAuth(
        hub.host, key["SharedAccessKeyName"], key["SharedAccessKey"]
    ).amqp_client._auth
    client = uamqp.ReceiveClient(f"amqps://{hub.host}/messages/serviceBound/feedback", auth=auth, prefetch=10)
    records, deadline = [], time.monotonic() + timeout
    try:
        while len(records) < count:
            assert time.monotonic() < deadline, records
            for message in client.receive_message_batch(max_batch_size=10, timeout=1000):
                assert message.properties.content_type == b"application/vnd.microsoft.iothub.feedback.json"
                batch = json.loads(b"".join(message.get_data()))
                records += [record for record in batch if record["deviceId"] == device.device_id]
                message.accept()
    finally:
        client.close()
    return records


def test_a_message_comes_with_all_its_properties(hub):
    device = hub.create()
    with sender(hub) as send, connected(hub.client(device)) as client:
        received = Received(client)
        expiry = int((time.time() + 600) * 1000)
        properties = {
            "messageId": "m/1 ü",
            "correlationId": "c&1",
            "contentType": "application/json",
            "contentEncoding": "utf-8",
            "expiryTimeUtc": expiry,
            "iothub-ack": "full",
            "a b": "c=d&e/f?#+%",
            "ünï": "\u2713",
            "empty": "",
        }
        send(device.device_id, '{"x":1}', properties)
        (message,) = received.wait(1)
        assert message.data == b'{"x":1}'
        assert (message.message_id, message.correlation_id) == ("m/1 ü", "c&1")
        assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
        assert message.ack == "full"
        assert message.expiry_time_utc.startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(expiry // 1000)))
        assert message.custom_properties == {"a b": "c=d&e/f?#+%", "ünï": "\u2713", "empty": ""}
        (record,) = feedback(hub, device, 1)
        assert record["originalMessageId"] == "m/1 ü"
        assert record["statusCode"] == record["description"] == "Success"
        assert record["deviceGenerationId"] == hub.registry.get_device(device.device_id).generation_id


def test_messages_wait_for_an_unplugged_device_in_order(hub):
    device = hub.create()
    with sender(hub) as send:
        for number in range(20):
            send(device.device_id, f"message {number}", {"messageId": str(number)})
        assert depth(hub, device) == 20
        with connected(hub.client(device)) as client:
            time.sleep(1)
            # Without a subscription they stay.
            assert depth(hub, device) == 20
            received = Received(client)
            assert [m.data.decode() for m in received.wait(20)] == [f"message {n}" for n in range(20)]
            until(lambda: depth(hub, device) == 0, "an empty queue")
        # The subscription is stored: the next connection gets what came meanwhile, without subscribing. The SDK acknowledges it,
        # and drops it when there is no handler yet.
        send(device.device_id, "later", {})
        assert depth(hub, device) == 1
        with connected(hub.client(device)):
            until(lambda: depth(hub, device) == 0, "an empty queue")


def test_a_full_queue_refuses_and_a_purge_says_how_many_there_were(hub):
    device = hub.create()
    with sender(hub) as send:
        for number in range(50):
            send(device.device_id, "x", {"messageId": str(number), "iothub-ack": "negative"})
        with pytest.raises(Exception) as refused:
            send(device.device_id, "one too many", {})
        assert "resource-limit-exceeded" in str(refused.value) or "failure" in str(refused.value)
    listed = cli(hub, "c2d", "list", device.device_id)
    assert [message["messageId"] for message in listed] == [str(number) for number in range(50)]
    assert {message["state"] for message in listed} == {"enqueued"}
    purged = cli(hub, "c2d", "purge", device.device_id)
    assert purged == {"totalMessagesPurged": 50, "deviceId": device.device_id, "moduleId": None}
    assert depth(hub, device) == 0
    records = feedback(hub, device, 50)
    assert {record["statusCode"] for record in records} == {"Purged"}
    assert sorted(int(record["originalMessageId"]) for record in records) == list(range(50))


def test_an_expired_message_is_a_dead_letter_that_can_be_requeued(hub):
    device = hub.create()
    with sender(hub) as send:
        expiry = int((time.time() + 2) * 1000)
        send(device.device_id, "late", {"messageId": "late", "expiryTimeUtc": expiry, "iothub-ack": "full"})
        (record,) = feedback(hub, device, 1)
        assert record["statusCode"] == "Expired"
        (dead,) = cli(hub, "c2d", "deadletter", device.device_id)
        assert (dead["messageId"], dead["reason"], dead["state"]) == ("late", "Expired", "deadLettered")
        with connected(hub.client(device)) as client:
            received = Received(client)
            assert cli(hub, "c2d", "requeue", device.device_id)["requeued"] == 1
            assert received.wait(1)[0].data == b"late"
        (record,) = feedback(hub, device, 1)
        assert record["statusCode"] == "Success"
        assert cli(hub, "c2d", "deadletter", device.device_id) == []


@pytest.mark.parametrize("what", ["unknown", "disabled", "too large", "expired"])
def test_what_cannot_be_delivered_is_refused(hub, what):
    device = hub.create(status="disabled" if what == "disabled" else "enabled")
    name, body, properties = device.device_id, "x", {}
    if what == "unknown":
        name = unique()
    if what == "too large":
        body = "x" * (64 * 1024 + 1)
    if what == "expired":
        properties = {"expiryTimeUtc": int((time.time() - 60) * 1000)}
    with sender(hub) as send, pytest.raises(Exception):
        send(name, body, properties)
    assert depth(hub, device) == 0


def test_the_command_line_sends(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        received = Received(client)
        sent = cli(hub, "c2d", "send", device.device_id, "--data", "hello", "--props", "a=b;c=d", "--mid", "m1", "--ack", "none")
        assert sent["sequenceNumber"] == 1 and sent["expiryTimeUtc"].endswith("Z")
        (message,) = received.wait(1)
        assert (message.data, message.message_id) == (b"hello", "m1")
        assert message.custom_properties == {"a": "b", "c": "d"}


def test_nothing_is_lost_when_the_hub_is_killed(own_hub):
    device = own_hub.create()
    with sender(own_hub) as send:
        for number in range(10):
            send(device.device_id, str(number), {"messageId": str(number), "iothub-ack": "full"})
    own_hub.running.kill()
    own_hub.running.start()
    assert depth(own_hub, device) == 10
    with connected(own_hub.client(device)) as client:
        received = Received(client)
        received.wait(10)
        until(lambda: depth(own_hub, device) == 0, "an empty queue")
    own_hub.running.kill()
    own_hub.running.start()
    assert depth(own_hub, device) == 0
    assert [m.data.decode() for m in received.messages] == [str(number) for number in range(10)]
    records = feedback(own_hub, device, 10)
    assert {record["statusCode"] for record in records} == {"Success"}
    assert len({record["originalMessageId"] for record in records}) == 10
