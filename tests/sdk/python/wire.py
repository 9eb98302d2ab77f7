"""MQTT by hand, for packets that no SDK would send. Bytes in, bytes out; nothing here validates the bytes to write."""

import socket
import ssl
import time

from harness import sas_token

CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
PINGREQ, PINGRESP, DISCONNECT = b"\xc0\x00", b"\xd0\x00", b"\xe0\x00"


def text(value) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def length(number) -> bytes:
    """A Remaining Length."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (128 if number else 0))
        if not number:
            return bytes(out)


def packet(first, body=b"") -> bytes:
    return bytes([first]) + length(len(body)) + body


def connect(client_id, username, password, keep_alive=60, flags=0xC2, level=4, name="MQTT", will=b"") -> bytes:
    head = text(name) + bytes([level, flags]) + keep_alive.to_bytes(2, "big")
    return packet(0x10, head + text(client_id) + will + text(username) + text(password))


def publish(topic, body=b"", qos=1, packet_id=1, flags=0) -> bytes:
    number = packet_id.to_bytes(2, "big") if qos else b""
    return packet(0x30 | qos << 1 | flags, text(topic) + number + body)


def subscribe(topic_filter, qos=1, packet_id=1) -> bytes:
    return packet(0x82, packet_id.to_bytes(2, "big") + text(topic_filter) + bytes([qos]))


class Wire:
    """One connection: plain MQTT by default."""

    def __init__(self, hub, port="mqttPlain", tls=False):
        self.hub = hub
        self.socket = socket.create_connection((hub.host, hub.connection["ports"][port]), timeout=10)
        if tls:
            context = ssl.create_default_context(cafile=hub.ca_file)
            self.socket = context.wrap_socket(self.socket, server_hostname=hub.host)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # closed already: the reading side will show it
        return self

    def receive(self, count) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more, f"the hub closed after {data.hex(' ')}"
            data += more
        return data

    def until_closed(self, within=5.0) -> bytes:
        """All that the hub says until it closes; fails if it does not close."""
        data, deadline = b"", time.monotonic() + within
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"the connection is still open after {within} s; the hub said {data.hex(' ')!r}"
            self.socket.settimeout(left)
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return data
            if not more:
                return data
            data += more


def login(hub, device, expiry=None, **more) -> bytes:
    """The CONNECT of a device."""
    resource = f"{hub.host}/devices/{device.device_id}"
    token = sas_token(resource, device.authentication.symmetric_key.primary_key, expiry=expiry)
    return connect(device.device_id, f"{hub.host}/{device.device_id}/?api-version=2021-04-12", token, **more)


def logged_in(hub, device, **more) -> Wire:
    wire = Wire(hub, **{name: more.pop(name) for name in ("port", "tls") if name in more})
    wire.send(login(hub, device, **more))
    assert wire.receive(4) == CONNACK_ACCEPTED
    return wire
