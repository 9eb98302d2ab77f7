"""The daily quota as clients see it: 403002 for back ends and twin requests, no acknowledgement for messages."""

import json
import ssl
import threading
import urllib.error
import urllib.request

import pytest
from azure.iot.device.exceptions import ClientError
from azure.iot.hub.models import CloudToDeviceMethod, QuerySpecification
from harness import NODES, Hub, fields, sas_token
from hub_under_test import HubUnderTest, connected, until
from msrest.exceptions import HttpOperationError
from test_bearer import uamqp_trusts_the_hub  # noqa: F401

pytestmark = pytest.mark.skipif(NODES > 1, reason="nodes learn of each other's counts twice a second")

QUOTA = 12


@pytest.fixture
def quota_hub():
    settings = {"throttles.daily_messages": str(QUOTA), "log.level": "info"}
    with Hub([part for key, value in settings.items() for part in ("--set", f"{key}={value}")]) as running:
        yield HubUnderTest(running)


def use(hub):
    return json.loads(hub.running.cli("settings", "show"))["dailyMessages"]


def refused(call):
    with pytest.raises(HttpOperationError) as error:
        call()
    response = error.value.response
    assert response.status_code == 403 and "403002" in response.text, response.text
    assert response.headers["iothub-errorcode"] == "IotHubQuotaExceeded"
    assert "00:00 UTC" in response.text


def metrics(hub):
    return urllib.request.urlopen(hub.connection["metrics"], timeout=30).read().decode()


def test_beyond_the_quota_everything_that_counts_is_refused_also_after_a_restart(quota_hub):
    hub = quota_hub
    device = hub.create()
    assert use(hub)["limit"] == QUOTA and use(hub)["used"] == 0
    with connected(hub.client(device)) as client:
        # A block of 4 KiB each, and one of two blocks.
        client.send_message("x" * 5000)
        client.patch_twin_reported_properties({"n": 1})
        client.get_twin()
        hub.registry.get_twin(device.device_id)
        until(lambda: use(hub)["used"] == 5, "the count")
        for number in range(QUOTA - 5):
            client.send_message(f"message {number}")
        until(lambda: use(hub)["used"] == QUOTA, "the end of the quota")

        refused(lambda: hub.registry.query_iot_hub(QuerySpecification(query="SELECT * FROM devices")))
        refused(lambda: hub.registry.get_twin(device.device_id))
        refused(lambda: hub.registry.invoke_device_method(device.device_id, CloudToDeviceMethod(method_name="m")))
        with pytest.raises(Exception, match="C2D message send failure"):
            hub.registry.send_c2d_message(device.device_id, "x")
        with pytest.raises(ClientError) as error:
            client.patch_twin_reported_properties({"n": 2})
        assert "403" in str(error.value.__cause__)
        # The registry is free, and the connection stays.
        assert hub.registry.get_device(device.device_id).device_id == device.device_id
        assert client.connected
    # The node reports after the answers that it has given.
    until(lambda: f"holdfast_daily_message_quota_used {QUOTA}\n" in metrics(hub), "the metric of the count")
    until(lambda: "holdfast_daily_message_quota_share 1\n" in metrics(hub), "the metric of the share")
    until(lambda: "percent=100 used=12 limit=12" in hub.running.log_file.read_text(), "the warning")

    hub.running.stop()
    hub.running.start()
    assert use(hub)["used"] == QUOTA
    refused(lambda: hub.registry.get_twin(device.device_id))


def test_a_message_beyond_the_quota_is_not_acknowledged_and_ends_the_connection(quota_hub):
    hub = quota_hub
    device = hub.create()
    with connected(hub.client(device)) as client:
        for number in range(QUOTA):
            client.send_message(f"message {number}")
        errors = []

        def send():
            try:
                client.send_message("beyond")
            except Exception as error:  # noqa: BLE001
                errors.append(error)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        until(lambda: not client.connected, "the hub to close the connection")
        thread.join(30)
    record = json.loads(hub.running.cli("device", "diagnose", device.device_id, "-o", "json"))["refusals"][-1]
    assert "403002" in json.dumps(record), record
    assert use(hub)["used"] == QUOTA


def test_a_rest_call_says_when_the_count_begins_anew(quota_hub):
    hub = quota_hub
    device = hub.create()
    with connected(hub.client(device)) as client:
        for number in range(QUOTA):
            client.send_message(f"message {number}")
    owner = fields(hub.connection["owner"])
    url = f"https://{hub.host}/twins/{device.device_id}?api-version=2021-04-12"
    token = sas_token(hub.host, owner["SharedAccessKey"], owner["SharedAccessKeyName"])
    context = ssl.create_default_context(cafile=hub.ca_file)
    request = urllib.request.Request(url, headers={"Authorization": token})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30, context=context)
    assert error.value.code == 403
    assert 0 < int(error.value.headers["Retry-After"]) <= 86_400
