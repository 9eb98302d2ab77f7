"""Silent and expired connections: deadlines, half-open connections, many silent ones at once, tokens that expire."""

import contextlib
import os
import subprocess
import sys
import time

import pytest
from hub_under_test import connected
from wire import PINGREQ, PINGRESP, Wire, logged_in, login

SILENT = 2000


def seconds_until_closed(wire, within):
    started = time.monotonic()
    wire.until_closed(within)
    return time.monotonic() - started


@pytest.mark.parametrize("port", ["mqttPlain", "mqtt", "amqpPlain", "amqp", "https"])
def test_a_connection_that_says_nothing_is_closed(strict_hub, port):
    with Wire(strict_hub, port) as wire:
        assert seconds_until_closed(wire, 15) > 2


@pytest.mark.parametrize("port", ["mqtt", "amqp", "https"])
def test_a_tls_handshake_that_stops_half_way_is_closed(strict_hub, port):
    with Wire(strict_hub, port) as wire:
        wire.send(bytes.fromhex("160301020001000100")).until_closed(15)


@pytest.mark.parametrize("tls", [False, True])
def test_half_a_connect_is_closed_however_it_trickles(strict_hub, tls):
    with Wire(strict_hub, "mqtt" if tls else "mqttPlain", tls) as wire:
        started = time.monotonic()
        wire.socket.settimeout(0.5)
        for byte in login(strict_hub, strict_hub.create()):
            wire.send(bytes([byte]))
            try:
                if not wire.socket.recv(1):
                    break
            except TimeoutError:
                assert time.monotonic() < started + 15
            except OSError:
                break
        assert time.monotonic() > started + 2


def test_half_a_request_is_answered_with_an_error_or_closed(strict_hub):
    for head in (b"GET /devices", b"PUT /devices/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"):
        with Wire(strict_hub, "https", tls=True) as wire:
            said = wire.send(head).until_closed(15)
            assert said == b"" or said.startswith(b"HTTP/1.1 4"), said[:100]


def test_a_device_that_falls_silent_is_closed_after_one_and_a_half_keep_alives(hub):
    with logged_in(hub, hub.create(), keep_alive=2) as wire:
        wire.send(PINGREQ)
        assert wire.receive(2) == PINGRESP
        assert 2.9 < seconds_until_closed(wire, 10) < 7


def test_a_token_that_ends_closes_its_connection_though_it_is_in_use(strict_hub):
    # Tokens count for five minutes more; this one has four seconds of them left.
    with logged_in(strict_hub, strict_hub.create(), expiry=time.time() - 296) as wire:
        started = time.monotonic()
        wire.socket.settimeout(0.5)
        while True:
            assert time.monotonic() < started + 15, "the connection outlived its token"
            try:
                wire.socket.sendall(PINGREQ)
                if not wire.socket.recv(2):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
            time.sleep(0.2)
        assert time.monotonic() > started + 2.5


def test_a_token_past_its_five_minutes_is_refused(strict_hub):
    with Wire(strict_hub) as wire:
        wire.send(login(strict_hub, strict_hub.create(), expiry=time.time() - 302))
        assert wire.until_closed() == b"\x20\x02\x00\x05"


# In a process of its own: paho waits with select(), which knows no file above 1,023.
CROWD = """
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
crowd = [socket.create_connection((host, port), timeout=10) for _ in range(count)]
print("there", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def crowd(hub, port):
    command = [sys.executable, "-c", CROWD, hub.host, str(hub.connection["ports"][port]), str(SILENT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        yield
        process.stdin.close()


@pytest.mark.parametrize("port", ["mqttPlain", "mqtt", "https", "amqp", "amqpPlain"])
def test_a_crowd_that_never_speaks_keeps_no_device_out(strict_hub, port):
    device = strict_hub.create()
    with crowd(strict_hub, port):
        started = time.monotonic()
        with connected(strict_hub.client(device)) as client:
            client.send_message("through the crowd")
        assert strict_hub.registry.get_device(device.device_id).device_id == device.device_id
        assert strict_hub.partition_ids()
        assert time.monotonic() - started < 10


def test_a_closed_connection_gives_its_file_back(hub):
    device = hub.create()
    pid = hub.connection["pids"][0]

    def sockets():
        names = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                names.append(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                pass
        return sum(name.startswith("socket:") for name in names)

    before = sockets()
    for _ in range(50):
        logged_in(hub, device).__exit__()
    deadline = time.monotonic() + 10
    while sockets() > before + 5:
        assert time.monotonic() < deadline, f"{sockets() - before} sockets of closed connections are still open"
        time.sleep(0.1)
