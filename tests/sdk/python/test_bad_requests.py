"""Requests that no SDK makes: each gets the number that the specification names, in the body that every SDK reads."""

import base64
import json
import time

import pytest
import requests
from harness import fields, sas_token
from hub_under_test import unique

VERSION = "api-version=2021-04-12"


def token(hub, resource=None, key=None, policy=None, **more):
    name, owner_key = hub.policy_key("owner")
    return sas_token(resource or hub.host, key or owner_key, policy or name, **more)


def call(hub, method, path, body=None, authorization=None, **headers):
    headers = {"Authorization": token(hub) if authorization is None else authorization, **headers}
    if not headers["Authorization"]:
        del headers["Authorization"]
    url = f"https://{hub.host}{path}"
    return requests.request(method, url, data=body, headers=headers, verify=hub.ca_file, timeout=30)


def check(answer, number, name=None):
    """The error body of every refusal, the same for all SDKs (specification, errors 8.1)."""
    found = answer.json()
    assert found["errorCode"] == number, answer.text
    assert answer.status_code == number // 1000
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["x-ms-request-id"]
    catalogue_name = answer.headers["iothub-errorcode"]
    assert name is None or catalogue_name == name
    assert found["Message"].startswith(f"ErrorCode:{catalogue_name};")
    assert found["ExceptionMessage"].startswith("Tracking ID:")
    return found["Message"]


def device(**more):
    return json.dumps({"deviceId": "x", **more})


def nested(levels, around="{}"):
    return "[" * levels + around + "]" * levels


BAD_BODIES = {
    "no body": ("", 400006),
    "no JSON": ("nonsense", 400006),
    "half of JSON": ('{"deviceId":"x"', 400006),
    "more than one value": ('{"deviceId":"x"}{}', 400006),
    "no UTF-8": (b'{"deviceId":"\xff"}', 400006),
    "an array": ("[]", 400006),
    "a number": ("1", 400006),
    "null": ("null", 400006),
    "a repeated key": ('{"deviceId":"x","deviceId":"x"}', 400006),
    "a key repeated in another case": ('{"deviceId":"x","DeviceId":"x"}', 400006),
    "33 levels": ('{"deviceId":"x","y":' + nested(33) + "}", 400006),
    "100,000 levels": ("[" * 100_000, 400006),
    "an id that is a number": ('{"deviceId":7}', 400006),
    "authentication that is text": (device(authentication="sas"), 400006),
    "a key that is a number": (device(authentication={"type": "sas", "symmetricKey": {"primaryKey": 1}}), 400006),
    "a status that is an object": (device(status={}), 400006),
    "a capability that is text": (device(capabilities={"iotEdge": "yes"}), 400006),
    "another id than the path's": ('{"deviceId":"y"}', 400004),
    "an unknown status": (device(status="sleeping"), None),
    "a key that is no base64": (device(authentication={"symmetricKey": {"primaryKey": "?", "secondaryKey": "?"}}), None),
    "one key of two": (device(authentication={"symmetricKey": {"primaryKey": base64.b64encode(b"k" * 32).decode()}}), 400004),
    "a reason of 129 characters": (device(statusReason="r" * 129), None),
}


@pytest.mark.parametrize("what", BAD_BODIES)
def test_a_device_is_not_created_from(hub, what):
    body, number = BAD_BODIES[what]
    device_id = unique()
    data = body if isinstance(body, bytes) else body.replace('"x"', f'"{device_id}"').encode()
    answer = call(hub, "PUT", f"/devices/{device_id}?{VERSION}", data)
    # Where the specification leaves the number open, it is one of the 400s that SDKs call a wrong argument.
    check(answer, number or answer.json()["errorCode"])
    assert answer.status_code == 400
    check(call(hub, "GET", f"/devices/{device_id}?{VERSION}"), 404001, "DeviceNotFound")


@pytest.mark.parametrize("sent", ["whole", "chunked", "announced"])
def test_a_body_above_a_mebibyte_is_refused(hub, sent):
    large = b" " * (1024 * 1024 + 1)
    path = f"/devices/{unique()}?{VERSION}"
    if sent == "announced":
        import socket
        import ssl

        context = ssl.create_default_context(cafile=hub.ca_file)
        with context.wrap_socket(socket.create_connection((hub.host, 443), timeout=10), server_hostname=hub.host) as tls:
            head = f"PUT {path} HTTP/1.1\r\nHost: {hub.host}\r\nAuthorization: {token(hub)}\r\nContent-Length: 99999999999\r\n\r\n"
            tls.sendall(head.encode())
            assert tls.recv(65536).startswith(b"HTTP/1.1 413")
        return
    body = large if sent == "whole" else iter([large[: 512 * 1024], large[512 * 1024 :]])
    try:
        check(call(hub, "PUT", path, body), 413001, "MessageTooLarge")
    except requests.ConnectionError:
        pytest.fail("the hub closed before its answer could be read")


@pytest.mark.parametrize(
    "segment",
    ["%20", "a%20b", "a%2Fb", "%C3%B6", "%00", "%7F", "a%22b", "a%3Cb", "a%5Cb", "x" * 129, "a%5Eb", "%E2%82%AC", "a%7Cb"],
)
def test_an_illegal_id_is_refused(hub, segment):
    for method, body in (("PUT", b"{}"), ("GET", None), ("DELETE", None)):
        answer = call(hub, method, f"/devices/{segment}?{VERSION}", body)
        check(answer, 400004)


def test_paths_and_methods_that_do_not_exist(hub):
    check(call(hub, "GET", f"/nothing?{VERSION}"), 404000)
    check(call(hub, "GET", f"/devices//x?{VERSION}"), 404000)
    check(call(hub, "PATCH", f"/devices/x?{VERSION}", b"{}"), 405000)
    check(call(hub, "GET", f"/devices?{VERSION}&top=many"), 400004)


@pytest.mark.parametrize("top", ["0", "-1", "1001", "2147483647"])
def test_a_page_size_out_of_range_counts_as_the_maximum(hub, top):
    answer = call(hub, "GET", f"/devices?{VERSION}&top={top}")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()) <= 1000


@pytest.mark.parametrize("body", ["{deviceId: 'ID'}", "{'deviceId': 'ID'}", '{"deviceId":"ID",}', '{"deviceId":"ID" /* c */}'])
def test_a_body_is_read_as_leniently_as_the_cloud_reads_it(hub, body):
    device = unique()
    answer = call(hub, "PUT", f"/devices/{device}?{VERSION}", body.replace("ID", device))
    assert answer.status_code == 200, answer.text
    assert answer.json()["deviceId"] == device


@pytest.mark.parametrize("version", ["2016-02-03", "2024-03-31", "2099-01-01", "2026-06-01-preview"])
def test_every_api_version_from_the_oldest_on_is_accepted(hub, version):
    assert call(hub, "GET", f"/devices?api-version={version}&top=1").status_code == 200


@pytest.mark.parametrize("query", ["", "?api-version=", "?api-version=2015-12-31", "?api-version=yesterday"])
def test_a_call_without_a_known_api_version_is_400001(hub, query):
    # Checked before the token: a request without one gets the same answer.
    for authorization in (None, ""):
        assert "2021-04-12" in check(call(hub, "GET", f"/devices/x{query}", authorization=authorization), 400001)


def bad_tokens(hub):
    name, key = hub.policy_key("owner")
    other = base64.b64encode(b"o" * 32).decode()
    good = token(hub)
    device = hub.create()
    device_key = device.authentication.symmetric_key.primary_key
    return {
        "none": "",
        "no scheme": good.removeprefix("SharedAccessSignature "),
        "another scheme": "Basic aHVudGVyMg==",
        "a bearer": "Bearer eyJhbGciOiJub25lIn0.e30.",
        "nothing behind the scheme": "SharedAccessSignature",
        "empty fields": "SharedAccessSignature sr=&sig=&se=&skn=",
        "no signature": good.replace("&sig=", "&gis="),
        "no expiry": good.replace("&se=", "&es="),
        "no resource": good.replace(" sr=", " rs="),
        "two expiries": f"{good}&se=99999999999",
        "an expiry that is text": good.replace("&se=", "&se=x"),
        "a signature that is no base64": good.replace("&sig=", "&sig=%%%"),
        "a longer expiry than was signed": token(hub, expiry=time.time() + 60).replace("&se=1", "&se=2"),
        "the wrong key": token(hub, key=other),
        "an unknown policy": token(hub, policy="nobody"),
        "the name of another policy": token(hub, policy="service"),
        "expired": token(hub, expiry=time.time() - 302),
        "expired long ago": token(hub, expiry=1),
        "of another hub": token(hub, resource="elsewhere.example.com"),
        "of a host that only begins like this one": token(hub, resource=f"{hub.host}.example.com"),
        "of one other device": token(hub, resource=f"{hub.host}/devices/other"),
        "of a device that begins like this one": token(hub, resource=f"{hub.host}/devices/{device.device_id[:-1]}"),
        "of a device for the service": sas_token(f"{hub.host}/devices/{device.device_id}", device_key),
        "64 KiB": "SharedAccessSignature sr=" + "x" * 60_000,
    }, device


def test_a_bad_token_is_401_and_does_not_say_whether_the_device_exists(hub):
    tokens, device = bad_tokens(hub)
    for what, authorization in tokens.items():
        for device_id in (device.device_id, unique()):
            answer = call(hub, "GET", f"/devices/{device_id}?{VERSION}", authorization=authorization)
            if what == "64 KiB" and answer.status_code == 431:
                continue  # headers have a limit of their own
            assert answer.status_code == 401, what
            check(answer, answer.json()["errorCode"])
            assert answer.json()["errorCode"] in (401002, 401003), what


def test_a_token_within_five_minutes_of_its_end_and_one_without_end_are_good(hub):
    device = hub.create()
    for expiry in (time.time() - 290, 18446744073709551615):
        answer = call(hub, "GET", f"/devices/{device.device_id}?{VERSION}", authorization=token(hub, expiry=expiry))
        assert answer.status_code == 200, answer.text


def test_bulk_has_its_bounds(hub):
    post = lambda items: call(hub, "POST", f"/devices?{VERSION}", json.dumps(items))  # noqa: E731
    entry = lambda: {"id": unique(), "importMode": "create", "status": "enabled"}  # noqa: E731
    check(post([]), 400004)
    check(post({}), 400006)
    check(post([entry() for _ in range(101)]), 413002, "TooManyDevices")
    same = entry()
    twice = post([same, same])
    check(twice, 400011)
    assert twice.json()["errors"][0]["errorCode"] == "DeviceDefinedMultipleTimes"
    assert fields(hub.connection["owner"])["HostName"] == hub.host
