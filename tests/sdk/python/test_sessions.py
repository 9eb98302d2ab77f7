"""Connections of one identity: one at a time, and what the registry says about them."""

import pytest
from hub_under_test import Reader, connected, until
from wire import CONNACK_ACCEPTED, Wire, login

RESUME, CLEAN = 0xC0, 0xC2
NO_SESSION, SESSION_PRESENT = CONNACK_ACCEPTED, b"\x20\x02\x01\x00"


def test_the_newer_connection_of_a_device_wins(hub):
    device = hub.create()
    with connected(hub.client(device)) as first:
        first.send_message("first")
        with connected(hub.client(device)) as second:
            until(lambda: not first.connected, "the hub to close the older connection", 10)
            second.send_message("second")
            assert second.connected
    with Reader(hub) as reader:
        assert [e.body_as_str() for e in reader.wait_for(device.device_id, 2)] == ["first", "second"]


def test_a_device_and_its_module_are_connected_side_by_side(hub):
    device = hub.create()
    module = hub.registry.create_module_with_sas(device.device_id, "m", "", "", "")
    with connected(hub.client(device)) as own, connected(hub.client(device, module=module)) as of_module:
        own.send_message("device")
        of_module.send_message("module")
        assert own.connected and of_module.connected


def test_the_registry_shows_the_connection_state(hub):
    device = hub.create()

    def state():
        return hub.registry.get_device(device.device_id).connection_state

    assert state() == "Disconnected"
    with connected(hub.client(device)) as client:
        client.send_message("x")
        until(lambda: state() == "Connected", "the device to be shown as connected")
        assert hub.registry.get_service_statistics().connected_device_count >= 1
    until(lambda: state() == "Disconnected", "the device to be shown as disconnected")


def test_a_client_that_retries_comes_back_by_itself(own_hub):
    device = own_hub.create()
    with connected(own_hub.client(device, retry=True, keep_alive=5)) as client:
        client.send_message("before the restart")
        own_hub.running.stop()
        own_hub.running.start()
        client.send_message("after the restart")
    with Reader(own_hub) as reader:
        texts = [event.body_as_str() for event in reader.wait_for(device.device_id, 2)]
    # At least once: the SDK may send a message again whose acknowledgement it did not see.
    assert list(dict.fromkeys(texts)) == ["before the restart", "after the restart"]


def test_subscriptions_to_later_features_are_granted(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        # Handlers make the SDK subscribe: C2D, methods, desired properties. It fails without a SUBACK.
        client.on_message_received = lambda message: None
        client.on_method_request_received = lambda request: None
        client.on_twin_desired_properties_patch_received = lambda patch: None
        client.send_message("still connected")
        assert client.connected


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_subscriptions_of_a_client_outlive_it_and_the_hub(own_hub, how):
    """The SDK subscribes once and relies on it ever after (clean session 0)."""
    device = own_hub.create()

    def connack(flags):
        with Wire(own_hub) as raw:
            return raw.send(login(own_hub, device, flags=flags)).receive(4)

    assert connack(RESUME) == NO_SESSION
    with connected(own_hub.client(device)) as client:
        client.on_method_request_received = lambda request: None
        client.send_message("behind the SUBACK")
    getattr(own_hub.running, how)()
    own_hub.running.start()
    assert connack(RESUME) == SESSION_PRESENT
    assert connack(CLEAN) == NO_SESSION
    assert connack(RESUME) == NO_SESSION
