"""A node is lost for good and another takes its place while devices go on: how fast it catches up."""

import json
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from .. import load
from ..machine import Trouble
from ..peers import cluster, hub
from ..processes import free_port, wait_for
from ..report import Part, thousands, verdict

# The new node takes the lost one's name, which its certificate carries.
NAME = "node-3"
LOG_BYTES = 1 << 30
PAYLOAD_BYTES = 1024
FILL = (100, 32)
# Small ones, so that they are not counted for what was there.
SERVED, SERVED_PAYLOAD_BYTES = (20, 4), 32
CAUGHT_UP_SHARE = 0.99
TARGET_MB = 100
CAUGHT_UP_SECONDS = 300
STEP_SECONDS = 0.02


def run(options):
    part = Part("replace", "Three nodes under load: one is killed and removed, a new one takes its place")
    part.header = ["what", "figure", "target"]
    log_bytes = options.log_bytes or LOG_BYTES
    with cluster.Cluster() as running, tempfile.TemporaryDirectory(dir=running.folder.parent) as folder:
        log_bytes = fill(running, log_bytes)
        survivor = Path(running.connection()["nodes"][0]["dataDir"]) / "node.json"
        wait_for(lambda: healthy(survivor), "a healthy cluster", seconds=60, step=0.2)
        third = running.connection()["nodes"][2]
        pid = running.connection()["pids"][2]
        subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(pid)], check=True)
        wait_for(lambda: try_at(survivor, "node", "remove", NAME, "--dead"), "the removal of the lost node", seconds=60, step=0.5)
        token = at(survivor, "node", "token").strip()
        config, metrics = config_like(Path(third["configFile"]), Path(folder), token)
        report = Path(folder) / "served.json"
        shape = ["-n", SERVED[0], "-w", SERVED[1], "--payload", SERVED_PAYLOAD_BYTES, "--duration", CAUGHT_UP_SECONDS, "--quiet"]
        target = ["--hub", str(survivor)]
        serving = load.start("publish", [*target, *shape, "--prefix", "served-"], report)
        log = open(Path(folder) / "new-node.log", "wb")
        begun = time.monotonic()
        node = subprocess.Popen([hub.program(), "start", "--config", str(config)], stdout=log, stderr=log)
        try:
            samples = watch(node, metrics, survivor)
            if serving.poll() is not None:
                raise Trouble(f"the load ended: {serving.stderr.read()[-400:]}")
        finally:
            node.kill()
            node.wait()
            serving.kill()
            serving.communicate()
    first = next((before for before, sample in zip(samples, samples[1:]) if sample[1] > before[1]), None)
    if first is None:
        raise Trouble("the new node received nothing")
    # New messages of the load go on coming: it has caught up when what was there has been received.
    last = next((sample for sample in samples if sample[1] >= CAUGHT_UP_SHARE * log_bytes), samples[-1])
    seconds, megabytes = last[0] - first[0], last[1] / 1e6
    rate = megabytes / seconds
    part.rows += [
        ["payloads received, of entries and in snapshots, MB", f"{megabytes:,.0f}", "–"],
        ["MB/s from the first to the last of them", f"{rate:.0f}", verdict(rate, TARGET_MB, at_least=True)],
        ["start of the new node to full health, s", f"{samples[-1][0] - begun:.1f}", "–"],
    ]
    part.figures["replace"] = {"rate_mb": rate, "megabytes": megabytes, "seconds": seconds}
    part.remarks.append(
        f"{SERVED[0]} devices with {SERVED[1]} messages under way went on meanwhile; all nodes share this machine's cores "
        f"and its disk. Payloads of {PAYLOAD_BYTES} bytes, {thousands(log_bytes / PAYLOAD_BYTES)} of them."
    )
    return part


def fill(running, log_bytes):
    before = running.metrics().get("holdfast_partition_appended_messages_total", 0)
    written = 0
    while written < log_bytes:
        load.publish(running, *FILL, 5, "--payload", PAYLOAD_BYTES)
        now = running.metrics().get("holdfast_partition_appended_messages_total", 0)
        # Every replica counts.
        written = (now - before) / 3 * PAYLOAD_BYTES
        print(f"bench: replace, {written / 1e6:,.0f} of {log_bytes / 1e6:,.0f} MB written", flush=True)
    return written


def at(file, *arguments):
    done = subprocess.run([hub.program(), *arguments, "--connection-file", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"holdfast {' '.join(arguments)}: {done.stderr.strip()[-400:]}")
    return done.stdout


def try_at(file, *arguments):
    try:
        at(file, *arguments)
        return True
    except Trouble:
        return False


def status(file):
    try:
        return json.loads(at(file, "cluster", "status", "--json"))
    except Trouble:
        return None


def healthy(file):
    now = status(file)
    return now and now.get("healthy")


def config_like(source, folder, token):
    """The configuration of another node, for one of the same host in `folder`: its file and the URL of its metrics."""
    (folder / "token").write_text(token)
    peer, ops = free_port(), free_port()
    values = {
        "hub": {"data_dir": f'"{folder}/data"', "connection_file": f'"{folder}/node.json"'},
        "listen": {name: '["127.0.0.1:0"]' for name in ("mqtts", "amqps", "https", "mqtt", "amqp")},
        "ops": {"listen": f'"127.0.0.1:{ops}"'},
        "cluster": {
            "node_name": f'"{NAME}"',
            "listen": f'["127.0.0.1:{peer}"]',
            "bootstrap": "false",
            "join_token_file": f'"{folder}/token"',
        },
    }
    lines, section = [], None
    for line in source.read_text().splitlines():
        if found := re.match(r"^\[([a-z_]+)\]", line):
            section = found[1]
            lines.append(line)
            lines += [f"{key} = {value}" for key, value in values.get(section, {}).items()]
        elif (found := re.match(r"^([a-z_]+) =", line)) and found[1] in values.get(section, {}):
            continue
        else:
            lines.append(line)
    path = folder / "holdfast.toml"
    path.write_text("\n".join(lines) + "\n")
    return path, f"http://127.0.0.1:{ops}/metrics"


def watch(node, metrics, survivor):
    """(moment, bytes of payloads received) until the cluster is healthy with the new node."""
    samples = [(time.monotonic(), 0.0)]
    looked = 0.0
    deadline = time.monotonic() + CAUGHT_UP_SECONDS
    while time.monotonic() < deadline:
        if node.poll() is not None:
            raise Trouble("the new node ended")
        samples.append((time.monotonic(), received(metrics)))
        if time.monotonic() - looked > 0.5:
            looked = time.monotonic()
            now = status(survivor)
            if now and now.get("healthy") and any(n["name"] == NAME and n["state"] == "active" for n in now["nodes"]):
                return samples
        time.sleep(STEP_SECONDS)
    raise Trouble(f"the new node did not catch up within {CAUGHT_UP_SECONDS} s: {status(survivor)}")


def received(url):
    try:
        text = urllib.request.urlopen(url, timeout=2).read().decode()
    except OSError:
        return 0.0
    messages = re.findall(r"^holdfast_partition_appended_messages_total(?:\{[^}]*\})? ([-0-9.e+]+)$", text, re.M)
    snapshots = re.findall(r'^holdfast_consensus_snapshot_bytes_total\{[^}]*"received"[^}]*\} ([-0-9.e+]+)$', text, re.M)
    return sum(map(float, messages)) * PAYLOAD_BYTES + sum(map(float, snapshots))
