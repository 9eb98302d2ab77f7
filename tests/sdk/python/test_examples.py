"""The programs in examples/, as a newcomer runs them. The Node one is in ../node/examples.test.mjs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import harness
from hub_under_test import Reader, body, properties, text, unique, until

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def environment(hub, device=None):
    """What examples/README.md sets, and where the hub's files are."""
    more = {
        "HOLDFAST_BIN": str(harness.binary()),
        "HOLDFAST_CONNECTION_FILE": str(hub.running.connection_file),
        "CA_FILE": hub.ca_file,
    }
    if device is not None:
        more["DEVICE_CONNECTION_STRING"] = hub.connection_string(device)
    return {**os.environ, **more}


def run(hub, *command, device=None):
    done = subprocess.run(command, env=environment(hub, device), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def assert_sent(hub, device, temperatures):
    with Reader(hub) as reader:
        events = reader.wait_for(device.device_id, len(temperatures))
    assert [json.loads(body(event)) for event in events] == [{"temperature": t} for t in temperatures]
    for event in events:
        assert properties(event) == {"room": "kitchen"}
        assert text(event.content_type) == "application/json"
        assert text(event.raw_amqp_message.properties.content_encoding) == "utf-8"


def test_the_python_device_sends_three_messages(hub):
    device = hub.create()
    run(hub, sys.executable, EXAMPLES / "python/device.py", device=device)
    assert_sent(hub, device, [20, 21, 22])


def test_the_device_without_an_sdk_sends_one_message(hub):
    device = hub.create()
    run(hub, EXAMPLES / "mqtt/device.sh", device=device)
    assert_sent(hub, device, [20])


def test_the_reader_prints_what_a_device_sends(hub, tmp_path):
    device = hub.create()
    run(hub, EXAMPLES / "mqtt/device.sh", device=device)
    printed = tmp_path / "printed"
    with open(printed, "wb") as output:
        reader = subprocess.Popen(
            [sys.executable, EXAMPLES / "python/reader.py"], env=environment(hub), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        line = until(
            lambda: next((one for one in printed.read_text().splitlines() if one.startswith(f"{device.device_id} ")), None),
            f"a line about {device.device_id}",
        )
    finally:
        reader.terminate()
        reader.wait(10)
    assert line.endswith("{\"temperature\": 20} {'room': 'kitchen'}")


def test_the_rest_example_registers_disables_and_deletes_a_device(hub):
    name = unique()
    printed = run(hub, EXAMPLES / "rest/devices.sh", name)
    documents = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [(one["deviceId"], one["status"]) for one in documents] == [
        (name, "enabled"),
        (name, "enabled"),
        (name, "disabled"),
    ]
    assert documents[0]["authentication"]["symmetricKey"]["primaryKey"]
    assert printed.splitlines()[-1] == f"deleted {name}"


def assert_read(hub, device, temperature=20):
    """One message with this temperature is in the hub's stream, whatever its properties."""
    with Reader(hub) as reader:
        event = reader.wait_for(device.device_id, 1)[0]
    assert json.loads(body(event)) == {"temperature": temperature}


def test_the_https_device_sends_a_message_and_a_batch(hub):
    device = hub.create()
    assert run(hub, EXAMPLES / "https/device.sh", device=device).split("\n")[:2] == ["sent", "sent two more"]
    with Reader(hub) as reader:
        events = reader.wait_for(device.device_id, 3)
    assert [json.loads(body(event)) for event in events] == [{"temperature": t} for t in (20, 21, 22)]
    assert all(properties(event) == {"room": "kitchen"} for event in events)


class Program:
    """A program of the examples that runs until it is stopped; its lines are collected."""

    def __init__(self, hub, device, tmp_path, *command, **more):
        self.printed = tmp_path / "printed"
        with open(self.printed, "wb") as output:
            self.process = subprocess.Popen(
                command, env={**environment(hub, device), **more}, stdout=output, stderr=subprocess.STDOUT
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)

    def wait_for(self, text):
        until(lambda: text in self.printed.read_text(), f"{text} in the program's output")


def test_the_python_device_without_an_sdk_does_everything(hub, tmp_path):
    device = hub.create()
    with Program(hub, device, tmp_path, sys.executable, EXAMPLES / "python/mqtt.py", "--once") as program:
        program.wait_for("$iothub/twin/res/204")
        answer = hub.running.cli("device", "method", "-d", device.device_id, "blink", "--payload", "3", "-o", "json")
        assert json.loads(answer)["payload"] == {"echo": 3}
        hub.running.cli("c2d", "send", "-d", device.device_id, "--data", "to the device")
        program.wait_for("to the device")
        assert program.process.wait(30) == 0
    assert_sent(hub, device, [20])


def test_the_device_over_amqp_without_an_sdk_sends_and_receives(hub, tmp_path):
    device = hub.create()
    with Program(hub, device, tmp_path, sys.executable, EXAMPLES / "python/amqp.py", "--once") as program:
        program.wait_for("sent")
        hub.running.cli("c2d", "send", "-d", device.device_id, "--data", "to the device")
        program.wait_for("to the device")
        assert program.process.wait(30) == 0
    assert_sent(hub, device, [22])


def test_the_go_device_sends_and_receives(hub, tmp_path):
    device = hub.create()
    program = tmp_path / "device"
    subprocess.run(["go", "build", "-o", program, "."], cwd=EXAMPLES / "go", check=True, timeout=600)
    with Program(hub, device, tmp_path, program, "-once") as running:
        running.wait_for("sent")
        hub.running.cli("c2d", "send", "-d", device.device_id, "--data", "to the device")
        running.wait_for("to the device")
        assert running.process.wait(30) == 0
    assert_sent(hub, device, [20])


def test_a_mosquitto_bridge_carries_both_ways(hub, tmp_path):
    device = hub.create()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    local = ["-h", "127.0.0.1", "-p", port]
    with Program(hub, device, tmp_path, EXAMPLES / "mqtt/bridge.sh", BRIDGE_PORT=port):
        until(lambda: hub.registry.get_device(device.device_id).connection_state == "Connected", "the bridge to be connected")
        subprocess.run(
            ["mosquitto_pub", *local, "-t", "telemetry", "-q", "1", "-m", json.dumps({"temperature": 20})], check=True, timeout=60
        )
        assert_read(hub, device)
        with subprocess.Popen(
            ["mosquitto_sub", *local, "-t", "commands/#", "-q", "1", "-C", "1", "-W", "60"], stdout=subprocess.PIPE, text=True
        ) as listener:
            # The listener's subscription has no sign outside; the message is sent again until it arrives.
            def arrived():
                hub.running.cli("c2d", "send", "-d", device.device_id, "--data", "to the device")
                return listener.poll() is not None

            until(arrived, "the local subscriber to get the message")
            assert listener.stdout.read().strip() == "to the device"
