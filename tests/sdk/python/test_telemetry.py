"""What a device sends is what a reader gets: bodies, properties, annotations, order."""

import datetime
import json

import pytest
from azure.iot.device import Message
from hub_under_test import Reader, body, connected, properties, sender, system, text, unique


def test_a_message_arrives_with_all_its_properties(hub):
    device = hub.create()
    message = Message(json.dumps({"t": 21.5}), message_id="m-1", content_encoding="utf-8", content_type="application/json")
    message.correlation_id = "c/1&x"
    message.user_id = "user 7"
    message.custom_properties = {"level": "hot", "sp ace": "a=b&c/d", "ünï": "ç%25", "empty": ""}
    with connected(hub.client(device)) as client:
        client.send_message(message)
    with Reader(hub) as reader:
        (event,) = reader.wait_for(device.device_id, 1)
    assert json.loads(event.body_as_str()) == {"t": 21.5}
    assert properties(event) == {"level": "hot", "sp ace": "a=b&c/d", "ünï": "ç%25", "empty": ""}
    assert text(event.message_id) == "m-1"
    assert text(event.correlation_id) == "c/1&x"
    assert text(event.content_type) == "application/json"
    assert text(event.raw_amqp_message.properties.content_encoding) == "utf-8"
    assert text(event.raw_amqp_message.properties.user_id) == "user 7"


def test_an_event_carries_its_sender_time_and_authentication(hub):
    device = hub.create()
    before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(milliseconds=2)
    with connected(hub.client(device)) as client:
        client.send_message("hello")
    after = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(milliseconds=2)
    with Reader(hub) as reader:
        (event,) = reader.wait_for(device.device_id, 1)
    stamps = system(event)
    assert text(stamps["iothub-connection-device-id"]) == device.device_id
    assert text(stamps["iothub-connection-auth-generation-id"]) == device.generation_id
    method = json.loads(text(stamps["iothub-connection-auth-method"]))
    assert (method["scope"], method["type"], method["issuer"]) == ("device", "sas", "iothub")
    assert text(stamps["iothub-message-source"]) == "Telemetry"
    assert "iothub-connection-module-id" not in stamps
    # The hub's clock, in whole milliseconds of AMQP timestamps.
    assert int(before.timestamp() * 1000) <= int(stamps["iothub-enqueuedtime"]) <= int(after.timestamp() * 1000)
    assert before <= event.enqueued_time <= after
    assert event.sequence_number >= 0 and int(event.offset) >= 0


def test_the_body_survives_whatever_it_is(hub):
    device = hub.create()
    bodies = [b"", b"\0\xff\xfe", bytes(range(256)), "größe".encode(), b"x" * 1000, b"[1]"]
    with connected(hub.client(device)) as client:
        for data in bodies:
            client.send_message(Message(data))
    with Reader(hub) as reader:
        events = reader.wait_for(device.device_id, len(bodies))
    assert [body(event) for event in events] == bodies


@pytest.mark.parametrize("size", [65_000, 131_072, 255 * 1024])
def test_a_large_message_arrives_whole(hub, size):
    device = hub.create()
    data = bytes(n * 31 % 251 for n in range(size))
    with connected(hub.client(device)) as client:
        client.send_message(Message(data))
    with Reader(hub) as reader:
        (event,) = reader.wait_for(device.device_id, 1)
    assert body(event) == data


def test_messages_of_one_device_stay_in_order_in_one_partition(hub):
    device = hub.create()
    count = 300
    with connected(hub.client(device)) as client:
        for n in range(count):
            client.send_message(str(n))
    with Reader(hub) as reader:
        events = reader.wait_for(device.device_id, count)
    assert [event.body_as_str() for event in events] == [str(n) for n in range(count)]
    assert len({partition for partition, event in reader.events if sender(event) == device.device_id}) == 1
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    offsets = [int(event.offset) for event in events]
    assert offsets == sorted(set(offsets))
    times = [event.enqueued_time for event in events]
    assert times == sorted(times)


def test_a_module_sends_in_its_own_name(hub):
    device = hub.create()
    module = hub.registry.create_module_with_sas(device.device_id, "pump", "", "", "")
    with connected(hub.client(device, module=module)) as client:
        client.send_message("from the module")
        client.send_message_to_output("from its output", "out1")
    with Reader(hub) as reader:
        first, second = reader.wait_for(device.device_id, 2)
    assert text(system(first)["iothub-connection-module-id"]) == "pump"
    assert json.loads(text(system(first)["iothub-connection-auth-method"]))["scope"] == "module"
    assert (first.body_as_str(), second.body_as_str()) == ("from the module", "from its output")


def test_a_device_with_a_model_stamps_its_events(hub):
    device = hub.create()
    # The SDK has no option for it: a product info that is a DTMI becomes the model id.
    with connected(hub.client(device, product_info="dtmi:com:example:Thermostat;1")) as client:
        client.send_message("x")
    with Reader(hub) as reader:
        (event,) = reader.wait_for(device.device_id, 1)
    assert text(system(event)["dt-dataschema"]) == "dtmi:com:example:Thermostat;1"


def test_a_device_sends_over_websockets(hub):
    device = hub.create()
    with connected(hub.client(device, websockets=True)) as client:
        client.send_message("through port 443")
        client.send_message(Message(b"y" * 100_000))
    with Reader(hub) as reader:
        first, second = reader.wait_for(device.device_id, 2)
    assert first.body_as_str() == "through port 443" and body(second) == b"y" * 100_000


def test_ids_with_special_characters_send(hub):
    # Not + and #: the SDK cannot subscribe with them, and not ; and =, which its connection strings cannot hold.
    device = hub.create(unique("a%41b:c(d)!e'f*g,h@i$j.k_l?m"))
    with connected(hub.client(device)) as client:
        client.send_message("x")
    with Reader(hub) as reader:
        (event,) = reader.wait_for(device.device_id, 1)
    assert sender(event) == device.device_id
