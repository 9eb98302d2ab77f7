"""Which credentials are accepted, and what happens to a live connection when they are revoked."""

import base64

import pytest
from azure.iot.device.exceptions import ClientError, CredentialError
from harness import sas_token
from hub_under_test import Reader, connected, until

OTHER_KEY = base64.b64encode(b"o" * 32).decode()


def refused(client, error=CredentialError):
    try:
        with pytest.raises(error):
            client.connect()
    finally:
        client.shutdown()


def resource(hub, device):
    return f"{hub.host}/devices/{device.device_id}"


def primary(device):
    return device.authentication.symmetric_key.primary_key


def test_both_keys_let_a_device_in(hub):
    device = hub.create()
    for key in ("primary", "secondary"):
        with connected(hub.client(device, key)) as client:
            client.send_message(key)
    with Reader(hub) as reader:
        assert [e.body_as_str() for e in reader.wait_for(device.device_id, 2)] == ["primary", "secondary"]


def test_a_ready_made_token_lets_a_device_in(hub):
    device = hub.create()
    with connected(hub.client_with_token(sas_token(resource(hub, device), primary(device)))) as client:
        client.send_message("x")


def test_a_token_of_the_device_policy_lets_any_device_in(hub):
    device = hub.create()
    name, key = hub.policy_key("device")
    with connected(hub.client_with_token(sas_token(resource(hub, device), key, name))) as client:
        client.send_message("x")
    name, key = hub.policy_key("service")
    refused(hub.client_with_token(sas_token(resource(hub, device), key, name)))


def test_a_token_made_by_the_command_line_lets_a_device_in(hub):
    device = hub.create()
    token = hub.running.cli("sas-token", "--device-id", device.device_id).strip()
    with connected(hub.client_with_token(token)) as client:
        client.send_message("x")


def test_the_command_line_prints_a_connection_string_that_works(hub):
    device = hub.create()
    printed = hub.running.cli("device", "connection-string", device.device_id).strip()
    assert printed == hub.connection_string(device)


def test_wrong_credentials_are_refused(hub):
    # Expired tokens the SDK refuses by itself; the Node suite sends them.
    device, other = hub.create(), hub.create()
    refused(hub.client(device, OTHER_KEY))
    refused(hub.client(device, primary(other)))
    refused(hub.client_with_token(sas_token(resource(hub, device), OTHER_KEY)))


def test_a_token_for_another_device_or_host_is_refused(hub):
    device, other = hub.create(), hub.create()
    # The SDK takes the device from the token, so that only the host can differ here.
    token = sas_token(f"elsewhere.example.com/devices/{device.device_id}", primary(device))
    refused(hub.client_with_token(token, gateway_hostname=hub.host))
    refused(hub.client_with_token(sas_token(resource(hub, other), primary(device))))


def test_an_unknown_device_is_refused(hub):
    device = hub.create()
    hub.registry.delete_device(device.device_id)
    refused(hub.client(device))


def test_a_device_may_connect_the_moment_it_is_created(hub):
    for _ in range(5):
        device = hub.create()
        with connected(hub.client(device)) as client:
            client.send_message("at once")


def test_a_disabled_device_is_cut_off_and_may_come_back(hub):
    device = hub.create()
    keys = device.authentication.symmetric_key
    update = hub.registry.update_device_with_sas
    with connected(hub.client(device)) as client:
        client.send_message("before")
        disabled = update(device.device_id, device.etag, keys.primary_key, keys.secondary_key, "disabled")
        until(lambda: not client.connected, "the hub to close the connection of a disabled device", 10)
    refused(hub.client(device))
    update(device.device_id, disabled.etag, keys.primary_key, keys.secondary_key, "enabled")
    with connected(hub.client(device)) as client:
        client.send_message("after")
    with Reader(hub) as reader:
        assert [e.body_as_str() for e in reader.wait_for(device.device_id, 2)] == ["before", "after"]


def test_a_deleted_device_is_cut_off(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        hub.registry.delete_device(device.device_id)
        until(lambda: not client.connected, "the hub to close the connection of a deleted device", 10)
    refused(hub.client(device))


def test_a_changed_key_closes_its_connections_and_spares_the_others(hub):
    device = hub.create()
    keys = device.authentication.symmetric_key
    with connected(hub.client(device)) as client:
        client.send_message("with the old key")
        changed = hub.registry.update_device_with_sas(
            device.device_id, device.etag, OTHER_KEY, keys.secondary_key, "enabled"
        )
        until(lambda: not client.connected, "the hub to close the connection of the changed key", 10)
    refused(hub.client(device))
    with connected(hub.client(changed)) as client:
        client.send_message("with the new key")
        with_secondary = hub.client(device, "secondary")
    with connected(with_secondary) as client:
        client.send_message("with the secondary key")
    with Reader(hub) as reader:
        assert len(reader.wait_for(device.device_id, 3)) == 3


def test_a_module_has_keys_of_its_own(hub):
    device = hub.create()
    module = hub.registry.create_module_with_sas(device.device_id, "m", "", "", "")
    with connected(hub.client(device, module=module)) as client:
        client.send_message("x")
    refused(hub.client(device, primary(device), module=module))


def test_a_client_without_our_ca_does_not_connect(hub):
    device = hub.create()
    client = hub.client(device, server_verification_cert=None)
    try:
        with pytest.raises(ClientError, match="TLS"):
            client.connect()
    finally:
        client.shutdown()
