"""Devices that register with the provisioning service, through the released SDKs, and then connect to the hub they were assigned."""

import base64
import hashlib
import hmac
import json
import os
import threading
import urllib.parse

import pytest
import requests
from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient, X509
from certificates import Workshop
from harness import fields, sas_token
from hub_under_test import Reader, connected, unique
from provisioningserviceclient import (
    BulkEnrollmentOperation,
    ProvisioningServiceClient,
    ProvisioningServiceError,
    QuerySpecification,
)
from provisioningserviceclient.models import (
    AttestationMechanism,
    EnrollmentGroup,
    IndividualEnrollment,
    InitialTwin,
    SymmetricKeyAttestation,
)

VERSION = "2019-03-31"


def key():
    return base64.b64encode(os.urandom(64)).decode()


def derived(group_key, registration_id):
    """As every tool for factories computes it."""
    digest = hmac.new(base64.b64decode(group_key), registration_id.encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


class Service:
    """The service API without an SDK: statuses and headers are part of what is tested."""

    def __init__(self, hub):
        self.hub = hub
        self.facts = hub.connection["provisioning"]
        self.scope = self.facts["idScope"]
        self.login = fields(self.facts["service"])

    def call(self, method, path, body=None, version="2021-10-01", token=None, **headers):
        login = self.login
        token = token or sas_token(login["HostName"], login["SharedAccessKey"], login["SharedAccessKeyName"])
        url = f"https://{self.facts['endpoint']}/{path}?api-version={version}"
        headers = {"Authorization": token, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return requests.request(method, url, json=body, headers=headers, verify=self.hub.ca_file, timeout=30)

    def put(self, path, body, **headers):
        answer = self.call("PUT", path, body, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def individual(self, registration_id, attestation, **more):
        body = {"registrationId": registration_id, "attestation": attestation, **more}
        return self.put(f"enrollments/{registration_id}", body)

    def group(self, group_id, attestation, **more):
        return self.put(f"enrollmentGroups/{group_id}", {"enrollmentGroupId": group_id, "attestation": attestation, **more})

    def device_call(self, method, registration_id, path="", device_key=None, body=None, token=None, version=VERSION, cert=None):
        """A call of a device over HTTPS."""
        headers = {}
        if device_key is not None:
            token = sas_token(f"{self.scope}/registrations/{registration_id}", device_key, "registration")
        if token is not None:
            headers["Authorization"] = token
        url = f"https://{self.facts['endpoint']}/{self.scope}/registrations/{registration_id}{path}?api-version={version}"
        return requests.request(method, url, json=body, headers=headers, verify=self.hub.ca_file, cert=cert, timeout=30)

    def register(self, registration_id, **how):
        return self.device_call("PUT", registration_id, "/register", body={"registrationId": registration_id}, **how)


@pytest.fixture(scope="module")
def service(hub):
    return Service(hub)


@pytest.fixture(scope="module")
def workshop():
    return Workshop()


def symmetric(primary=None, secondary=None):
    return {"type": "symmetricKey", "symmetricKey": {"primaryKey": primary or key(), "secondaryKey": secondary or key()}}


def device_by_key(hub, service, registration_id, device_key, websockets=False):
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        provisioning_host=service.facts["endpoint"], registration_id=registration_id, id_scope=service.scope,
        symmetric_key=device_key, websockets=websockets, server_verification_cert=hub.ca_text())
    return client


def device_by_certificate(hub, service, registration_id, certificate, websockets=False):
    x509 = X509(cert_file=str(certificate.chain_file), key_file=str(certificate.key_file))
    return ProvisioningDeviceClient.create_from_x509_certificate(
        provisioning_host=service.facts["endpoint"], registration_id=registration_id, id_scope=service.scope,
        x509=x509, websockets=websockets, server_verification_cert=hub.ca_text())


def sends_by_key(hub, state, device_key):
    """The assigned device connects with the key that it has registered with."""
    text = f"HostName={state.assigned_hub};DeviceId={state.device_id};SharedAccessKey={device_key}"
    client = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=hub.ca_text())
    with connected(client):
        client.send_message("provisioned")
    with Reader(hub) as reader:
        reader.wait_for(state.device_id, 1)


@pytest.mark.parametrize("websockets", [False, True])
def test_a_device_of_a_group_registers_by_its_derived_key_and_connects(hub, service, websockets):
    group_id, group_key = unique("group"), key()
    service.group(group_id, symmetric(group_key), initialTwin={"tags": {"site": "a"}, "properties": {"desired": {"rate": 5}}})
    registration_id = unique("SN")
    result = device_by_key(hub, service, registration_id, derived(group_key, registration_id), websockets).register()
    assert result.status == "assigned"
    state = result.registration_state
    assert (state.device_id, state.assigned_hub) == (registration_id, hub.host)
    sends_by_key(hub, state, derived(group_key, registration_id))
    document = json.loads(hub.running.cli("twin", "show", registration_id, "-o", "json"))
    assert document["tags"] == {"site": "a"} and document["properties"]["desired"]["rate"] == 5
    listed = service.call("POST", f"registrations/{group_id}/query")
    assert listed.headers["x-ms-item-type"] == "DeviceRegistration"
    assert [row["registrationId"] for row in listed.json()] == [registration_id]


@pytest.mark.parametrize("slot", ["primary", "secondary"])
def test_a_device_registers_by_its_own_keys(hub, service, slot):
    registration_id, device_id = unique("reg"), unique("thing")
    keys = {"primary": key(), "secondary": key()}
    service.individual(registration_id, symmetric(**keys), deviceId=device_id)
    result = device_by_key(hub, service, registration_id, keys[slot]).register()
    assert (result.status, result.registration_state.device_id) == ("assigned", device_id)
    sends_by_key(hub, result.registration_state, keys[slot])


@pytest.mark.parametrize("websockets", [False, True])
def test_a_device_registers_by_its_own_certificate(hub, service, workshop, websockets):
    registration_id = unique("cert")
    own = workshop.self_signed(registration_id)
    certificates = {"primary": {"certificate": own.certificate_file.read_text()}}
    stored = service.individual(registration_id, {"type": "x509", "x509": {"clientCertificates": certificates}})
    info = stored["attestation"]["x509"]["clientCertificates"]["primary"]["info"]
    assert info["sha256Thumbprint"].lower() == own.thumbprint()
    result = device_by_certificate(hub, service, registration_id, own, websockets).register()
    assert result.status == "assigned"
    x509 = X509(cert_file=str(own.chain_file), key_file=str(own.key_file))
    client = IoTHubDeviceClient.create_from_x509_certificate(
        x509, result.registration_state.assigned_hub, registration_id, server_verification_cert=hub.ca_text())
    with connected(client):
        client.send_message("by certificate")


@pytest.mark.parametrize("form", ["signingCertificates", "caReferences"])
def test_a_device_of_a_group_registers_by_a_certificate_of_its_ca(hub, service, workshop, form):
    root = workshop.ca(unique("root"))
    intermediate = workshop.ca(unique("intermediate"), root)
    name = unique("ca")
    hub.running.cli("ca", "add", name, "--file", str(root.certificate_file), "--verified")
    group_id = unique("group")
    certificates = {
        "signingCertificates": {"primary": {"certificate": base64.b64encode(intermediate.der).decode()}},
        "caReferences": {"primary": name},
    }[form]
    service.group(group_id, {"type": "x509", "x509": {form: certificates}})
    registration_id = unique("leaf")
    leaf = workshop.device(registration_id, intermediate)
    result = device_by_certificate(hub, service, registration_id, leaf).register()
    assert result.status == "assigned"
    x509 = X509(cert_file=str(leaf.chain_file), key_file=str(leaf.key_file))
    client = IoTHubDeviceClient.create_from_x509_certificate(
        x509, result.registration_state.assigned_hub, registration_id, server_verification_cert=hub.ca_text())
    with connected(client):
        client.send_message("by chain")
    # A disabled individual enrollment shuts one device of the group out.
    certificates = {"primary": {"certificate": leaf.certificate_file.read_text()}}
    attestation = {"type": "x509", "x509": {"clientCertificates": certificates}}
    service.individual(registration_id, attestation, provisioningStatus="disabled")
    answer = service.register(registration_id, cert=(str(leaf.chain_file), str(leaf.key_file)))
    assert (answer.status_code, answer.json()["status"]) == (202, "disabled")


def test_the_first_answer_over_https_is_final_and_polls_find_it(service):
    registration_id, device_key = unique("https"), key()
    service.individual(registration_id, symmetric(device_key))
    answer = service.register(registration_id, device_key=device_key)
    body = answer.json()
    assert (answer.status_code, body["status"], answer.headers["retry-after"]) == (202, "assigned", "3")
    assert body["registrationState"]["substatus"] == "initialAssignment"
    assert body["registrationState"]["symmetricKey"] == {} and body["operationId"]
    poll = service.device_call("GET", registration_id, f"/operations/{body['operationId']}", device_key)
    assert (poll.status_code, poll.json()) == (200, body)
    look_up = service.device_call("POST", registration_id, "", device_key, {"registrationId": registration_id})
    assert (look_up.status_code, look_up.json()) == (200, body["registrationState"])
    assert service.device_call("GET", registration_id, "/operations/4.00.x", device_key).json()["errorCode"] == 404203
    csr = {"registrationId": registration_id, "csr": "MIIB"}
    refused = service.device_call("POST", registration_id, "", device_key, csr, version="2026-11-01")
    assert refused.json()["errorCode"] == 400004


def refused(answer, status, number):
    assert (answer.status_code, answer.json()["errorCode"]) == (status, number), answer.text
    assert set(answer.json()) == {"errorCode", "trackingId", "message", "timestampUtc"}


def test_what_is_wrong_is_answered_by_number(service):
    registration_id, device_key, group_key = unique("wrong"), key(), key()
    service.group(unique("group"), symmetric(group_key))
    service.individual(registration_id, symmetric(device_key))
    refused(service.register(registration_id, device_key=key()), 401, 401000)
    refused(service.register(registration_id), 401, 401000)
    refused(service.register(unique("unknown"), device_key=device_key), 401, 401000)
    # The key of a group opens no device, and that of one device no other one.
    refused(service.register(unique("sn"), device_key=group_key), 401, 401000)
    refused(service.register(unique("sn"), device_key=derived(group_key, "another")), 401, 401000)
    # A look-alike has another id.
    refused(service.register(registration_id + "-", device_key=device_key), 401, 401000)
    # A token for another resource, and one that has ended.
    other = sas_token(f"{service.scope}/registrations/other", device_key, "registration")
    refused(service.register(registration_id, token=other), 401, 401000)
    ended = sas_token(f"{service.scope}/registrations/{registration_id}", device_key, "registration", 1_000_000)
    refused(service.register(registration_id, token=ended), 401, 401000)
    refused(service.register(registration_id, device_key=device_key, version="2030-01-01"), 400, 400001)
    refused(service.register("_" * 129, device_key=device_key), 400, 400004)
    large = {"registrationId": registration_id, "payload": "x" * (1 << 20)}
    refused(service.device_call("PUT", registration_id, "/register", device_key, large), 413, 413001)
    refused(service.device_call("GET", registration_id, "/register", device_key), 405, 405000)
    never = unique("never")
    service.individual(never, symmetric(device_key))
    refused(service.device_call("POST", never, "", device_key, {"registrationId": never}), 404, 404201)
    scope = service.scope
    try:
        service.scope = "0neFFFFFFFF"
        refused(service.register(registration_id, device_key=device_key), 404, 404204)
    finally:
        service.scope = scope


def test_a_disabled_enrollment_says_so_and_no_hub_is_explained(service):
    registration_id, device_key = unique("off"), key()
    service.individual(registration_id, symmetric(device_key), provisioningStatus="disabled")
    answer = service.register(registration_id, device_key=device_key)
    assert (answer.status_code, answer.json()["status"]) == (202, "disabled")
    registration_id = unique("nohub")
    service.individual(registration_id, symmetric(device_key), iotHubs=["elsewhere.example.com"], allocationPolicy="static")
    state = service.register(registration_id, device_key=device_key).json()["registrationState"]
    assert (state["status"], state["errorCode"]) == ("failed", 400208)
    assert "elsewhere.example.com" in state["errorMessage"]


def test_a_device_registers_again_by_the_enrollments_policy(hub, service):
    def generation(device_id):
        return json.loads(hub.running.cli("device", "show", device_id, "-o", "json"))["generationId"]

    for policy, resets in [(None, False), ((True, True), False), ((False, False), False), ((True, False), True)]:
        registration_id, device_key = unique("again"), key()
        more = {}
        if policy is not None:
            more["reprovisionPolicy"] = dict(zip(["updateHubAssignment", "migrateDeviceData"], policy))
        service.individual(registration_id, symmetric(device_key), **more)
        first = service.register(registration_id, device_key=device_key).json()
        before = generation(registration_id)
        again = service.register(registration_id.upper(), device_key=device_key).json()
        assert again["registrationState"]["deviceId"] == registration_id
        assert again["operationId"] != first["operationId"]
        assert (generation(registration_id) != before) == resets
        expected = "deviceDataReset" if resets else "initialAssignment"
        assert again["registrationState"]["substatus"] == expected


def test_a_device_that_an_operator_has_disabled_stays_disabled(hub, service):
    registration_id, device_key = unique("stay"), key()
    service.individual(registration_id, symmetric(device_key))
    service.register(registration_id, device_key=device_key)
    hub.running.cli("device", "update", registration_id, "--status", "disabled")
    assert service.register(registration_id, device_key=device_key).json()["status"] == "assigned"
    assert json.loads(hub.running.cli("device", "show", registration_id, "-o", "json"))["status"] == "disabled"


def test_two_at_once_are_one_device(service):
    group_key, registration_id = key(), unique("twice")
    service.group(unique("group"), symmetric(group_key))
    answers = []

    def register():
        answers.append(service.register(registration_id, device_key=derived(group_key, registration_id)))

    threads = [threading.Thread(target=register) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {(answer.status_code, answer.json().get("status")) for answer in answers}
    # One that has lost too often is to come again.
    assert found <= {(202, "assigned"), (409, None)} and (202, "assigned") in found


def test_enrollments_have_etags(service):
    group_id = unique("group")
    path, body = f"enrollmentGroups/{group_id}", {"enrollmentGroupId": group_id, "attestation": symmetric()}
    first = service.call("PUT", path, body)
    assert first.status_code == 200 and first.headers["etag"] == first.json()["etag"]
    refused(service.call("PUT", path, body), 409, 409202)
    refused(service.call("PUT", path, body, If_Match='"bm9uZQ=="'), 412, 412001)
    second = service.call("PUT", path, {**body, "provisioningStatus": "disabled"}, If_Match=first.json()["etag"])
    assert second.json()["provisioningStatus"] == "disabled"
    refused(service.call("PUT", path, body, If_Match=first.json()["etag"]), 412, 412001)
    read = service.call("GET", path)
    assert "symmetricKey" not in read.json()["attestation"]
    # What was read may be written back: the keys stay.
    keys = service.call("POST", path + "/attestationmechanism").json()
    service.put(path, read.json(), If_Match="*")
    assert service.call("POST", path + "/attestationmechanism").json() == keys == body["attestation"]
    refused(service.call("PUT", f"enrollmentGroups/{unique()}", body, If_Match='"bm9uZQ=="'), 400, 400004)
    assert service.call("DELETE", path, If_Match="*").status_code == 204
    refused(service.call("GET", path), 404, 404202)
    refused(service.call("DELETE", path), 404, 404202)
    refused(service.call("GET", f"enrollments/{unique()}"), 404, 404201)


def test_bulk_calls_and_pages(service):
    ids = [unique("bulk") for _ in range(5)]
    entries = [{"registrationId": one, "attestation": symmetric()} for one in ids]
    done = service.call("POST", "enrollments/", {"mode": "create", "enrollments": entries})
    assert done.json() == {"isSuccessful": True, "errors": []}
    again = service.call("POST", "enrollments", {"mode": "create", "enrollments": entries[:1]}).json()
    assert not again["isSuccessful"]
    assert (again["errors"][0]["registrationId"], again["errors"][0]["errorCode"]) == (ids[0], 409201)
    found, token, pages = [], None, 0
    while True:
        headers = {"x_ms_max_item_count": "2", **({"x_ms_continuation": token} if token else {})}
        page = service.call("POST", "enrollments/query", {"query": "SELECT * FROM enrollments"}, **headers)
        assert page.headers["x-ms-item-type"] == "Enrollment" and len(page.json()) <= 2
        found += [row["registrationId"] for row in page.json()]
        token, pages = page.headers.get("x-ms-continuation"), pages + 1
        if token is None:
            break
    assert set(ids) <= set(found) and len(found) == len(set(found)) and pages >= 3
    gone = service.call("POST", "enrollments", {"mode": "delete", "enrollments": [{"registrationId": one} for one in ids]})
    assert gone.json()["isSuccessful"]
    bad = service.call("POST", "enrollments/query", {"query": "SELECT deviceId FROM enrollments"})
    refused(bad, 400, 400004)


def test_registrations_are_read_and_deleted(hub, service):
    registration_id, device_key = unique("record"), key()
    service.individual(registration_id, symmetric(device_key))
    refused(service.call("GET", f"registrations/{registration_id}"), 404, 404201)
    service.register(registration_id, device_key=device_key)
    state = service.call("GET", f"registrations/{registration_id}").json()
    assert (state["status"], state["assignedHub"]) == ("assigned", hub.host)
    assert base64.b64decode(state["etag"]).decode().startswith('"')
    assert service.call("GET", f"enrollments/{registration_id}").json()["registrationState"] == state
    refused(service.call("DELETE", f"registrations/{registration_id}", If_Match="bm9uZQ=="), 412, 412001)
    assert service.call("DELETE", f"registrations/{registration_id}", If_Match=state["etag"]).status_code == 204
    # The device stays at the hub.
    assert json.loads(hub.running.cli("device", "show", registration_id, "-o", "json"))["deviceId"] == registration_id


def test_the_service_api_has_policies_of_its_own(hub, service):
    refused(service.call("GET", "enrollments/x", token=sas_token(hub.host, key(), "provisioningserviceowner")), 401, 401002)
    owner = fields(hub.connection["owner"])
    token = sas_token(hub.host, owner["SharedAccessKey"], owner["SharedAccessKeyName"])
    refused(service.call("GET", "enrollments/x", token=token), 401, 401002)
    refused(service.call("GET", "enrollments/x", version="2030-01-01"), 400, 400001)
    tpm = {"type": "tpm", "tpm": {"endorsementKey": "AToAAQALAAMAsgAg"}}
    refused(service.call("PUT", "enrollments/x", {"registrationId": "x", "attestation": tpm}), 400, 400004)


def test_what_is_registered_survives_kill_9(own_hub):
    service = Service(own_hub)
    group_key = key()
    service.group("fleet", symmetric(group_key))
    assigned, stop = [], threading.Event()

    def register(worker):
        number = 0
        while not stop.is_set():
            registration_id = f"sn-{worker}-{number}"
            number += 1
            try:
                answer = service.register(registration_id, device_key=derived(group_key, registration_id))
            except requests.RequestException:
                return
            if answer.ok and answer.json()["status"] == "assigned":
                assigned.append(registration_id)

    threads = [threading.Thread(target=register, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    while len(assigned) < 100:
        threading.Event().wait(0.01)
    own_hub.running.kill()
    stop.set()
    for thread in threads:
        thread.join()
    own_hub.running.start()
    assert own_hub.connection["provisioning"]["idScope"] == service.scope
    for registration_id in assigned:
        state = service.call("GET", f"registrations/{registration_id}").json()
        assert state["status"] == "assigned"
        device = own_hub.registry.get_device(registration_id)
        assert device.authentication.symmetric_key.primary_key == derived(group_key, registration_id)
    client = IoTHubDeviceClient.create_from_connection_string(
        f"HostName={own_hub.host};DeviceId={assigned[-1]};SharedAccessKey={derived(group_key, assigned[-1])}",
        server_verification_cert=own_hub.ca_text())
    with connected(client):
        client.send_message("still there")


def test_the_path_is_decoded_once(service):
    registration_id, device_key = f"{unique('A')}:B", key()
    service.put(f"enrollments/{urllib.parse.quote(registration_id, safe='')}",
                {"registrationId": registration_id, "attestation": symmetric(device_key)})
    quoted = urllib.parse.quote(registration_id, safe="")
    token = sas_token(f"{service.scope}/registrations/{registration_id}", device_key)
    answer = service.device_call("PUT", quoted, "/register", token=token)
    assert answer.json()["registrationState"]["deviceId"] == registration_id


def test_the_service_sdk_writes_reads_and_lists_enrollments(service):
    client = ProvisioningServiceClient.create_from_connection_string(service.facts["service"])

    def attestation():
        keys = SymmetricKeyAttestation(primary_key=key(), secondary_key=key())
        return AttestationMechanism(type="symmetricKey", symmetric_key=keys)

    group_id = unique("group")
    made = client.create_or_update(EnrollmentGroup(enrollment_group_id=group_id, attestation=attestation()))
    assert (made.enrollment_group_id, made.provisioning_status) == (group_id, "enabled")
    assert client.get_enrollment_group(group_id).etag == made.etag
    registration_id = unique("reg")
    twin = InitialTwin.create(tags={"site": "b"}, desired_properties={"rate": 7}) if hasattr(InitialTwin, "create") else None
    individual = IndividualEnrollment(registration_id=registration_id, attestation=attestation(), initial_twin=twin)
    made = client.create_or_update(individual)
    made.provisioning_status = "disabled"
    assert client.create_or_update(made).provisioning_status == "disabled"
    with pytest.raises(ProvisioningServiceError):
        client.create_or_update(made)
    mechanism = client.get_individual_enrollment_attestation_mechanism(registration_id)
    assert mechanism.type == "symmetricKey" and mechanism.symmetric_key.primary_key
    query = client.create_individual_enrollment_query(QuerySpecification(query="SELECT * FROM enrollments"), 2)
    found = []
    for page in query:
        found += [row.registration_id for row in page]
    assert registration_id in found
    ids = [unique("bulk") for _ in range(2)]
    entries = [IndividualEnrollment(registration_id=one, attestation=attestation()) for one in ids]
    assert client.run_bulk_operation(BulkEnrollmentOperation(mode="create", enrollments=entries)).is_successful
    client.delete_individual_enrollment_by_param(registration_id)
    with pytest.raises(ProvisioningServiceError):
        client.get_individual_enrollment(registration_id)


def test_the_command_line_enrolls_and_shows(hub, service):
    def cli(*args):
        return hub.running.cli("provisioning", *args)

    assert json.loads(cli("show"))["idScope"] == service.scope
    group_id, registration_id = unique("line"), unique("SN")
    assert "symmetricKey" not in json.loads(cli("group", "create", group_id, "--initial-twin-tags", '{"line": 7}'))["attestation"]
    device_key = cli("group", "derive-key", group_id, registration_id).strip()
    assert service.register(registration_id, device_key=device_key).json()["status"] == "assigned"
    assert json.loads(cli("registration", "show", registration_id))["assignedHub"] == hub.host
    assert registration_id in cli("registration", "list", group_id)
    cli("group", "update", group_id, "--provisioning-status", "disabled")
    assert service.register(registration_id, device_key=device_key).json()["status"] == "disabled"
    assert json.loads(cli("group", "show", group_id, "--show-keys"))["attestation"]["symmetricKey"]["primaryKey"]
    assert group_id in cli("group", "list")
    cli("enrollment", "create", registration_id, "--device-id", unique("thing"))
    assert registration_id in cli("enrollment", "list")
    cli("enrollment", "delete", registration_id)
    cli("registration", "delete", registration_id)
    cli("group", "delete", group_id)
