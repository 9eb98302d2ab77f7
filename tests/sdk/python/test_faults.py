"""Fault-injection messages: with the option the hub breaks the sender's connection, without it they are telemetry."""

import contextlib
import time

import pytest
from azure.iot.device import Message
from azure.iot.device.exceptions import ClientError, ConnectionFailedError, CredentialError
from harness import Hub
from hub_under_test import HubUnderTest, Reader, connected, until


@pytest.fixture(scope="module")
def faulty_hub():
    with Hub(["--fault-injection"]) as running:
        yield HubUnderTest(running)


def fault(kind, delay=0, duration=0):
    message = Message(kind)
    message.custom_properties.update(
        AzIoTHub_FaultOperationType=kind,
        AzIoTHub_FaultOperationCloseReason="byebye",
        AzIoTHub_FaultOperationDelayInSecs=str(delay),
        AzIoTHub_FaultOperationDurationInSecs=str(duration),
    )
    return message


@pytest.mark.parametrize("kind", ["KillTcp", "ShutDownMqtt"])
@pytest.mark.parametrize("websockets", [False, True])
def test_a_device_comes_back_after_the_fault_that_it_asked_for(faulty_hub, kind, websockets):
    device = faulty_hub.create()
    with connected(faulty_hub.client(device, retry=True, websockets=websockets)) as client:
        ended = []
        client.on_connection_state_change = lambda: ended.append(client.connected)
        client.send_message(fault(kind, delay=1))
        until(lambda: ended[:2] == [False, True], "the client to lose its connection and to come back")
        client.send_message("after the fault")
    with Reader(faulty_hub) as reader:
        texts = [event.body_as_str() for event in reader.wait_for(device.device_id, 2)]
    assert texts == [kind, "after the fault"], "the message itself is stored too"


def test_a_device_is_refused_for_the_time_that_it_asked_for(faulty_hub):
    device = faulty_hub.create()
    with connected(faulty_hub.client(device)) as client:
        client.send_message(fault("InvokeAuthError", duration=10))
        until(lambda: not client.connected, "the hub to close the connection")
        began = time.monotonic()
        assert not connects(faulty_hub, device), "the hub refuses the device at first"
        until(lambda: connects(faulty_hub, device), "the refusals to end")
        assert time.monotonic() - began > 5, "half of the time at least: the client may notice the close late"


def connects(hub, device):
    """Whether the hub takes the device now.

    A new client for each attempt: after a refusing CONNACK the client still handles the end of that connection while
    its `connect` has already returned, and so ends a connection that the next `connect` of the same client has begun.
    """
    client = hub.client(device)
    try:
        client.connect()
    except REFUSED:
        # Both this thread and the client's own clean up after the refused connection; whichever is second may find it gone.
        with contextlib.suppress(ClientError):
            client.shutdown()
        return False
    client.shutdown()
    return True


# Of the two events that follow a refusing CONNACK in the client, its return code and the end of the connection, either may come first.
REFUSED = (CredentialError, ConnectionFailedError)


def test_without_the_option_the_message_is_telemetry(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        client.send_message(fault("KillTcp"))
        client.send_message("after it")
        assert client.connected
    with Reader(hub) as reader:
        assert [event.body_as_str() for event in reader.wait_for(device.device_id, 2)] == ["KillTcp", "after it"]
