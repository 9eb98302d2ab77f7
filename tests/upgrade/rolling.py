#!/usr/bin/env python3
"""Rolling upgrade and rollback of three nodes under load: rolling.py OLD NEW SWARM [SECONDS_BETWEEN [HELD]]

OLD and NEW are binaries of the hub, SWARM the load generator. A hub of OLD with three nodes is created; devices publish and every
acknowledgement is written down; one node after the other is stopped in order and started with NEW, then all of them back with OLD, then
with NEW again. The next node follows when the one before is ready and all members are healthy. In the end every acknowledged message is
read back. While the versions are mixed, a device is created at each node, and found at the others.

HELD more devices hold a connection over TLS, none by default, and connect again to any node that listens; none may be refused twice.

How long a partition has no leader is measured twice. From outside: the longest time between two acknowledgements of each partition around each
restart, for which devices publish to every partition at every node at short intervals; that of a time without a restart says how exact it is. By
the hub: its histogram of times without a leader, read from each process until it has stopped, and at the end. Medians above 500 ms fail.

Nodes of NEW keep the feature level until the end, so that the rollback is possible. Then it is raised, and where that has changed anything, OLD must refuse
the data of a node, change nothing, and NEW must start on it again.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import leaderless

READY_SECONDS = 120
PARTITIONS = 8
# At least so many devices publish to each partition at each node, each at so many milliseconds on average.
DEVICES, EACH, PACE, WINDOW = 64, 2, 25, 1
# Longer than three rounds of restarts take.
LOAD_SECONDS = 330
QUIET_SECONDS = 20
LONGEST_MEDIAN = 0.5
# Their sessions are closed at the drain rate.
HELD_SECONDS = 60


def die(text):
    sys.exit(f"upgrade: {text}")


def say(text):
    print(f"upgrade: {text}", flush=True)


def wait(what, condition, seconds=READY_SECONDS):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    die(f"{what}: not within {seconds} s")


class Node:
    def __init__(self, facts, old):
        self.name, self.config = facts["name"], facts["configFile"]
        self.ops = facts["metrics"].rsplit("/", 1)[0]
        self.file = Path(facts["dataDir"]) / "node.json"
        self.log = open(Path(facts["dataDir"]) / "upgrade.log", "ab")
        self.program, self.process = old, None

    def start(self, program):
        self.program = program
        keep = {"HOLDFAST_CLUSTER_RAISE_FEATURE_LEVEL": "false"} if self.knows_levels(program) else {}
        self.process = subprocess.Popen(
            [program, "start", "--config", self.config], stdout=self.log, stderr=self.log, env=os.environ | keep)

    def leaderless(self):
        return leaderless.read_histogram(self.ops)

    def sessions(self):
        with urllib.request.urlopen(f"{self.ops}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("holdfast_device_hub_sessions"))

    def knows_levels(self, program):
        return "raise_feature_level" in subprocess.run([program, "config", "default"], capture_output=True, text=True).stdout

    def stop(self):
        """Stops it in order; gives its times without a leader as they were last, its own hand-overs among them where it lives long enough."""
        last = self.leaderless()
        self.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < end:
            try:
                last = self.leaderless()
            except OSError:
                pass
            time.sleep(0.2)
        code = self.process.wait(1)
        if code:
            die(f"{self.name} ended with {code}: {Path(self.log.name).read_text(errors='replace')[-2000:]}")
        return last

    def is_ready(self):
        if self.process.poll() is not None:
            die(f"{self.name} ({self.program}) has ended with {self.process.returncode}: {Path(self.log.name).read_text(errors='replace')[-2000:]}")
        try:
            return urllib.request.urlopen(f"{self.ops}/readyz", timeout=2).status == 200
        except OSError:
            return False

    def run(self, *command):
        done = subprocess.run([self.program, *command, "--connection-file", str(self.file)], capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else None

    def is_healthy(self):
        status = self.run("cluster", "status", "--json")
        return status and json.loads(status)["healthy"]


def create(old, folder):
    """A hub of OLD with three nodes, whose ports stay the same; gives its nodes."""
    command = [old, "dev", "--data-dir", str(folder), "--nodes", "3", "--host", "127.81.0.1", "--set", f"hub.partitions={PARTITIONS}"]
    log = open(folder.parent / "dev.log", "wb")
    running = subprocess.Popen(command, stdout=log, stderr=log)
    file = folder / "connection.json"
    wait("the first start", lambda: file.exists() or running.poll() is not None)
    if running.poll() is not None:
        die((folder.parent / "dev.log").read_text()[-2000:])
    connection = json.loads(file.read_text())
    nodes = [Node(facts, old) for facts in connection["nodes"]]
    wait("a healthy hub", nodes[0].is_healthy)
    running.send_signal(signal.SIGTERM)
    running.wait(120)
    # The load finds the nodes by it, and it does not change.
    file.write_text(json.dumps(connection))
    return file, nodes


class Restarts:
    """What each restart did to the times without a leader."""

    def __init__(self):
        self.begun, self.histograms = [], []

    def begin(self, label, node):
        """`node` is about to be stopped."""
        status = json.loads(node.run("cluster", "status", "--json"))
        leader = next(one["id"] for one in status["nodes"] if one["name"] == node.name)
        led = {group["partition"] for group in status["groups"] if group.get("partition") is not None and group.get("leader") == leader}
        self.begun.append((time.time(), f"{label}: {node.name}", led))

    def report(self, acknowledgements, quiet, end):
        """`quiet`: the begin of the time before the first restart. Whether the medians are short enough."""
        calm = acknowledgements.longest(quiet, self.begun[0][0])
        say(f"longest time between two acknowledgements of a partition, {self.begun[0][0] - quiet:.0f} s without a restart: median {ms(leaderless.median(calm))}, most {ms(max(calm))}")
        left, others = [], []
        for (begun, name, led), (until, *_) in zip(self.begun, self.begun[1:] + [(end,)]):
            found = acknowledgements.longest(begun, until)
            left += [gap for partition, gap in enumerate(found) if partition in led]
            others += [gap for partition, gap in enumerate(found) if partition not in led]
            say(f"{name}: " + " ".join(f"{gap * 1000:.0f}{'*' * (partition in led)}" for partition, gap in enumerate(found)) + " ms by partition, * led by it")
        for what, gaps in (("all", left + others), ("led by the node that was stopped", left)):
            say(f"longest time between two acknowledgements around a restart, {what} ({len(gaps)}): median {ms(leaderless.median(gaps))}, most {ms(max(gaps, default=0))}")
        say(f"the hub's times without a leader, by replica: {leaderless.described(self.histograms)}")
        return max(leaderless.median(left), leaderless.median_of(self.histograms)) <= LONGEST_MEDIAN


def ms(seconds):
    return f"{seconds * 1000:.0f} ms"


def roll(nodes, program, label, between, restarts):
    for number, node in enumerate(nodes):
        restarts.begin(label, node)
        begun = time.monotonic()
        restarts.histograms.append(node.stop())
        stopped = time.monotonic()
        node.start(program)
        wait(f"{node.name} to be ready", node.is_ready)
        ready = time.monotonic()
        wait("a healthy hub", node.is_healthy)
        say(f"{label}: {node.name} stopped in {stopped - begun:.1f} s, ready after {ready - stopped:.1f} s")
        device = f"{label}-{number}"
        if node.run("device", "create", device) is None:
            die(f"no device can be created at {node.name}")
        for other in nodes:
            if not wait(f"{device} at {other.name}", lambda: other.run("device", "show", device), 20):
                die(f"{device} is not found at {other.name}")
        time.sleep(between)


def raise_level(nodes, old, new):
    """Raises the feature level; then OLD must refuse the data of a node, if it does not support the level."""
    status = lambda: json.loads(nodes[0].run("cluster", "status", "--json"))
    before = status().get("featureLevel")
    if before is None:
        return say("NEW has no feature levels")
    files = lambda node: Path(node.file).parent
    had_mark = "feature_level" in (files(nodes[2]) / "holdfast.node").read_text()
    said = nodes[0].run("cluster", "feature-level", "--raise")
    if said is None:
        die("the feature level cannot be raised")
    say(said.strip())
    wait("the level at all nodes", lambda: all("feature_level" in (files(node) / "holdfast.node").read_text() for node in nodes))
    if had_mark and status()["featureLevel"] == before:
        return say("OLD supports the level")
    node = nodes[2]
    node.stop()
    marker = (files(node) / "holdfast.node").read_bytes()
    node.start(old)
    code = node.process.wait(60)
    reason = " ".join(Path(node.log.name).read_text(errors="replace").strip().splitlines()[-2:])
    if code == 0 or (files(node) / "holdfast.node").read_bytes() != marker:
        die(f"OLD has not refused the data: exit code {code}")
    say(f"OLD refuses the data with exit code {code}: {reason}")
    node.start(new)
    wait(f"{node.name} to be ready", node.is_ready)
    wait("a healthy hub", node.is_healthy)
    say("NEW starts on it again")


class Held:
    """Devices that hold a connection over TLS while nodes are restarted."""

    def __init__(self, swarm, file, folder, nodes, count):
        self.report, self.nodes, self.count = folder / "held.json", nodes, count
        self.log = open(folder / "held.log", "wb")
        command = [swarm, "idle", "--hub", file, "--transport", "tls13", "-n", count, "--prefix", "held-", "--threads", 2]
        command += ["--reconnect-to", "any", "--survive-disconnect", "--until-input-ends", "--quiet", "--json", self.report]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=self.log, stderr=self.log)
        wait(f"{count} held devices", self.are_there, 600)
        say(f"{count} devices hold a connection")

    def are_there(self):
        if self.process.poll() is not None:
            die(Path(self.log.name).read_text()[-2000:])
        return sum(node.sessions() for node in self.nodes) >= self.count

    def end(self):
        wait("the held devices to be back", self.are_there)
        self.process.stdin.close()
        self.process.wait(60)
        report = json.loads(self.report.read_text())
        away = {name: f"{report['away_us'][name] / 1e6:.2f} s" for name in ("p50", "p99", "max")}
        say(f"held: {report['disconnects']} connections ended, {report['refusals']} attempts to connect again failed, away for {away}")
        if report["refusals_again"]:
            die(f"devices were refused twice: {report['failures']}")


def main():
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    old, new, swarm = (str(Path(path).resolve()) for path in sys.argv[1:4])
    between = float(sys.argv[4]) if len(sys.argv) > 4 else 5
    count = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    for name in [name for name in os.environ if name.startswith("HOLDFAST_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="holdfast-upgrade-") as folder:
        folder = Path(folder)
        (folder / "data").mkdir()
        file, nodes = create(old, folder / "data")
        for node in nodes:
            node.start(old)
        for node in nodes:
            wait(f"{node.name} to be ready", node.is_ready)
        wait("a healthy hub", nodes[0].is_healthy)
        held = Held(swarm, file, folder, nodes, count) if count else None
        seconds = LOAD_SECONDS + HELD_SECONDS * (count > 0)
        ledger, times = folder / "ledger", folder / "times"
        prefix = leaderless.even_prefix(DEVICES, PARTITIONS, len(nodes), EACH)
        errors = open(folder / "swarm.log", "wb")
        load = subprocess.Popen(
            [swarm, "publish", "--hub", str(file), "--prefix", prefix, "-n", str(DEVICES), "-w", str(WINDOW), "--pace", str(PACE), "--duration", str(seconds),
             "--drain", "30", "--survive-disconnect", "--ledger", str(ledger), "--acknowledgements", str(times)],
            stdout=errors, stderr=errors)
        restarts = Restarts()
        try:
            wait("the first acknowledgements", lambda: load.poll() is not None or times.exists() and times.stat().st_size)
            time.sleep(between)
            quiet = time.time()
            time.sleep(QUIET_SECONDS)
            if load.poll() is not None:
                die((folder / "swarm.log").read_text()[-2000:])
            roll(nodes, new, "upgrade", between, restarts)
            roll(nodes, old, "rollback", between, restarts)
            roll(nodes, new, "again", between, restarts)
            rolled = time.time()
            restarts.histograms += [node.leaderless() for node in nodes]
            if load.poll() is not None:
                die(f"the load ended before the nodes were done: {(folder / 'swarm.log').read_text()[-2000:]}")
            if held:
                held.end()
            say("all nodes are done; the load continues until its end")
            load.wait(seconds + 120)
            said = (folder / "swarm.log").read_text()
            say("load: " + " | ".join(said.strip().splitlines()[-12:]))
            done = subprocess.run([swarm, "verify", "--hub", str(file), "--ledger", str(ledger)], capture_output=True, text=True)
            print(done.stdout + done.stderr, flush=True)
            if done.returncode:
                die("acknowledged messages are missing, or doubled, or out of order")
            is_short = restarts.report(leaderless.Acknowledgements(times, prefix, PARTITIONS), quiet, rolled)
            raise_level(nodes, old, new)
        finally:
            load.kill()
            if held:
                held.process.kill()
            for node in nodes:
                if node.process:
                    node.process.kill()
                    node.process.wait()
    say("nothing acknowledged is missing")
    if not is_short:
        die("partitions were without a leader for too long")


main()
