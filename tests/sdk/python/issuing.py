"""Devices that ask for certificates: keys and requests, and what an MQTT client sends where the released SDKs have no call for it."""

import base64
import json
import queue
import ssl
import threading
import urllib.parse
from datetime import datetime, timedelta, timezone

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from harness import sas_token
from hub_under_test import TIMEOUT

VERSION = "2026-11-02-preview"


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class OperationalKey:
    """The key of a device that no one else has, and the certificates that it gets for it."""

    def __init__(self, folder, registration_id):
        self.registration_id = registration_id
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.folder = folder
        self.key_file = folder / f"{registration_id}-{id(self)}.key"
        self.key_file.write_bytes(self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    def csr(self):
        request = x509.CertificateSigningRequestBuilder().subject_name(named(self.registration_id))
        der = request.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        return base64.b64encode(der).decode()

    def holds(self, chain):
        """The file with a chain that the hub has issued, as a device presents it."""
        ders = [base64.b64decode(certificate) for certificate in chain]
        leaf = x509.load_der_x509_certificate(ders[0])
        assert leaf.public_key() == self.key.public_key()
        file = self.folder / f"{leaf.serial_number:x}.pem"
        file.write_text("".join(ssl.DER_cert_to_PEM_cert(der) for der in ders), encoding="ascii")
        return file


def serial_of(file):
    return f"{x509.load_pem_x509_certificate(file.read_bytes()).serial_number:X}"


class Wire:
    """paho's client, as it is: one connection, and what it has received."""

    def __init__(self, hub, client_id, username, password=None, certificate=None):
        self.messages = queue.SimpleQueue()
        self.answered, self.ended = threading.Event(), threading.Event()
        self.code = None
        self.client = mqtt.Client(client_id=client_id, protocol=mqtt.MQTTv311)
        self.client.username_pw_set(username, password)
        cert, key = certificate or (None, None)
        self.client.tls_set(hub.ca_file, certfile=cert and str(cert), keyfile=key and str(key))
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = lambda *_: self.ended.set()
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.client.connect(hub.host, 8883)
        self.client.loop_start()
        assert self.answered.wait(TIMEOUT)

    def _on_connect(self, _client, _data, _flags, code):
        self.code = code
        self.answered.set()

    def subscribe(self, topic):
        granted = threading.Event()
        self.client.on_subscribe = lambda *_: granted.set()
        self.client.subscribe(topic, 1)
        assert granted.wait(TIMEOUT)

    def ask(self, topic, body):
        self.client.publish(topic, json.dumps(body), 1)
        return self.next()

    def next(self):
        message = self.messages.get(timeout=TIMEOUT)
        return message.topic, json.loads(message.payload)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def registering(hub, service, registration_id, device_key, version=VERSION):
    """A connection to the provisioning service by a key."""
    password = sas_token(f"{service.scope}/registrations/{registration_id}", device_key, "registration")
    username = f"{service.scope}/registrations/{registration_id}/api-version={version}"
    wire = Wire(hub, registration_id, username, password)
    assert wire.code == 0
    wire.subscribe("$dps/registrations/res/#")
    return wire


def outcome(wire, body):
    """Registers, and polls until the state is final."""
    topic, answer = wire.ask("$dps/registrations/PUT/iotdps-register/?$rid=1", body)
    while answer.get("status") == "assigning":
        after = int(urllib.parse.parse_qs(topic.partition("?")[2])["retry-after"][0])
        threading.Event().wait(after)
        topic, answer = wire.ask(
            f"$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId={answer['operationId']}", " ")
    return topic, answer


class Authority:
    """A CA outside of the hub."""

    def __init__(self, name):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = named(name)
        self.certificate = self._sign(self.name, self.key.public_key(), 30, is_ca=True)

    def _sign(self, subject, public_key, days, is_ca=False):
        now = datetime.now(timezone.utc)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, csr, name=None, key=None, days=1):
        """The certificate for a request in base64, or one that differs from it."""
        request = x509.load_der_x509_csr(base64.b64decode(csr))
        subject = named(name) if name else request.subject
        leaf = self._sign(subject, key or request.public_key(), days)
        return base64.b64encode(leaf.public_bytes(serialization.Encoding.DER)).decode()

    def pem_files(self, folder):
        chain, key = folder / "plant-ca.pem", folder / "plant-ca.key"
        chain.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return chain, key
