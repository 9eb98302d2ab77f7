"""The programs in examples/, as a newcomer runs them. The Node one is in ../node/examples.test.mjs."""

import json
import os
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
