"""Twins: a back end and a device read and write them through the service SDK and the device SDK."""

import json
import queue

import pytest
from azure.iot.hub.models import Twin, TwinProperties
from hub_under_test import connected, unique
from msrest.exceptions import HttpOperationError


def desired_patches(client):
    """The patches that the device gets, in order."""
    patches = queue.SimpleQueue()
    client.on_twin_desired_properties_patch_received = patches.put
    return patches


def patch(hub, device, desired=None, tags=None, etag="*"):
    twin = Twin(tags=tags, properties=TwinProperties(desired=desired) if desired is not None else None)
    return hub.registry.update_twin(device.device_id, twin, etag)


def refused(number, call):
    with pytest.raises(HttpOperationError) as error:
        call()
    assert str(number) in error.value.response.text, error.value.response.text
    return error.value.response.text


def test_a_new_device_has_an_empty_twin(hub):
    device = hub.create()
    twin = hub.registry.get_twin(device.device_id)
    assert (twin.version, twin.etag, twin.status, twin.connection_state) == (1, "AAAAAAAAAAE=", "enabled", "Disconnected")
    assert twin.tags == {} and twin.properties.desired["$version"] == 1
    assert twin.authentication_type == "sas" and twin.x509_thumbprint.primary_thumbprint is None
    with connected(hub.client(device)) as client:
        assert client.get_twin() == {"desired": {"$version": 1}, "reported": {"$version": 1}}


def test_a_device_reports_and_a_back_end_reads_it(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        reported = {"fw": "1.0", "nested": {"n": 4503599627370495, "f": 1.5, "b": True}, "list": [1, {"a": None}], "ünï": "✓"}
        client.patch_twin_reported_properties(reported)
        client.patch_twin_reported_properties({"fw": None, "more": 1})
        expected = {key: value for key, value in reported.items() if key != "fw"}
        expected["more"] = 1
        assert client.get_twin()["reported"] == {**expected, "$version": 3}
    found = hub.registry.get_twin(device.device_id).properties.reported
    assert found["$metadata"]["nested"]["n"]["$lastUpdated"].endswith("Z")
    assert {key: value for key, value in found.items() if not key.startswith("$")} == expected


def test_patches_reach_the_device_in_order(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        patches = desired_patches(client)
        assert client.get_twin()["desired"]["$version"] == 1
        for number in range(20):
            patch(hub, device, {"n": number, "gone": None})
        for number in range(20):
            assert patches.get(timeout=30) == {"n": number, "gone": None, "$version": number + 2}
        hub.registry.replace_twin(device.device_id, Twin(properties=TwinProperties(desired={"only": 1})))
        assert patches.get(timeout=30) == {"only": 1, "$version": 22}


def test_after_a_reconnect_the_device_reads_and_gets_what_follows(hub):
    device = hub.create()
    client = hub.client(device)
    with connected(client):
        patches = desired_patches(client)
        # This subscribes to answers, which the SDK's own reads rely on.
        client.get_twin()
        patch(hub, device, {"n": 1})
        assert patches.get(timeout=30)["n"] == 1
        client.disconnect()
        patch(hub, device, {"n": 2})
        client.connect()
        # The SDK reads the twin after each connect and passes on what is newer.
        assert patches.get(timeout=30)["n"] == 2
        patch(hub, device, {"n": 3})
        assert patches.get(timeout=30) == {"n": 3, "$version": 4}


def test_a_module_has_a_twin_of_its_own(hub):
    device = hub.create()
    module = hub.registry.create_module_with_sas(device.device_id, unique("mod"), "", "", "")
    twin = hub.registry.get_module_twin(device.device_id, module.module_id)
    assert twin.module_id == module.module_id
    with connected(hub.client(device, module=module)) as client:
        patches = desired_patches(client)
        client.get_twin()
        change = Twin(tags={"t": 1}, properties=TwinProperties(desired={"d": 1}))
        hub.registry.update_module_twin(device.device_id, module.module_id, change, twin.etag)
        assert patches.get(timeout=30) == {"d": 1, "$version": 2}
        client.patch_twin_reported_properties({"r": 1})
    twin = hub.registry.get_module_twin(device.device_id, module.module_id)
    assert twin.tags == {"t": 1} and twin.properties.reported["r"] == 1
    assert hub.registry.get_twin(device.device_id).version == 1


def test_a_condition_and_limits_are_kept(hub):
    device = hub.create()
    first = patch(hub, device, tags={"site": {"hall": 7}})
    assert (first.version, first.tags) == (2, {"site": {"hall": 7}})
    refused(412001, lambda: patch(hub, device, tags={"a": 1}, etag="AAAAAAAAAAE="))
    assert patch(hub, device, tags={"site": None, "b": 2}, etag=first.etag).tags == {"b": 2}
    assert "tags.a.b" in refused(400004, lambda: patch(hub, device, tags={"a.b": 1}))
    assert "properties.desired.$x" in refused(400004, lambda: patch(hub, device, {"$x": 1}))
    assert "at most 8192" in refused(413001, lambda: patch(hub, device, tags={str(n): "x" * 4000 for n in range(3)}))
    deep = {"k": 1}
    for _ in range(11):
        deep = {"k": deep}
    assert "10 levels" in refused(400004, lambda: patch(hub, device, deep))
    hub.registry.delete_device(device.device_id)
    refused(404001, lambda: hub.registry.get_twin(device.device_id))


def test_a_device_learns_why_its_patch_is_refused(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        with pytest.raises(Exception) as error:
            client.patch_twin_reported_properties({"a b": 1})
        assert "400" in str(error.value) or "400" in str(error.value.__cause__)
        client.patch_twin_reported_properties({"ok": 1})


def test_the_command_line_shows_changes_and_tells_the_history(hub):
    device = hub.create()

    def cli(*args):
        return json.loads(hub.running.cli("twin", *args))

    with connected(hub.client(device)) as client:
        patches = desired_patches(client)
        client.get_twin()
        shown = cli("update", device.device_id, "--tags", '{"a":1}', "--desired", '{"rate":10}')
        assert shown["version"] == 2
        assert patches.get(timeout=30)["rate"] == 10
        cli("replace", device.device_id, "-j", '{"properties":{"desired":{"rate":20}}}', "-e", shown["etag"])
        assert patches.get(timeout=30) == {"rate": 20, "$version": 3}
    assert cli("show", "-d", device.device_id)["tags"] == {"a": 1}
    versions = cli("history", device.device_id)["versions"]
    assert [one["version"] for one in versions] == [3, 2, 1]
    assert versions[1]["desired"] == {"rate": 10, "$version": 2}


