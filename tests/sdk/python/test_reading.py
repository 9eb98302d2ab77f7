"""Reading with azure-eventhub: where to start, consumer groups, owner levels, properties, transports."""

import datetime
import time

import pytest
from azure.eventhub import TransportType
from azure.eventhub.exceptions import ConnectError, EventHubError
from harness import fields
from hub_under_test import Reader, body, connected, partition_of, sender, until


def send(hub, device, texts):
    with connected(hub.client(device)) as client:
        for one in texts:
            client.send_message(one)


def texts_of(events):
    return [event.body_as_str() for event in events]


@pytest.fixture
def sent(hub):
    """A device with ten messages, its partition, and the events as read from the start."""
    device = hub.create()
    send(hub, device, [str(n) for n in range(10)])
    with Reader(hub) as reader:
        events = reader.wait_for(device.device_id, 10)
        partition = partition_of(reader, device.device_id)
    return device.device_id, partition, events


def read_from(hub, sent, count, **options):
    device_id, partition, _ = sent
    with Reader(hub, partitions=[partition], **options) as reader:
        return texts_of(reader.wait_for(device_id, count))


def test_reading_starts_after_or_at_an_offset(hub, sent):
    offset = sent[2][4].offset
    assert read_from(hub, sent, 5, start=offset) == ["5", "6", "7", "8", "9"]
    assert read_from(hub, sent, 6, start=offset, inclusive=True) == ["4", "5", "6", "7", "8", "9"]


def test_reading_starts_after_or_at_a_sequence_number(hub, sent):
    number = sent[2][6].sequence_number
    assert read_from(hub, sent, 3, start=number) == ["7", "8", "9"]
    assert read_from(hub, sent, 4, start=number, inclusive=True) == ["6", "7", "8", "9"]


def test_reading_starts_after_a_time(hub):
    device = hub.create()
    send(hub, device, ["old 1", "old 2"])
    time.sleep(0.02)
    now = datetime.datetime.now(datetime.timezone.utc)
    time.sleep(0.02)
    send(hub, device, ["new 1", "new 2"])
    with Reader(hub, start=now) as reader:
        assert texts_of(reader.wait_for(device.device_id, 2)) == ["new 1", "new 2"]


def test_reading_from_now_skips_what_was_there(hub, sent):
    device_id, partition, _ = sent
    device = hub.registry.get_device(device_id)
    with Reader(hub, start="@latest", partitions=[partition]) as reader, connected(hub.client(device)) as client:
        # When the link is open only the reader knows: send until something arrives.
        def probe():
            client.send_message("probe")
            return reader.of(device_id)

        until(probe, "the first new event")
        client.send_message("last")
        until(lambda: "last" in texts_of(reader.of(device_id)), "the last event")
        assert set(texts_of(reader.of(device_id))) == {"probe", "last"}


def test_two_consumer_groups_read_the_same_events_independently(hub, sent):
    device_id, partition, events = sent
    hub.running.add_consumer_group("second")
    with Reader(hub, group="second", partitions=[partition]) as second, Reader(hub, partitions=[partition]) as first:
        assert texts_of(second.wait_for(device_id, 10)) == texts_of(first.wait_for(device_id, 10)) == texts_of(events)


def test_an_unknown_consumer_group_is_refused(hub):
    # With its default retries the SDK (5.15.1) swallows whatever an attach is refused with and tries again for ever.
    with Reader(hub, group="nobody", partitions=["0"], client_options={"retry_total": 0}) as reader:
        error = reader.wait_for_error()
    assert isinstance(error, EventHubError)


def test_a_reader_with_an_owner_level_pushes_out_the_others(hub, sent):
    device_id, partition, _ = sent
    group = "$Default"
    with Reader(hub, group=group, partitions=[partition], owner_level=1) as first:
        first.wait_for(device_id, 10)
        with Reader(hub, group=group, partitions=[partition], owner_level=2) as second:
            second.wait_for(device_id, 10)
            assert isinstance(first.wait_for_error(), EventHubError)
            with Reader(hub, group=group, partitions=[partition], owner_level=1) as third:
                assert isinstance(third.wait_for_error(), EventHubError)
                assert third.of(device_id) == []
        # An equal level takes over as well: an event processor uses 0 everywhere.
        with Reader(hub, group=group, partitions=[partition], owner_level=2) as fourth:
            fourth.wait_for(device_id, 10)


def test_hub_and_partition_properties_tell_the_truth(hub, sent):
    _, partition, events = sent
    with hub.consumer() as consumer:
        found = consumer.get_eventhub_properties()
        assert found["eventhub_name"] == fields(hub.connection["eventHub"])["EntityPath"]
        assert found["partition_ids"] == [str(n) for n in range(len(found["partition_ids"]))]
        assert len(found["partition_ids"]) >= 4
        of_partition = consumer.get_partition_properties(partition)
    assert not of_partition["is_empty"]
    assert of_partition["beginning_sequence_number"] == 0
    assert of_partition["last_enqueued_sequence_number"] >= events[-1].sequence_number
    assert int(of_partition["last_enqueued_offset"]) >= int(events[-1].offset)
    assert of_partition["last_enqueued_time_utc"] >= events[-1].enqueued_time


def test_a_reader_learns_how_far_behind_it_is(hub, sent):
    device_id, partition, events = sent
    with Reader(hub, partitions=[partition], track_last_enqueued_event_properties=True) as reader:
        assert len(reader.wait_for(device_id, 10)) == 10


def test_events_are_read_over_websockets(hub, sent):
    options = {"transport_type": TransportType.AmqpOverWebsocket}
    assert read_from(hub, sent, 10, client_options=options) == [str(n) for n in range(10)]


def test_events_are_read_without_tls_in_development(hub, sent):
    found = fields(hub.connection["eventHub"])
    if not hub.connection.get("ports", {}).get("amqpPlain", 5672):
        pytest.skip("the hub does not listen without TLS")
    string = (
        f"Endpoint=sb://{hub.host};SharedAccessKeyName={found['SharedAccessKeyName']};"
        f"SharedAccessKey={found['SharedAccessKey']};EntityPath={found['EntityPath']};UseDevelopmentEmulator=true"
    )
    options = {"connection_string": string}
    assert read_from(hub, sent, 10, client_options=options) == [str(n) for n in range(10)]


def test_large_events_are_read_by_slow_and_fast_readers(hub):
    device = hub.create()
    bodies = [bytes([n]) * 200_000 for n in range(20)]
    with connected(hub.client(device)) as client:
        for one in bodies:
            client.send_message(one)
    for prefetch in (1, 300):
        with Reader(hub, prefetch=prefetch) as reader:
            assert [body(event) for event in reader.wait_for(device.device_id, 20)] == bodies


def test_one_client_reads_all_partitions(hub):
    # Only what is sent here: this client takes 0.2 s a turn for each idle partition, however many events wait elsewhere.
    start = datetime.datetime.now(datetime.timezone.utc)
    devices = [hub.create() for _ in range(8)]
    for device in devices:
        send(hub, device, ["a", "b"])
    seen = {}

    def on_event(context, event):
        seen.setdefault(sender(event), []).append(event.body_as_str())
        if all(len(seen.get(device.device_id, ())) >= 2 for device in devices):
            client.close()

    client = hub.consumer(load_balancing_interval=1)
    client.receive(on_event, starting_position=start)
    assert all(seen[device.device_id] == ["a", "b"] for device in devices)


def test_a_reader_with_the_wrong_key_is_refused(hub):
    found = fields(hub.connection["eventHub"])
    string = hub.connection["eventHub"].replace(found["SharedAccessKey"], "A" * 43 + "=")
    with hub.consumer(connection_string=string, retry_total=0) as consumer, pytest.raises((ConnectError, EventHubError)):
        consumer.get_eventhub_properties()


def test_a_policy_without_the_right_may_not_read_events(hub):
    name, key = hub.policy_key("registryRead")
    found = fields(hub.connection["eventHub"])
    string = f"Endpoint={found['Endpoint']};SharedAccessKeyName={name};SharedAccessKey={key};EntityPath={found['EntityPath']}"
    with hub.consumer(connection_string=string, retry_total=0) as consumer, pytest.raises((ConnectError, EventHubError)):
        consumer.get_eventhub_properties()
