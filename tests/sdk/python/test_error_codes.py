"""The numbers of refusals about credentials, rates and administration, each by a client as people have it.

`docs/error-tests.md` names these tests, and `cargo test -p holdfast-model` checks that it does.
"""

import json
import time

import pytest
from azure.eventhub.exceptions import EventHubError
from azure.iot.device.exceptions import ClientError
from azure.iot.hub.models import QuerySpecification
from certificates import Workshop
from harness import NODES, Hub, sas_token
from hub_under_test import HubUnderTest, connected, unique, until
from issuer import Issuer
from msrest.exceptions import HttpOperationError
from test_bad_requests import VERSION, call, check
from wire import Wire, login


def last_code(hub, device_id):
    refusals = json.loads(hub.running.cli("device", "diagnose", device_id, "-o", "json"))["refusals"]
    return refusals[-1]["errorCode"] if refusals else None


def refuse(client):
    with pytest.raises(ClientError):
        client.connect()
    client.shutdown()


def device_token(hub, device, key=None, **more):
    key = key or device.authentication.symmetric_key.primary_key
    return sas_token(f"{hub.host}/devices/{device.device_id}", key, **more)


def test_a_device_with_a_wrong_key_is_refused_with_401002(hub):
    device = hub.create()
    other = hub.create()
    refuse(hub.client_with_token(device_token(hub, device, other.authentication.symmetric_key.primary_key)))
    assert last_code(hub, device.device_id) == 401002


def test_the_older_of_two_connections_is_closed_with_400027(hub):
    device = hub.create()
    with connected(hub.client(device)) as first, connected(hub.client(device)):
        until(lambda: not first.connected, "the end of the older connection")
        assert last_code(hub, device.device_id) == 400027


def test_policies_are_refused_with_their_numbers(hub):
    path = f"/holdfast/v1/policies/{unique('policy')}"
    check(call(hub, "PUT", path, b"{}"), 400005, "ArgumentNull")
    check(call(hub, "PUT", path, b'{"rights":4}'), 400006, "IotHubFormatError")
    check(call(hub, "PUT", path, b'{"rights":"Fly"}'), 400004, "ArgumentInvalid")
    check(call(hub, "GET", path), 404000, "GenericNotFound")
    made = call(hub, "PUT", path, b'{"rights":"ServiceConnect"}')
    assert made.status_code == 201, made.text
    check(call(hub, "PUT", path, b'{"rights":"ServiceConnect"}', **{"If-None-Match": "*"}), 409000, "GenericConflict")
    check(call(hub, "DELETE", "/holdfast/v1/consumerGroups/$Default"), 400003, "InvalidOperation")


def test_cas_are_refused_with_their_numbers(hub):
    path = f"/holdfast/v1/certificates/{unique('ca')}"
    check(call(hub, "GET", path), 404008, "CertificateNotFound")
    workshop = Workshop()
    ca = workshop.ca("a CA")
    body = json.dumps({"certificate": ca.certificate_file.read_text()}).encode()
    assert call(hub, "PUT", path, body).status_code in (200, 201)
    check(call(hub, "PUT", path, body), 409000, "GenericConflict")
    check(call(hub, "POST", f"{path}/verify", body), 400003, "InvalidOperation")
    check(call(hub, "DELETE", path, **{"If-Match": '"x"'}), 412001, "PreconditionFailed")


def test_edge_devices_are_refused_with_their_numbers(hub):
    edge = unique("edge")
    made = call(hub, "PUT", f"/devices/{edge}?{VERSION}", json.dumps({"deviceId": edge, "capabilities": {"iotEdge": True}}))
    assert made.status_code == 200, made.text
    check(
        call(hub, "DELETE", f"/devices/{edge}/modules/$edgeAgent?{VERSION}", **{"If-Match": "*"}),
        401100,
        "SystemModuleModifyUnauthorizedAccess",
    )
    check(call(hub, "PUT", f"/devices/{edge}/modules/a/modules/b?{VERSION}", b"{}"), 400301, "CannotRegisterModuleToModule")
    leaf = unique("leaf")
    body = json.dumps({"deviceId": leaf, "deviceScope": "ms-azure-iot-edge://none-1"})
    check(call(hub, "PUT", f"/devices/{leaf}?{VERSION}", body), 400028, "InvalidDeviceScope")


def test_a_feature_of_later_is_404013_and_a_consumer_group_that_is_not_there_404006(hub):
    check(call(hub, "GET", f"/configurations?{VERSION}"), 404013, "FeatureNotSupported")
    with pytest.raises(EventHubError) as error:
        with hub.consumer(group="nobodys", retry_total=0) as consumer:
            failures = []
            consumer.receive(
                lambda *_: None,
                on_error=lambda _, failure: (failures.append(failure), consumer.close()),
                partition_id="0",
                starting_position="-1",
            )
            raise failures[0]
    # AmqpAddressNotFound: the SDK keeps the condition and the text, and drops the number.
    assert "could not be found" in str(error.value), repr(error.value)


@pytest.mark.skipif(NODES > 1, reason="a node has a share of each rate")
def test_a_query_beyond_the_rate_is_refused_by_the_bound_that_it_meets():
    query = QuerySpecification(query="SELECT * FROM devices")
    for settings, number, name in [
        ({"max_wait": "0s"}, 429001, "ThrottlingException"),
        ({"max_wait": "20s", "max_waiting": "0"}, 429002, "ThrottleBacklogLimitExceeded"),
        ({"max_wait": "1s"}, 429003, "ThrottlingBacklogTimeout"),
    ]:
        settings = {"queries": "1/min", **settings}
        with Hub([part for key, value in settings.items() for part in ("--set", f"throttles.{key}={value}")]) as running:
            hub = HubUnderTest(running)
            hub.registry.query_iot_hub(query)
            with pytest.raises(HttpOperationError) as error:
                hub.registry.query_iot_hub(query)
            response = error.value.response
            assert (response.status_code, response.json()["errorCode"]) == (429, number), response.text
            assert response.headers["iothub-errorcode"] == name


@pytest.mark.skipif(NODES > 1, reason="`holdfast dev --nodes` needs the issuer itself")
def test_a_bearer_token_is_503001_while_the_issuer_is_down_and_401003_once_it_is_over():
    issuer = Issuer()
    token = issuer.token("admin", "IoT Hub Data Contributor")
    over = issuer.token("admin", "IoT Hub Data Contributor", lifetime=-900)
    with Hub(issuer.hub_arguments()) as running:
        hub = HubUnderTest(running)
        path = f"/devices/any?{VERSION}"
        ask = lambda text: call(hub, "GET", path, authorization=f"Bearer {text}")  # noqa: E731
        until(lambda: ask(token).status_code == 404, "the keys of the issuer")
        check(ask(over), 401003, "IotHubUnauthorized")
        running.stop()
        issuer.close()
        running.start()
        check(ask(token), 503001, "ServiceUnavailable")


def test_a_token_whose_time_is_over_is_401003(hub):
    device = hub.create()
    with Wire(hub) as socket:
        socket.send(login(hub, device, expiry=int(time.time()) - 900))
        assert socket.receive(4)[:2] == b"\x20\x02"
    assert last_code(hub, device.device_id) == 401003


def test_what_is_no_mqtt_is_400000(hub):
    device = hub.create()
    with Wire(hub) as socket:
        socket.send(login(hub, device) + b"\xf0\x00")
        socket.until_closed()
    assert last_code(hub, device.device_id) == 400000


def test_messages_to_devices_are_refused_with_their_numbers(hub):
    off = hub.create(status="disabled").device_id
    check(call(hub, "POST", f"/holdfast/v1/devices/{off}/c2d", b"{}"), 403012, "DeviceDisabled")
    check(call(hub, "POST", f"/holdfast/v1/devices/{unique()}/c2d", b"{}"), 404001, "DeviceNotFound")
