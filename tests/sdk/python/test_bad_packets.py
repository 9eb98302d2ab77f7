"""Packets that MQTT forbids or the hub refuses, each on its own connection: it is closed, and no other one is affected."""

import pytest
from hub_under_test import Reader
from wire import (
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    Wire,
    connect,
    length,
    logged_in,
    login,
    packet,
    publish,
    subscribe,
    text,
)

OWN = "devices/{d}/messages/events/"

# After a good CONNECT. {d} is the device's own id.
FORBIDDEN = {
    "telemetry of another device": lambda d: publish("devices/other/messages/events/"),
    "telemetry of a device with a longer id": lambda d: publish(f"devices/{d}x/messages/events/"),
    "telemetry of a module": lambda d: publish(f"devices/{d}/modules/m/messages/events/"),
    "an unknown topic": lambda d: publish("hello/world"),
    "a topic of the hub's side": lambda d: publish(f"devices/{d}/messages/devicebound/"),
    "a system topic": lambda d: publish("$SYS/broker/uptime"),
    "a wildcard in a topic": lambda d: publish(f"devices/{d}/#"),
    "an empty topic": lambda d: publish(""),
    "a NUL in a topic": lambda d: publish(f"devices/{d}/messages/events/a=\0"),
    "a topic that is no UTF-8": lambda d: publish(b"devices/\xff/messages/events/"),
    "a half surrogate in a topic": lambda d: publish(f"devices/{d}/messages/events/".encode() + b"\xed\xa0\x80=1"),
    "a bag that is no UTF-8 once decoded": lambda d: publish(f"devices/{d}/messages/events/a=%FF"),
    "packet id 0": lambda d: publish(OWN.format(d=d), packet_id=0),
    "QoS 2": lambda d: publish(OWN.format(d=d), qos=2),
    "QoS 3": lambda d: publish(OWN.format(d=d), qos=3),
    "DUP at QoS 0": lambda d: publish(OWN.format(d=d), qos=0, flags=8),
    "PUBREC": lambda d: packet(0x50, b"\0\1"),
    "PUBREL": lambda d: packet(0x62, b"\0\1"),
    "PUBCOMP": lambda d: packet(0x70, b"\0\1"),
    "PUBREL with wrong flags": lambda d: packet(0x60, b"\0\1"),
    "a filter of another device": lambda d: subscribe("devices/other/messages/devicebound/#"),
    "the filter of everything": lambda d: subscribe("#"),
    "an unknown filter": lambda d: subscribe("hello/#"),
    "the filter of everybody's telemetry": lambda d: subscribe("devices/+/messages/events/#"),
    "a filter with QoS 3": lambda d: subscribe(f"devices/{d}/messages/devicebound/#", qos=3),
    "an empty filter": lambda d: subscribe(""),
    "SUBSCRIBE without a filter": lambda d: packet(0x82, b"\0\1"),
    "SUBSCRIBE with packet id 0": lambda d: subscribe("$iothub/methods/POST/#", packet_id=0),
    "SUBSCRIBE with wrong flags": lambda d: packet(0x80, b"\0\1" + text("$iothub/methods/POST/#") + b"\0"),
    "51 filters": lambda d: packet(0x82, b"\0\1" + (text("$iothub/methods/POST/#") + b"\0") * 51),
    "UNSUBSCRIBE without a filter": lambda d: packet(0xA2, b"\0\1"),
    "a second CONNECT": lambda d: connect(d, d, "x"),
    "CONNACK": lambda d: packet(0x20, b"\0\0"),
    "SUBACK": lambda d: packet(0x90, b"\0\1\0"),
    "UNSUBACK": lambda d: packet(0xB0, b"\0\1"),
    "PINGRESP": lambda d: PINGRESP,
    "packet type 0": lambda d: packet(0x00),
    "packet type 15": lambda d: packet(0xF0),
    "PINGREQ with flags": lambda d: packet(0xC1),
    "PINGREQ with a body": lambda d: packet(0xC0, b"x"),
    "a field past the end of its packet": lambda d: packet(0x30, b"\xff\xffx"),
    "a PUBACK that is too short": lambda d: packet(0x40, b"\0"),
    "a length of five bytes": lambda d: b"\x30\xff\xff\xff\xff\x01",
    "an oversized packet, at its header": lambda d: b"\x32" + length(1024 * 1024),
    "the largest packet that MQTT knows, at its header": lambda d: b"\x32\xff\xff\xff\x7f",
    "a body of one byte too much": lambda d: publish(OWN.format(d=d), bytes(256 * 1024 + 1)),
}


@pytest.fixture(scope="module")
def device(hub):
    return hub.create()


@pytest.mark.parametrize("what", FORBIDDEN)
def test_the_connection_ends_without_an_answer_after(hub, device, what):
    with logged_in(hub, device) as wire:
        wire.send(PINGREQ)
        assert wire.receive(2) == PINGRESP
        wire.send(FORBIDDEN[what](device.device_id))
        assert wire.until_closed() == b""


def test_nothing_of_a_forbidden_packet_is_stored_and_what_came_before_is(hub):
    device = hub.create()
    own = OWN.format(d=device.device_id)
    for number, make in enumerate(FORBIDDEN.values()):
        with logged_in(hub, device) as wire:
            wire.send(publish(own, f"{number}".encode(), packet_id=7))
            assert wire.receive(4) == b"\x40\x02\x00\x07"
            wire.send(make(device.device_id)).until_closed()
    with logged_in(hub, device) as wire:
        wire.send(publish(own, b"last")).receive(4)
    with Reader(hub) as reader:
        expected = [*map(str, range(len(FORBIDDEN))), "last"]
        reader.wait_for(device.device_id, len(expected))
        assert [event.body_as_str() for event in reader.of(device.device_id)] == expected


@pytest.mark.parametrize(
    "what, data, answer",
    [
        ("no CONNECT first", PINGREQ, b""),
        ("a PUBLISH first", publish("devices/d/messages/events/"), b""),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        ("AMQP", b"AMQP\0\1\0\0", b""),
        ("another protocol name", connect("d", "h/d", "x", name="MQTX"), b""),
        ("MQTT 3.1", connect("d", "h/d", "x", level=3, name="MQIsdp"), b"\x20\x02\x00\x01"),
        ("a bridge", connect("d", "h/d", "x", level=0x84), b"\x20\x02\x00\x01"),
        ("the reserved flag", connect("d", "h/d", "x", flags=0xC3), b""),
        ("a will of QoS 3", connect("d", "h/d", "x", flags=0xDE, will=text("t") + text("m")), b""),
        ("an empty client id", connect("", "h/d", "x"), b"\x20\x02\x00\x05"),
        ("another client id", connect("e", "h/d", "x"), b"\x20\x02\x00\x05"),
        ("a user name without host", connect("d", "d", "x"), b"\x20\x02\x00\x05"),
        ("an endless user name, at its header", b"\x10" + length(70_000), b""),
        ("noise", bytes(range(256)) * 64, b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_connection_that_begins_wrongly_is_closed(hub, what, data, answer):
    with Wire(hub) as wire:
        assert wire.send(data).until_closed() == answer


def test_mqtt_5_is_refused_with_an_mqtt_5_connack(hub):
    body = text("MQTT") + b"\x05\xc2\x00\x3c\x00" + text("d") + text("h/d") + text("x")
    with Wire(hub) as wire:
        assert wire.send(packet(0x10, body)).until_closed() == b"\x20\x03\x00\x84\x00"


def test_a_malformed_token_is_refused_with_5(hub, device):
    name = f"{hub.host}/{device.device_id}/?api-version=2021-04-12"
    for token in ("", "x", "SharedAccessSignature", "SharedAccessSignature sr=&sig=&se=", b"\xff" * 20, "é" * 5000):
        with Wire(hub) as wire:
            wire.send(connect(device.device_id, name, token))
            assert wire.until_closed() == b"\x20\x02\x00\x05", token


def test_packets_in_pieces_and_behind_the_connect_are_understood(hub):
    device = hub.create()
    own = OWN.format(d=device.device_id)
    bytes_of_a_session = login(hub, device) + publish(own, b"1") + publish(own, b"2", packet_id=2) + PINGREQ
    with Wire(hub) as wire:
        for byte in bytes_of_a_session:
            wire.send(bytes([byte]))
        answers = wire.receive(4 + 4 + 4 + 2)
        # The answer to a ping need not wait for the log.
        assert answers[:4] == b"\x20\x02\x00\x00" and answers.replace(PINGRESP, b"", 1)[4:] == b"\x40\x02\0\1\x40\x02\0\2"
        wire.send(DISCONNECT)
        assert wire.until_closed() == b""


def test_tls_on_the_plain_port_and_the_reverse_are_closed(hub):
    hello = bytes.fromhex("16030100050100000100")
    for port in ("mqttPlain", "amqpPlain"):
        with Wire(hub, port) as wire:
            wire.send(hello).until_closed()
    for port, data in (("mqtt", connect("d", "h/d", "x")), ("amqp", b"AMQP\0\1\0\0"), ("https", b"GET / HTTP/1.1\r\n\r\n")):
        with Wire(hub, port) as wire:
            # An alert may be said; nothing of the protocol is.
            assert wire.send(data).until_closed()[:1] in (b"", b"\x15"), port
