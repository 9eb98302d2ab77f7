"""Devices and modules with certificates, over both transports of the SDK."""

import json
import time

import pytest
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, X509
from azure.iot.device.exceptions import ConnectionFailedError, CredentialError
from certificates import Workshop
from harness import Hub, sas_token
from hub_under_test import HubUnderTest, Reader, connected, system, unique, until


@pytest.fixture(scope="module")
def workshop():
    return Workshop()


def client_of(hub, certificate, device_id, module_id=None, websockets=False):
    x509 = X509(cert_file=str(certificate.chain_file), key_file=str(certificate.key_file))
    more = {
        "websockets": websockets,
        "connection_retry": False,
        "server_verification_cert": hub.ca_text(),
    }
    if module_id is None:
        return IoTHubDeviceClient.create_from_x509_certificate(x509, hub.host, device_id, **more)
    return IoTHubModuleClient.create_from_x509_certificate(x509, hub.host, device_id, module_id, **more)


def refused(client):
    try:
        with pytest.raises(CredentialError):
            client.connect()
    finally:
        client.shutdown()


def last_refusal(hub, device_id):
    return json.loads(hub.running.cli("device", "diagnose", device_id, "-o", "json"))["refusals"][-1]


def self_signed(hub, primary, secondary=""):
    device_id = unique()
    hub.registry.create_device_with_x509(device_id, primary, secondary, "enabled")
    return device_id


@pytest.mark.parametrize("websockets", [False, True])
@pytest.mark.parametrize("digest", ["sha1", "sha256"])
def test_a_device_is_known_by_its_thumbprint(hub, workshop, digest, websockets):
    own = workshop.self_signed("any name")
    device_id = self_signed(hub, own.thumbprint(digest))
    with connected(client_of(hub, own, device_id, websockets=websockets)) as client:
        client.send_message("by thumbprint")
    with Reader(hub) as reader:
        event = reader.wait_for(device_id, 1)[0]
    method = json.loads(system(event)["iothub-connection-auth-method"])
    assert (method["scope"], method["type"]) == ("device", "x509")


def test_both_certificates_of_a_rotation_work_and_the_old_ones_session_ends_with_it(hub, workshop):
    old, new = workshop.self_signed("old"), workshop.self_signed("new")
    device_id = self_signed(hub, old.thumbprint())
    with connected(client_of(hub, old, device_id)) as client:
        hub.running.cli("device", "update", device_id, "--secondary-thumbprint", new.thumbprint())
        client.send_message("still here")
        assert client.connected
    with connected(client_of(hub, new, device_id)) as client:
        client.send_message("here too")
    with connected(client_of(hub, old, device_id)) as client:
        hub.running.cli(
            "device", "update", device_id, "--primary-thumbprint", new.thumbprint(), "--secondary-thumbprint", ""
        )
        until(lambda: not client.connected, "the hub to close the session of the old certificate")
    refused(client_of(hub, old, device_id))
    with connected(client_of(hub, new, device_id)) as client:
        client.send_message("alone")


def test_a_foreign_certificate_is_refused_and_diagnosed(hub, workshop):
    own, other = workshop.self_signed("own"), workshop.self_signed("own")
    device_id = self_signed(hub, own.thumbprint())
    refused(client_of(hub, other, device_id))
    record = last_refusal(hub, device_id)
    assert (record["reason"], record["errorCode"]) == ("thumbprint", 401002)
    assert other.thumbprint().upper() in record["detail"] and own.thumbprint().upper() in record["detail"]
    # An identity with keys takes no certificate.
    device = hub.create()
    refused(client_of(hub, own, device.device_id))
    assert last_refusal(hub, device.device_id)["reason"] == "auth_type"


def test_a_module_has_a_certificate_of_its_own(hub, workshop):
    device, module = workshop.self_signed("d"), workshop.self_signed("m")
    device_id = self_signed(hub, device.thumbprint())
    hub.registry.create_module_with_x509(device_id, "m", "", module.thumbprint(), "")
    with connected(client_of(hub, module, device_id, "m")) as client:
        client.send_message("x")
    refused(client_of(hub, device, device_id, "m"))


def test_a_device_is_made_with_the_words_of_az(hub, workshop):
    own = workshop.self_signed("x")
    device_id = unique()
    hub.running.cli(
        "device", "create", "-d", device_id, "--auth-method", "x509_thumbprint", "--primary-thumbprint", own.thumbprint("sha1")
    )
    with connected(client_of(hub, own, device_id)) as client:
        client.send_message("x")
    assert "SHA-1" in hub.running.cli("device", "diagnose", device_id)


@pytest.fixture(scope="module")
def fleet(hub, workshop):
    """A root that the hub has verified by a proof of possession, and an intermediate below it."""
    root = workshop.ca(unique("root"))
    factory = workshop.ca(unique("factory"), root)
    name = unique("fleet")
    cli = hub.running.cli
    cli("ca", "add", name, "--file", str(root.certificate_file))
    code = cli("ca", "verify", name).strip()
    assert len(code) == 48
    proof = workshop.device(code, root)
    verified = json.loads(cli("ca", "verify", name, "--proof", str(proof.certificate_file)))
    assert verified["properties"]["isVerified"]
    assert name in cli("ca", "list")
    return factory


def by_ca(hub, module_id=None, device_id=None):
    device_id = device_id or unique()
    if module_id is None:
        hub.registry.create_device_with_certificate_authority(device_id, "enabled")
    else:
        hub.registry.create_module_with_certificate_authority(device_id, module_id, "")
    return device_id


@pytest.mark.parametrize("websockets", [False, True])
def test_a_device_of_a_ca_is_known_by_its_common_name(hub, workshop, fleet, websockets):
    device_id = by_ca(hub)
    own = workshop.device(device_id, fleet)
    with connected(client_of(hub, own, device_id, websockets=websockets)) as client:
        client.send_message("by CA")
    with Reader(hub) as reader:
        event = reader.wait_for(device_id, 1)[0]
    method = json.loads(system(event)["iothub-connection-auth-method"])
    assert (method["scope"], method["type"]) == ("device", "x509")


def test_another_name_another_ca_and_a_token_are_refused_and_diagnosed(hub, workshop, fleet):
    device_id = by_ca(hub)
    for certificate, reason in [
        (workshop.device(device_id + "x", fleet), "cn"),
        (workshop.device(device_id, workshop.ca("foreign")), "chain"),
        (workshop.self_signed(device_id), "chain"),
    ]:
        refused(client_of(hub, certificate, device_id))
        record = last_refusal(hub, device_id)
        assert record["reason"] == reason and record["detail"], record
    name, key = hub.policy_key("device")
    refused(hub.client_with_token(sas_token(f"{hub.host}/devices/{device_id}", key, name)))
    assert last_refusal(hub, device_id)["reason"] == "auth_type"


def test_a_module_of_a_ca_is_known_by_both_names(hub, workshop, fleet):
    device_id = by_ca(hub)
    by_ca(hub, "m", device_id)
    with connected(client_of(hub, workshop.device(f"{device_id}/m", fleet), device_id, "m")) as client:
        client.send_message("x")
    refused(client_of(hub, workshop.device(device_id, fleet), device_id, "m"))


def test_a_removed_ca_ends_its_sessions(hub, workshop):
    ca, name = workshop.ca("short-lived"), unique("ca")
    hub.running.cli("ca", "add", name, "--file", str(ca.certificate_file), "--verified")
    device_id = unique()
    hub.running.cli("device", "create", "-d", device_id, "--auth-method", "x509_ca")
    own = workshop.device(device_id, ca)
    with connected(client_of(hub, own, device_id)) as client:
        session = json.loads(hub.running.cli("device", "diagnose", device_id, "-o", "json"))["session"]
        assert session["certificate"]["ca"] == name
        hub.running.cli("ca", "delete", name)
        until(lambda: not client.connected, "the hub to close the session of a removed CA")
    refused(client_of(hub, own, device_id))


def test_certificates_with_rsa_keys_work(hub):
    workshop = Workshop(key=("rsa:2048",))
    ca, name = workshop.ca("rsa"), unique("rsa")
    hub.running.cli("ca", "add", name, "--file", str(ca.certificate_file), "--verified")
    device_id = by_ca(hub)
    with connected(client_of(hub, workshop.device(device_id, workshop.ca("below", ca)), device_id)) as client:
        client.send_message("x")


@pytest.fixture
def strict_about_crls():
    with Hub(["--set", "device_hub.expired_crl=refuse"]) as running:
        yield HubUnderTest(running)


def crl_that_ends_soon(workshop, ca):
    """The file of a current CRL, and when it ends."""
    end = int(time.time()) + 4
    return workshop.crl(ca, 1, next_update=time.strftime("%Y%m%d%H%M%SZ", time.gmtime(end))), end


def test_a_crl_that_has_ended_refuses_its_devices_until_there_is_a_current_one(strict_about_crls, workshop):
    hub = strict_about_crls
    ca = workshop.ca("weekly")
    hub.running.cli("ca", "add", "weekly", "--file", str(ca.certificate_file), "--verified")
    device_id = by_ca(hub)
    own = workshop.device(device_id, ca)
    with connected(client_of(hub, own, device_id)) as client:
        client.send_message("without a list")
    crl, end = crl_that_ends_soon(workshop, ca)
    hub.running.cli("ca", "crl", "upload", "weekly", "--file", str(crl))
    until(lambda: time.time() > end + 1, "the end of the list")
    client = client_of(hub, own, device_id)
    # It may come back once there is a current list: no refusal of its credential.
    with pytest.raises(ConnectionFailedError):
        client.connect()
    client.shutdown()
    record = last_refusal(hub, device_id)
    assert record["reason"] == "crl_ended" and "device_hub.expired_crl" in json.dumps(record), record
    hub.running.cli("ca", "crl", "upload", "weekly", "--file", str(workshop.crl(ca, 2)))
    with connected(client_of(hub, own, device_id)) as client:
        client.send_message("with a current list")


def test_by_default_a_crl_that_has_ended_stays_in_use(hub, workshop):
    ca, name = workshop.ca("monthly"), unique("monthly")
    hub.running.cli("ca", "add", name, "--file", str(ca.certificate_file), "--verified")
    crl, end = crl_that_ends_soon(workshop, ca)
    hub.running.cli("ca", "crl", "upload", name, "--file", str(crl))
    device_id = by_ca(hub)
    until(lambda: time.time() > end + 1, "the end of the list")
    with connected(client_of(hub, workshop.device(device_id, ca), device_id)) as client:
        client.send_message("by an old list")
