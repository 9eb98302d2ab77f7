"""Rates as clients see them: 429 for back ends and twin requests, late acknowledgements for messages."""

import time
import urllib.request

import pytest
from azure.eventhub.exceptions import AuthenticationError, EventHubError
from azure.iot.device.exceptions import ClientError
from azure.iot.hub.models import QuerySpecification
from harness import NODES, Hub
from hub_under_test import HubUnderTest, connected
from msrest.exceptions import HttpOperationError

pytestmark = pytest.mark.skipif(NODES > 1, reason="a node has a share of each rate, which moves with the demand")


SETTINGS = {"throttles.queries": "30/min", "throttles.d2c_sends": "60/min", "throttles.device_twin_requests": "10/min"}


def arguments(settings):
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def refusing_hub():
    """Nothing waits: what is beyond a rate is refused at once."""
    with Hub(arguments({**SETTINGS, "throttles.max_wait": "0s"})) as running:
        yield HubUnderTest(running)


@pytest.fixture(scope="module")
def shaping_hub():
    with Hub(arguments(SETTINGS)) as running:
        yield HubUnderTest(running)


def test_a_back_end_gets_429_with_the_time_after_which_its_query_succeeds(refusing_hub):
    query = QuerySpecification(query="SELECT * FROM devices")
    with pytest.raises(HttpOperationError) as error:
        for _ in range(40):
            refusing_hub.registry.query_iot_hub(query)
    response = error.value.response
    assert response.status_code == 429 and "429001" in response.text, response.text
    assert response.headers["iothub-errorcode"] == "ThrottlingException"
    time.sleep(int(response.headers["retry-after"]))
    refusing_hub.registry.query_iot_hub(query)


def test_a_twin_request_beyond_the_rate_of_its_device_fails_with_429_and_a_later_one_succeeds(refusing_hub):
    device = refusing_hub.create()
    with connected(refusing_hub.client(device)) as client:
        with pytest.raises(ClientError) as error:
            for number in range(10):
                client.patch_twin_reported_properties({"n": number})
        assert "429" in str(error.value.__cause__), repr(error.value.__cause__)
        # One in six seconds.
        time.sleep(6)
        client.patch_twin_reported_properties({"n": "later"})


def test_messages_of_a_device_beyond_the_rate_are_acknowledged_later(shaping_hub):
    device = shaping_hub.create()
    with connected(shaping_hub.client(device)) as client:
        began = time.monotonic()
        for number in range(64):
            client.send_message(f"message {number}")
        # 60 at once, and one a second, however long they take.
        assert time.monotonic() - began > 2.9


def sparing_hub(key):
    """Three of the class, and the next after twenty seconds."""
    return Hub(arguments({key: "3/min"}))


def metric(hub, name):
    text = urllib.request.urlopen(hub.connection["metrics"], timeout=30).read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def test_a_reader_beyond_the_rate_of_management_gets_429():
    with sparing_hub("throttles.amqp_management") as running:
        hub = HubUnderTest(running)
        with pytest.raises(EventHubError) as error:
            for _ in range(5):
                with hub.consumer(retry_total=0) as consumer:
                    consumer.get_eventhub_properties()
        # The SDK drops the text.
        assert "Status code: 429" in str(error.value), repr(error.value)
        assert metric(hub, 'holdfast_throttled_total{class="amqp_management"') >= 1


def test_a_reader_beyond_the_rate_of_tokens_is_not_authenticated():
    with sparing_hub("throttles.amqp_tokens") as running:
        hub = HubUnderTest(running)
        # The SDK tells nothing of the answer but this.
        with pytest.raises(AuthenticationError):
            for _ in range(5):
                with hub.consumer(retry_total=0) as consumer:
                    consumer.get_eventhub_properties()
        assert metric(hub, 'holdfast_throttled_total{class="amqp_tokens"') >= 1
