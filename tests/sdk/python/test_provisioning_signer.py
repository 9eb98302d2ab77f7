"""Issuing CAs whose keys are outside of the hub: a signer over HTTPS, and everything that it may answer."""

import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import harness
import pytest
from certificates import Workshop
from cryptography.hazmat.primitives.asymmetric import ec
from hub_under_test import HubUnderTest, connected, unique
from issuing import Authority, OperationalKey, registering
from test_provisioning import Service, derived, key, symmetric
from test_provisioning_certificates import device

TOKEN = "a-token-of-the-plant"
SIGNER_SECONDS = 3


class Signer:
    """A server with a certificate for 127.0.0.1; `answer` is what it does with a call."""

    def __init__(self, workshop, ca):
        self.authority = Authority("Plant CA")
        self.calls, self.answer = [], self.good
        self.closing = threading.Event()
        signer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                signer.calls.append((self.path, dict(self.headers), body))
                signer.answer(self, body)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        certificate = workshop.server("127.0.0.1", ca)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate.certificate_file, certificate.key_file)
        self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.server.server_port}/sign?plant=7"

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def good(self, handler, body):
        reply(handler, 200, {"certificates": [self.authority.issue(body["csr"])]})


def reply(handler, status, body, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
    except OSError:
        # The hub reads no more than it needs.
        pass


class Plant:
    """A hub with a CA whose key is at a signer."""

    def __init__(self, hub, signer, folder):
        self.hub, self.signer, self.folder = hub, signer, folder
        self.service, self.key = Service(hub), key()
        chain, _ = signer.authority.pem_files(folder)
        token = folder / "token"
        token.write_text(TOKEN, encoding="ascii")
        hub.running.cli("provisioning", "ca", "create", "plant", "--chain", str(chain), "--signer", signer.url,
                        "--signer-token-file", str(token), "--policy-days", "30")
        self.service.group("line", symmetric(self.key), certificateAuthorityName="plant",
                           certificatePolicyName="default", namespaceName="n")

    def registers(self, own):
        """The final answer; the first one comes at once, whatever the signer does."""
        with registering(self.hub, self.service, own.registration_id, derived(self.key, own.registration_id)) as wire:
            begun = time.monotonic()
            topic, answer = wire.ask("$dps/registrations/PUT/iotdps-register/?$rid=1", {"csr": own.csr()})
            took = time.monotonic() - begun
            assert topic.startswith("$dps/registrations/res/202/"), (topic, answer)
            assert answer["status"] == "assigning" and took < SIGNER_SECONDS - 1, (answer, took)
            again = answer
            while again["status"] == "assigning":
                threading.Event().wait(2.5)
                _, again = wire.ask(
                    f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={answer['operationId']}", " ")
            return again


@pytest.fixture(scope="module")
def plant(tmp_path_factory):
    workshop = Workshop()
    ca = workshop.ca("servers of the plant")
    signer = Signer(workshop, ca)
    running = harness.Hub(["--set", f"provisioning.signer_ca_file={ca.certificate_file}",
                           "--set", f"provisioning.signer_timeout={SIGNER_SECONDS}s"])
    try:
        running.start()
        yield Plant(HubUnderTest(running), signer, tmp_path_factory.mktemp("plant"))
    finally:
        signer.close()
        running.stop()
        running.discard()


def test_a_signer_signs_and_the_device_connects(plant):
    own = OperationalKey(plant.folder, unique("sn"))
    plant.signer.answer = plant.signer.good
    answer = plant.registers(own)
    assert answer["status"] == "assigned", answer
    path, headers, body = plant.signer.calls[-1]
    assert path == "/sign?plant=7"
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == f"Bearer {TOKEN}"
    assert body["commonName"] == own.registration_id and body["certificateAuthorityName"] == "plant"
    assert body["operationId"] == answer["operationId"] and len(body["deviceEpoch"]) == 32
    chain = answer["registrationState"]["issuedCertificateChain"]
    assert len(chain) == 2, "the CA follows"
    with connected(device(plant.hub, own.registration_id, own, own.holds(chain))) as client:
        client.send_message("signed elsewhere")


def misnamed(signer, body):
    return {"certificates": [signer.authority.issue(body["csr"], name="another")]}


def foreign_key(signer, body):
    return {"certificates": [signer.authority.issue(body["csr"], key=ec.generate_private_key(ec.SECP256R1()).public_key())]}


def too_long(signer, body):
    return {"certificates": [signer.authority.issue(body["csr"], days=300)]}


def foreign_ca(_, body):
    return {"certificates": [Authority("Plant CA").issue(body["csr"])]}


@pytest.mark.parametrize("status,make,text", [
    (401, lambda *_: {"error": "no such token"}, "answered 401"),
    (404, lambda *_: b"no such path", "answered 404: no such path"),
    (500, lambda *_: b"out of order", "answered 500: out of order"),
    (200, lambda *_: b"<html>", "the answer of the signer is not"),
    (200, lambda *_: {"certificates": []}, "0 certificates"),
    (200, lambda *_: {"certificates": ["AAAA"]}, "certificate"),
    (200, lambda *_: {"certificates": ["A" * (1 << 20)]}, "cannot be called"),
    (500, lambda *_: b"x" * (1 << 20), "cannot be called"),
    (200, misnamed, "common name"),
    (200, foreign_key, "another key"),
    (200, too_long, "longer"),
    (200, foreign_ca, "the signer's certificate"),
])
def test_a_wrong_answer_fails_the_registration_and_says_why(plant, status, make, text):
    own = OperationalKey(plant.folder, unique("sn"))
    calls = len(plant.signer.calls)
    plant.signer.answer = lambda handler, body: reply(handler, status, make(plant.signer, body))
    assert_failed(plant, own, text)
    assert len(plant.signer.calls) == calls + 1, "it is called once"
    # The next registration is as good as any.
    plant.signer.answer = plant.signer.good
    assert plant.registers(own)["status"] == "assigned"


def test_a_redirect_is_not_followed(plant):
    own = OperationalKey(plant.folder, unique("sn"))
    calls = len(plant.signer.calls)
    plant.signer.answer = lambda handler, body: reply(handler, 302, b"", location=plant.signer.url)
    assert_failed(plant, own, "answered 302")
    assert len(plant.signer.calls) == calls + 1


def test_a_signer_that_hangs_holds_nothing_up(plant):
    own, other = OperationalKey(plant.folder, unique("sn")), OperationalKey(plant.folder, unique("sn"))
    plant.signer.answer = lambda handler, body: plant.signer.closing.wait(SIGNER_SECONDS + 2)
    assert_failed(plant, own, f"did not answer within {SIGNER_SECONDS * 1000} ms")
    plant.signer.answer = plant.signer.good
    assert plant.registers(other)["status"] == "assigned"


def assert_failed(plant, own, text):
    answer = plant.registers(own)
    assert answer["status"] == "failed", answer
    state = answer["registrationState"]
    assert state["errorCode"] == 503001 and text in state["errorMessage"], state
    assert "issuedCertificateChain" not in state
