"""Back ends without shared keys: the SDKs' token credentials, over REST and AMQP, by role."""

import certifi
import harness
import pytest
from azure.eventhub import EventHubConsumerClient
from azure.iot.hub import IoTHubRegistryManager
from hub_under_test import HubUnderTest, _bundle, connected, unique, until
from issuer import AUDIENCE, Issuer
from msrest.exceptions import HttpOperationError


@pytest.fixture(autouse=True)
def uamqp_trusts_the_hub(monkeypatch):
    """uamqp takes no CA but certifi's, so that this one has to be among them."""
    monkeypatch.setattr(certifi, "where", lambda: _bundle.name)


@pytest.fixture(scope="module")
def issuer():
    running = Issuer()
    yield running
    running.close()


@pytest.fixture(scope="module")
def keyless_hub(issuer):
    """A hub that takes tokens of the issuer alone."""
    with harness.Hub(issuer.hub_arguments(harness.NODES)) as running:
        hub = HubUnderTest(running)
        admin = manager(hub, issuer.credential("admin", "IoT Hub Data Contributor"))
        until(lambda: answers(admin), "the keys of the issuer")
        hub.registry = admin
        yield hub


def manager(hub, credential):
    return IoTHubRegistryManager.from_token_credential(hub.host, credential)


def answers(admin):
    try:
        return admin.get_device_registry_statistics() is not None
    except HttpOperationError as error:
        assert error.response.status_code == 503
        return False


def test_each_role_opens_its_calls_and_no_others(keyless_hub, issuer):
    device = keyless_hub.create()
    reader = manager(keyless_hub, issuer.credential("reader", "IoT Hub Data Reader"))
    assert reader.get_device(device.device_id).device_id == device.device_id
    with pytest.raises(HttpOperationError) as refused:
        reader.delete_device(device.device_id)
    assert refused.value.response.status_code == 401
    text = f"Principal reader is not authorized for DELETE on /devices/{device.device_id} due to no assigned permissions"
    assert text in refused.value.response.text
    twins = manager(keyless_hub, issuer.credential("twins", "IoT Hub Twin Contributor"))
    assert twins.get_twin(device.device_id).device_id == device.device_id
    with pytest.raises(HttpOperationError):
        twins.get_device(device.device_id)


def test_a_policy_opens_nothing(keyless_hub):
    with pytest.raises(HttpOperationError) as refused:
        keyless_hub.registry_of("owner").get_device("any")
    assert refused.value.response.status_code == 401
    assert "auth.service.shared_policies" in refused.value.response.text


def test_a_message_reaches_its_device(keyless_hub, issuer):
    device = keyless_hub.create()
    client = keyless_hub.client(device)
    received = []
    with connected(client):
        client.on_message_received = lambda message: received.append(message.data)
        credential = issuer.credential("sender", "IoT Hub Data Contributor")
        sender = manager(keyless_hub, credential)
        sender.send_c2d_message(device.device_id, "hello")
        until(lambda: received == [b"hello"], "the message")
        assert f"{AUDIENCE}/.default" in credential.scopes
        sender.amqp_svc_client.disconnect_sync()


def test_telemetry_is_read_without_a_key(keyless_hub, issuer):
    device, mark = keyless_hub.create(), unique("telemetry")
    with connected(keyless_hub.client(device)) as client:
        client.send_message(mark)
    entity = keyless_hub.host.split(".")[0]
    consumer = EventHubConsumerClient(
        keyless_hub.host,
        entity,
        "$Default",
        issuer.credential("reader", "IoT Hub Data Reader"),
        connection_verify=keyless_hub.ca_file,
        retry_total=1,
    )
    seen = []

    def note(_, event):
        if event is not None:
            seen.append(event.body_as_str())
        if mark in seen:
            consumer.close()

    with consumer:
        consumer.receive(note, starting_position="-1", max_wait_time=1)
    assert mark in seen
