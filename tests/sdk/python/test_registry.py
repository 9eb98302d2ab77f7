"""Identities through azure-iot-hub: create, read, update, delete, bulk, statistics, rights."""

import base64

import pytest
from azure.iot.hub.models import (
    AuthenticationMechanism,
    ExportImportDevice,
    SymmetricKey,
)
from hub_under_test import unique
from msrest.exceptions import HttpOperationError

KEY_A = base64.b64encode(b"a" * 32).decode()
KEY_B = base64.b64encode(b"b" * 32).decode()


def refused(status, call, *args, **more):
    with pytest.raises(HttpOperationError) as raised:
        call(*args, **more)
    assert raised.value.response.status_code == status, raised.value.response.text
    return raised.value.response


def test_a_device_is_created_with_generated_keys_and_read_back(hub):
    created = hub.create()
    assert created.status == "enabled" and created.connection_state == "Disconnected"
    assert created.authentication.type == "sas" and created.etag and created.generation_id
    keys = created.authentication.symmetric_key
    assert len(base64.b64decode(keys.primary_key)) == len(base64.b64decode(keys.secondary_key)) == 32
    assert keys.primary_key != keys.secondary_key
    read = hub.registry.get_device(created.device_id)
    assert read.as_dict() == created.as_dict()


def test_a_device_is_created_with_given_keys(hub):
    created = hub.registry.create_device_with_sas(unique(), KEY_A, KEY_B, "disabled", status_reason="in the store")
    assert created.authentication.symmetric_key.primary_key == KEY_A
    assert created.authentication.symmetric_key.secondary_key == KEY_B
    assert (created.status, created.status_reason) == ("disabled", "in the store")


def test_every_legal_character_of_an_id_survives(hub):
    device_id = unique("a-b:c.d+e%41f_g#h*i?j!k(l)m,n=o@p;q$r's")
    assert hub.create(device_id).device_id == device_id
    assert hub.registry.get_device(device_id).device_id == device_id
    hub.registry.delete_device(device_id)
    refused(404, hub.registry.get_device, device_id)


def test_an_illegal_id_is_refused_with_400004(hub):
    response = refused(400, hub.registry.create_device_with_sas, "ö", "", "", "enabled")
    assert response.json()["errorCode"] == 400004


def test_creating_twice_is_refused_with_409001(hub):
    device = hub.create()
    response = refused(409, hub.registry.create_device_with_sas, device.device_id, "", "", "enabled")
    assert response.json()["errorCode"] == 409001
    assert response.headers["iothub-errorcode"] == "DeviceAlreadyExists"


def test_an_update_needs_the_current_etag(hub):
    device = hub.create()
    keys = device.authentication.symmetric_key
    update = hub.registry.update_device_with_sas
    changed = update(device.device_id, device.etag, keys.primary_key, keys.secondary_key, "disabled", status_reason="x")
    assert changed.status == "disabled" and changed.etag != device.etag
    assert changed.generation_id == device.generation_id
    response = refused(412, update, device.device_id, device.etag, KEY_A, KEY_B, "enabled")
    assert response.json()["errorCode"] == 412001
    assert hub.registry.get_device(device.device_id).status == "disabled"
    assert update(device.device_id, "*", KEY_A, KEY_B, "enabled").authentication.symmetric_key.primary_key == KEY_A


def test_a_deleted_device_is_gone_and_its_successor_is_another(hub):
    device = hub.create()
    refused(412, hub.registry.delete_device, device.device_id, "AAAA")
    hub.registry.delete_device(device.device_id, device.etag)
    response = refused(404, hub.registry.get_device, device.device_id)
    assert response.json()["errorCode"] == 404001
    refused(404, hub.registry.delete_device, device.device_id)
    again = hub.create(device.device_id)
    assert again.generation_id != device.generation_id
    assert again.authentication.symmetric_key.primary_key != device.authentication.symmetric_key.primary_key


def test_devices_are_listed_in_order(hub):
    made = sorted(hub.create(unique("list")).device_id for _ in range(3))
    listed = [device.device_id for device in hub.registry.get_devices(1000)]
    assert listed == sorted(listed)
    assert [name for name in listed if name in made] == made
    assert len(hub.registry.get_devices(2)) == 2


def test_modules_live_and_die_with_their_device(hub):
    device = hub.create()
    made = hub.registry.create_module_with_sas(device.device_id, "m1", "someone", "", "")
    assert (made.device_id, made.module_id, made.managed_by) == (device.device_id, "m1", "someone")
    hub.registry.create_module_with_sas(device.device_id, "m2", "", KEY_A, KEY_B)
    assert hub.registry.get_module(device.device_id, "m2").authentication.symmetric_key.primary_key == KEY_A
    assert [m.module_id for m in hub.registry.get_modules(device.device_id)] == ["m1", "m2"]
    response = refused(409, hub.registry.create_module_with_sas, device.device_id, "m1", "", "", "")
    assert response.json()["errorCode"] == 409301
    changed = hub.registry.update_module_with_sas(device.device_id, "m1", "someone", made.etag, KEY_A, KEY_B)
    assert changed.authentication.symmetric_key.primary_key == KEY_A
    hub.registry.delete_module(device.device_id, "m1")
    response = refused(404, hub.registry.get_module, device.device_id, "m1")
    assert response.json()["errorCode"] == 404010
    hub.registry.delete_device(device.device_id)
    refused(404, hub.registry.get_module, device.device_id, "m2")
    refused(404, hub.registry.create_module_with_sas, unique("nobody"), "m1", "", "", "")


def test_a_device_has_fifty_modules_and_the_next_is_refused_with_413003(hub):
    device = hub.create()
    for number in range(50):
        hub.registry.create_module_with_sas(device.device_id, f"m{number}", "", "", "")
    response = refused(413, hub.registry.create_module_with_sas, device.device_id, "beyond", "", "", "")
    assert response.json()["errorCode"] == 413003
    assert len(hub.registry.get_modules(device.device_id)) == 50


def bulk(mode, device_id, etag=None, key=None):
    keys = AuthenticationMechanism(type="sas", symmetric_key=SymmetricKey(primary_key=key, secondary_key=key))
    return ExportImportDevice(id=device_id, import_mode=mode, e_tag=etag, status="enabled", authentication=keys if key else None)


def test_bulk_creates_updates_and_deletes(hub):
    names = [unique("bulk") for _ in range(20)]
    run = hub.registry.bulk_create_or_update_devices
    assert run([bulk("create", name, key=KEY_A) for name in names]).is_successful
    made = [hub.registry.get_device(name) for name in names]
    assert all(device.authentication.symmetric_key.primary_key == KEY_A for device in made)
    assert run([bulk("update", name, key=KEY_B) for name in names]).is_successful
    assert hub.registry.get_device(names[7]).authentication.symmetric_key.primary_key == KEY_B
    stale = run([bulk("updateIfMatchETag", made[0].device_id, made[0].etag, KEY_A)])
    assert not stale.is_successful and stale.errors[0].device_id == names[0]
    assert run([bulk("delete", name) for name in names]).is_successful
    refused(404, hub.registry.get_device, names[3])


def test_bulk_reports_each_failure_and_does_the_rest(hub):
    old, new = hub.create().device_id, unique("bulk")
    result = hub.registry.bulk_create_or_update_devices([bulk("create", old), bulk("create", new), bulk("delete", unique())])
    assert not result.is_successful
    assert [(error.device_id == old, error.error_code) for error in result.errors][0] == (True, "DeviceAlreadyExists")
    assert [error.error_code for error in result.errors][1] == "DeviceNotFound"
    assert hub.registry.get_device(new).status == "enabled"


def test_statistics_count_devices(hub):
    before = hub.registry.get_device_registry_statistics()
    hub.create()
    hub.create(status="disabled")
    after = hub.registry.get_device_registry_statistics()
    assert after.total_device_count == before.total_device_count + 2
    assert after.enabled_device_count == before.enabled_device_count + 1
    assert after.disabled_device_count == before.disabled_device_count + 1
    assert hub.registry.get_service_statistics().connected_device_count >= 0


def test_each_policy_may_do_what_its_rights_say(hub):
    device = hub.create()
    keys = device.authentication.symmetric_key

    def allowed(policy):
        registry = hub.registry_of(policy)
        calls = {
            "read": lambda: registry.get_device(device.device_id),
            "write": lambda: registry.update_device_with_sas(
                device.device_id, "*", keys.primary_key, keys.secondary_key, "enabled"
            ),
            "service": lambda: registry.get_service_statistics(),
        }
        found = set()
        for name, call in calls.items():
            try:
                call()
                found.add(name)
            except HttpOperationError as error:
                assert error.response.status_code == 401
                assert error.response.json()["errorCode"] == 401002
        return found

    assert allowed("owner") == {"read", "write", "service"}
    assert allowed("registryReadWrite") == {"read", "write"}
    assert allowed("registryRead") == {"read"}
    assert allowed("service") == {"service"}
    assert allowed("device") == set()


def test_a_policy_with_the_wrong_key_learns_nothing(hub):
    from azure.iot.hub import IoTHubRegistryManager

    stranger = IoTHubRegistryManager.from_connection_string(
        f"HostName={hub.host};SharedAccessKeyName=iothubowner;SharedAccessKey={KEY_A}"
    )
    known, unknown = hub.create().device_id, unique()
    answers = {refused(401, stranger.get_device, name).json()["errorCode"] for name in (known, unknown)}
    assert answers == {401002}
