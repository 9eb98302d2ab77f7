"""Device queries through azure-iot-hub: pages, item types, projections, aggregates, refusals."""

import pytest
from azure.iot.hub.models import QuerySpecification, Twin, TwinProperties
from hub_under_test import connected, unique
from msrest.exceptions import HttpOperationError


def query(hub, text, size=None, token=None):
    return hub.registry.query_iot_hub(QuerySpecification(query=text), token, size)


def everything(hub, text, size):
    """All results page by page, as a program with this SDK loops."""
    results, token, pages = [], None, 0
    while True:
        page = query(hub, text, size, token)
        results += page.items
        token = page.continuation_token
        pages += 1
        if not token:
            return results, pages


def refused(hub, text):
    with pytest.raises(HttpOperationError) as error:
        query(hub, text)
    assert error.value.response.status_code == 400
    assert error.value.response.json()["errorCode"] == 400004
    return error.value.response.text


@pytest.fixture(scope="module")
def fleet(hub):
    """Five devices of a prefix of their own, the second one disabled and with a module."""
    prefix = unique("fleet-")
    names = [f"{prefix}-{number}" for number in range(5)]
    for number, name in enumerate(names):
        hub.registry.create_device_with_sas(name, "", "", "disabled" if number == 1 else "enabled")
    hub.registry.create_module_with_sas(names[1], "m1", "", "", "")
    return prefix, names


def test_one_device_is_one_page_of_one_twin(hub, fleet):
    prefix, names = fleet
    page = query(hub, f"SELECT * FROM devices WHERE deviceId = '{names[1]}'")
    assert page.type == "Twin" and not page.continuation_token
    (twin,) = page.items
    assert (twin.device_id, twin.status, twin.connection_state) == (names[1], "disabled", "Disconnected")
    assert twin.authentication_type == "sas" and twin.capabilities.iot_edge is False
    assert twin.properties.desired["$version"] == 1


def test_pages_have_each_device_once(hub, fleet):
    prefix, names = fleet
    text = f"SELECT * FROM devices WHERE STARTSWITH(deviceId, '{prefix}')"
    for size in (1, 2, 5, 100):
        twins, pages = everything(hub, text, size)
        assert [twin.device_id for twin in twins] == names
        assert pages <= 5 // size + 1
    top, _ = everything(hub, text.replace("SELECT", "SELECT TOP 3"), 2)
    assert [twin.device_id for twin in top] == names[:3]


def test_columns_and_aggregates_are_raw(hub, fleet):
    prefix, names = fleet
    where = f"WHERE STARTSWITH(deviceId, '{prefix}')"
    page = query(hub, f"SELECT deviceId, status AS s FROM devices {where} AND NOT status = 'enabled'")
    assert page.type == "Raw"
    # This SDK reads every result as a twin: keys that a twin does not have are additional properties.
    assert [(item.device_id, item.additional_properties) for item in page.items] == [(names[1], {"s": "disabled"})]
    groups = query(hub, f"SELECT status AS s, COUNT() AS n FROM devices {where} GROUP BY status")
    assert [item.additional_properties for item in groups.items] == [{"s": "disabled", "n": 1}, {"s": "enabled", "n": 4}]


def test_devices_are_found_by_their_twins(hub, fleet):
    prefix, names = fleet
    for number, site in enumerate(["A", "A", "B"]):
        patch = Twin(tags={prefix: {"site": site}}, properties=TwinProperties(desired={"rate": number}))
        hub.registry.update_twin(names[number], patch)
    found = query(hub, f"SELECT * FROM devices WHERE tags.[[{prefix}]].site = 'A'").items
    assert [twin.device_id for twin in found] == names[:2]
    assert found[1].as_dict() == hub.registry.get_twin(names[1]).as_dict()
    groups = query(
        hub, f"SELECT tags.[[{prefix}]].site AS site, SUM(properties.desired.rate) AS s FROM devices "
        f"WHERE IS_DEFINED(tags.[[{prefix}]]) GROUP BY tags.[[{prefix}]].site"
    )
    assert [item.additional_properties for item in groups.items] == [{"site": "A", "s": 1}, {"site": "B", "s": 2}]


def test_modules_are_queried(hub, fleet):
    prefix, names = fleet
    page = query(hub, f"select * from devices.modules where devices.deviceId = '{names[1]}'")
    assert page.type == "Twin"
    assert [(module.device_id, module.module_id) for module in page.items] == [(names[1], "m1")]


def test_a_connection_is_seen_at_once(hub):
    device = hub.create()
    text = f"SELECT * FROM devices WHERE deviceId = '{device.device_id}' AND connectionState = 'Connected'"
    assert query(hub, text).items == []
    with connected(hub.client(device)):
        (twin,) = query(hub, text).items
        assert twin.connection_state == "Connected"


def test_what_is_no_query_is_refused_with_its_place(hub):
    assert "line 1, column 28" in refused(hub, "SELECT * FROM devices WHERE")
    assert "there is no function" in refused(hub, "SELECT * FROM devices WHERE FROBNICATE(tags.a)")
    assert "more than 64 levels" in refused(hub, f"SELECT * FROM devices WHERE {'(' * 1000}1{')' * 1000}")
    assert "8192" in refused(hub, f"SELECT * FROM devices WHERE tags.a = '{'x' * 100_000}'")
