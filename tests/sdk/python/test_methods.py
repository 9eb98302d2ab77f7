"""Direct methods: a back end calls a device through the service SDK, and gets what the device SDK answers."""

import contextlib
import threading
import time

import pytest
from azure.iot.device import MethodResponse
from azure.iot.hub.models import CloudToDeviceMethod
from hub_under_test import connected, unique
from msrest.exceptions import HttpOperationError

# The SDK sends "" for None.
PAYLOADS = ["", 0, -1.5, True, "text", "ünï \u2713", [], [1, [2]], {}, {"a": {"b": [None]}}]


@contextlib.contextmanager
def answering(client, answer):
    """The device answers each method with the status and payload of `answer(request)`; `None`: not at all."""

    def handle(request):
        outcome = answer(request)
        if outcome is not None:
            client.send_method_response(MethodResponse.create_from_method_request(request, *outcome))

    client.on_method_request_received = handle
    yield


def call(hub, device, name="echo", payload=None, response=30, connect=None, module=None):
    method = CloudToDeviceMethod(
        method_name=name, payload=payload, response_timeout_in_seconds=response, connect_timeout_in_seconds=connect
    )
    if module:
        return hub.registry.invoke_device_module_method(device.device_id, module.module_id, method)
    return hub.registry.invoke_device_method(device.device_id, method)


def refused(hub, device, number, **options):
    with pytest.raises(HttpOperationError) as error:
        call(hub, device, **options)
    assert str(number) in error.value.response.text, error.value.response.text
    return error.value.response.text


def test_a_device_answers_whatever_it_is_asked(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        seen = []

        def answer(request):
            seen.append(request.name)
            return 207, {"name": request.name, "payload": request.payload}

        with answering(client, answer):
            for payload in PAYLOADS:
                result = call(hub, device, "echo.it-1", payload)
                assert result.status == 207
                assert result.payload == {"name": "echo.it-1", "payload": payload}
        assert seen == ["echo.it-1"] * len(PAYLOADS)


def test_a_status_of_its_own_and_no_payload_come_back(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        for status in (0, 1, 200, 404, 500, -1, 2147483647, -2147483648):
            with answering(client, lambda _, status=status: (status, None)):
                result = call(hub, device)
                assert (result.status, result.payload) == (status, None)


def test_a_module_is_called_by_its_own_name(hub):
    device = hub.create()
    module = hub.registry.create_module_with_sas(device.device_id, unique("mod"), "", "", "")
    with connected(hub.client(device, module=module)) as client:
        with answering(client, lambda request: (200, [request.name])):
            assert call(hub, device, "of-module", module=module).payload == ["of-module"]
        # The device itself is not connected.
        refused(hub, device, 404103)


def test_calls_in_flight_are_answered_in_any_order(hub):
    device = hub.create()
    with connected(hub.client(device)) as client:
        first = threading.Event()

        def answer(request):
            # Handlers run one at a time: the others wait for it in the SDK.
            first.set()
            return 200, request.payload

        results = {}

        def one(number):
            results[number] = call(hub, device, payload=number).payload

        with answering(client, answer):
            callers = [threading.Thread(target=one, args=(number,)) for number in range(30)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
        assert results == {number: number for number in range(30)}


def test_why_there_is_no_answer(hub):
    device = hub.create()
    started = time.monotonic()
    text = refused(hub, device, 404103)
    assert "not connected" in text and "connect time-out 0 s, response time-out 30 s" in text
    with connected(hub.client(device)) as client:
        assert "not subscribed" in refused(hub, device, 404103, connect=60)
        assert time.monotonic() - started < 10, "at once"
        with answering(client, lambda request: None):
            refused(hub, device, 504101, response=5)
            outcome = []
            caller = threading.Thread(target=lambda: outcome.append(refused(hub, device, 404103, response=60)))
            caller.start()
            time.sleep(1)
            client.disconnect()
            caller.join(10)
            assert outcome and "disconnected" in outcome[0]


def test_a_call_waits_for_the_device_within_the_connect_time_out(hub):
    device = hub.create()
    results = []
    caller = threading.Thread(target=lambda: results.append(call(hub, device, connect=60)))
    caller.start()
    time.sleep(1)
    with connected(hub.client(device)) as client, answering(client, lambda request: (200, "late")):
        caller.join(30)
    assert results and results[0].payload == "late"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a#", "ü", "m" * 101])
def test_an_illegal_name_is_refused(hub, name):
    device = hub.create()
    refused(hub, device, 400004, name=name)


def test_a_call_of_an_unknown_device_is_refused(hub):
    device = hub.create()
    hub.registry.delete_device(device.device_id)
    refused(hub, device, 404001)
