"""Certificates that the hub issues: devices ask for them over MQTT with paho's client, since no released SDK has a call for it, and live by them
with the released SDK."""

import threading
import time

import harness
import pytest
from azure.iot.device import IoTHubDeviceClient, X509
from hub_under_test import HubUnderTest, Reader, connected, unique, until
from issuing import OperationalKey, Wire, outcome, registering, serial_of
from test_provisioning import Service, derived, key, symmetric

RENEW = "$iothub/credentials/POST/issueCertificate/?$rid="


@pytest.fixture(scope="module")
def fleet(hub):
    """A group whose devices get certificates of a CA of the hub's own."""
    return Fleet(hub)


class Fleet:
    def __init__(self, hub):
        self.hub, self.service = hub, Service(hub)
        self.key, self.name = key(), unique("fleet")
        hub.running.cli("provisioning", "ca", "create", self.name, "--policy-days", "30")
        self.service.group(self.name, symmetric(self.key), **self.issuance)

    @property
    def issuance(self):
        return {"namespaceName": "n", "certificateAuthorityName": self.name, "certificatePolicyName": "default"}

    def registering(self, registration_id):
        return registering(self.hub, self.service, registration_id, derived(self.key, registration_id))

    def registered(self, own):
        """The state of a device that registers with a request, and the file of its certificate."""
        with self.registering(own.registration_id) as wire:
            topic, answer = outcome(wire, {"registrationId": own.registration_id, "csr": own.csr()})
        assert topic.startswith("$dps/registrations/res/200/"), (topic, answer)
        assert answer["status"] == "assigned", answer
        state = answer["registrationState"]
        return state, own.holds(state["issuedCertificateChain"])


def device(hub, device_id, own, file, retry=False):
    """The released SDK's client with a certificate."""
    return IoTHubDeviceClient.create_from_x509_certificate(
        X509(cert_file=str(file), key_file=str(own.key_file)), hostname=hub.host, device_id=device_id,
        connection_retry=retry, server_verification_cert=hub.ca_text())


def assert_refused(hub, device_id, own, file):
    with pytest.raises(Exception):
        with connected(device(hub, device_id, own, file)):
            pass


def session(hub, device_id, own, file):
    """paho's client at the hub, for what the SDK does not send."""
    return Wire(hub, device_id, f"{hub.host}/{device_id}/?api-version=2021-04-12", certificate=(file, own.key_file))


def test_a_device_lives_by_issued_certificates_renews_and_is_shut_out(hub, fleet, tmp_path):
    registration_id = unique("sn")
    own = OperationalKey(tmp_path, registration_id)
    state, first = fleet.registered(own)
    assert state["assignedHub"] == hub.host
    with connected(device(hub, registration_id, own, first)) as client:
        client.send_message("by the first certificate")
    with Reader(hub) as reader:
        reader.wait_for(registration_id, 1)

    # Renewal over a session: a new key, and the earlier certificate stays valid.
    new = OperationalKey(tmp_path, registration_id)
    with session(hub, registration_id, own, first) as wire:
        assert wire.code == 0
        wire.subscribe("$iothub/credentials/res/#")
        topic, accepted = wire.ask(f"{RENEW}7", {"id": registration_id, "csr": new.csr(), "replace": "*"})
        assert topic == "$iothub/credentials/res/202/?$rid=7", (topic, accepted)
        topic, done = wire.next()
        assert topic == "$iothub/credentials/res/200/?$rid=7", (topic, done)
        assert done["correlationId"] == accepted["correlationId"]
        second = new.holds(done["certificates"])
    for holder, file in ((own, first), (new, second)):
        with connected(device(hub, registration_id, holder, file)) as client:
            client.get_twin()

    # Revocation of one: the SDK sees its connection end within a second, and is refused with it from then on.
    client = device(hub, registration_id, own, first)
    lost = threading.Event()
    client.on_connection_state_change = lambda: client.connected or lost.set()
    with connected(client):
        begun = time.monotonic()
        hub.running.cli("provisioning", "ca", "revoke", registration_id, serial_of(first))
        assert lost.wait(5)
        took = time.monotonic() - begun
    # The command itself is part of the time.
    assert took < 2, took
    assert_refused(hub, registration_id, own, first)
    with connected(device(hub, registration_id, new, second)) as client:
        client.send_message("the other one is good")

    # Of all that it has: it registers again with its first credential.
    client = device(hub, registration_id, new, second)
    lost = threading.Event()
    client.on_connection_state_change = lambda: client.connected or lost.set()
    with connected(client):
        hub.running.cli("provisioning", "ca", "revoke", registration_id, "--all")
        assert lost.wait(5)
    assert_refused(hub, registration_id, new, second)
    _, third = fleet.registered(new)
    with connected(device(hub, registration_id, new, third)) as client:
        client.send_message("back again")
    assert_refused(hub, registration_id, new, second)


def test_a_registration_without_a_request_keeps_the_certificate(hub, fleet, tmp_path):
    registration_id = unique("sn")
    own = OperationalKey(tmp_path, registration_id)
    _, file = fleet.registered(own)
    with fleet.registering(registration_id) as wire:
        _, answer = outcome(wire, {"registrationId": registration_id})
    assert answer["status"] == "assigned" and "issuedCertificateChain" not in answer["registrationState"]
    with connected(device(hub, registration_id, own, file)) as client:
        client.send_message("after a reboot")
    # A client that knows no certificates opens the hub by its key.
    fleet.service.register(registration_id, device_key=derived(fleet.key, registration_id))
    assert hub.registry.get_device(registration_id).authentication.type == "sas"


def test_a_bulk_call_refuses_an_unknown_policy(fleet):
    def entry(registration_id, **more):
        return {"registrationId": registration_id, "attestation": symmetric(), **more}

    good, bad, unknown = unique("bulk"), unique("bulk"), unique("bulk")
    answer = fleet.service.call("POST", "enrollments", {"mode": "create", "enrollments": [
        entry(good, **fleet.issuance),
        entry(bad, **{**fleet.issuance, "certificatePolicyName": "missing"}),
        entry(unknown, credentialPolicyName=f"{unique('ca')}/default"),
    ]})
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert not result["isSuccessful"]
    assert sorted(error["registrationId"] for error in result["errors"]) == sorted([bad, unknown]), result
    for registration_id, status in ((good, 200), (bad, 404), (unknown, 404)):
        assert fleet.service.call("GET", f"enrollments/{registration_id}").status_code == status
    # The same in an update.
    answer = fleet.service.call("POST", "enrollments", {"mode": "update", "enrollments": [
        entry(good, **{**fleet.issuance, "certificateAuthorityName": unique("ca")}),
    ]})
    assert [error["registrationId"] for error in answer.json()["errors"]] == [good]
    kept = fleet.service.call("GET", f"enrollments/{good}").json()
    assert kept["certificateAuthorityName"] == fleet.name
    # And of groups.
    group = unique("bulk-group")
    answer = fleet.service.call("POST", "enrollmentGroups", {"mode": "create", "enrollmentGroups": [
        {"enrollmentGroupId": group, "attestation": symmetric(), **{**fleet.issuance, "certificatePolicyName": "missing"}},
    ]})
    assert [error["enrollmentGroupId"] for error in answer.json()["errors"]] == [group], answer.text


@pytest.fixture
def linked(own_hub):
    """A hub with the service, and another one that its devices belong to."""
    other = harness.Hub()
    try:
        other.start()
        other = HubUnderTest(other)
        own_hub.running.cli(
            "provisioning", "hub", "add", other.host, "--connection-string", other.connection["owner"], "--ca", other.ca_file)
        yield other
    finally:
        running = getattr(other, "running", other)
        running.stop()
        running.discard()


def test_a_device_of_a_linked_hub_gets_its_certificate_across_kill_9(own_hub, linked, tmp_path):
    fleet = Fleet(own_hub)
    registration_id = unique("sn")
    etag = fleet.service.call("GET", f"enrollmentGroups/{fleet.name}").json()["etag"]
    fleet.service.put(f"enrollmentGroups/{fleet.name}", {
        "enrollmentGroupId": fleet.name, "attestation": symmetric(fleet.key), "allocationPolicy": "static",
        "iotHubs": [linked.host], **fleet.issuance}, If_Match=etag)
    own = OperationalKey(tmp_path, registration_id)
    device_key = derived(fleet.key, registration_id)

    def call(method, path, body=None):
        return fleet.service.device_call(
            method, registration_id, path, device_key=device_key, body=body, version="2026-11-01")

    begun = call("PUT", "/register", {"registrationId": registration_id, "csr": own.csr()})
    assert begun.status_code == 202 and begun.json()["status"] == "assigning", begun.text
    own_hub.running.kill()
    own_hub.running.start()
    operation = begun.json()["operationId"]

    def ended():
        answer = call("GET", f"/operations/{operation}")
        if answer.status_code == 200 and answer.json()["status"] != "assigning":
            return answer.json()
        threading.Event().wait(2.5)
        return None

    answer = until(ended, "the end of the operation")
    assert answer["status"] == "assigned", answer
    assert answer["registrationState"]["assignedHub"] == linked.host
    first = own.holds(answer["registrationState"]["issuedCertificateChain"])
    with connected(device(linked, registration_id, own, first)) as client:
        client.send_message("at the other hub")
    with Reader(linked) as reader:
        reader.wait_for(registration_id, 1)
    # The look-up by registration id does not have the chain, and refuses a request.
    looked = call("POST", "", {"registrationId": registration_id})
    assert looked.status_code == 200 and "issuedCertificateChain" not in looked.json(), looked.text
    assert call("POST", "", {"registrationId": registration_id, "csr": own.csr()}).status_code == 400

    # Renewal: it registers again; both certificates open the hub until it has changed over.
    new = OperationalKey(tmp_path, registration_id)
    _, second = fleet.registered(new)
    for holder, file in ((own, first), (new, second)):
        with connected(device(linked, registration_id, holder, file)) as client:
            client.send_message("both are good")
    # A revocation reaches the other hub.
    client = device(linked, registration_id, own, first)
    lost = threading.Event()
    client.on_connection_state_change = lambda: client.connected or lost.set()
    with connected(client):
        own_hub.running.cli("provisioning", "ca", "revoke", registration_id, serial_of(first))
        assert lost.wait(5)
    assert_refused(linked, registration_id, own, first)
    with connected(device(linked, registration_id, new, second)) as client:
        client.send_message("the other one is good")
    own_hub.running.cli("provisioning", "ca", "revoke", registration_id, "--all")
    until(lambda: fleet.service.call("GET", f"registrations/{registration_id}").json()["status"] == "assigned", "the other hub")
    assert_refused(linked, registration_id, new, second)
