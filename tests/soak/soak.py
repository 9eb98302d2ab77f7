"""Event Hubs processors of several SDKs beside a cluster whose partitions change their owner every minute.

    tests/soak/run.sh [--minutes 120] [--every 60] [--only python,node,java,go]

Devices send numbered messages. Every `--every` seconds one of three nodes is stopped with SIGTERM and started again, so that its
partitions get another owner and its links end. For each SDK two processors share the partitions of one consumer group; their checkpoints
lie in a container of the hub's Blob endpoint, which is away while its node restarts. At the end
every processor group must have read every acknowledged message, each partition without a gap between sequence numbers, and no
partition of a group may have been silent for longer than `--silence` seconds while events arrived in it.

An event that is read twice is allowed: a processor goes on behind its last checkpoint.
"""

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent / "sdk"))
sys.path.insert(0, str(here.parent / "sdk" / "python"))

from azure.iot.device import IoTHubDeviceClient, Message  # noqa: E402
from azure.iot.hub import IoTHubRegistryManager  # noqa: E402
from harness import Hub, sdk_environment  # noqa: E402


class Sender(threading.Thread):
    """One device: sends the next number until it is acknowledged, whatever happens meanwhile."""

    def __init__(self, hub, registry, name, pause):
        super().__init__(daemon=True)
        self.name_of_device = name
        self.pause = pause
        self.acknowledged = 0
        self.ended = threading.Event()
        device = registry.create_device_with_sas(name, "", "", "enabled")
        key = device.authentication.symmetric_key.primary_key
        with open(hub.connection["caFile"], encoding="ascii") as ca:
            self.client = IoTHubDeviceClient.create_from_connection_string(
                f"HostName={hub.connection['hostName']};DeviceId={name};SharedAccessKey={key}",
                server_verification_cert=ca.read(),
                connection_retry=True,
                connection_retry_interval=2,
            )

    def run(self):
        while not self.ended.is_set():
            try:
                self.client.send_message(Message(str(self.acknowledged + 1)))
                self.acknowledged += 1
            except Exception:  # noqa: BLE001: the SDK has many ways to say that the connection has ended; the number is sent again
                self.ended.wait(1)
            self.ended.wait(self.pause)


class Processors:
    """The two processors of one SDK, as a program that prints a line for each event."""

    def __init__(self, name, command, environment, log):
        self.name = name
        self.sequence = {}
        self.gaps = []
        self.seen = collections.defaultdict(set)
        self.last = {}
        self.silences = collections.Counter()
        self.owners = collections.defaultdict(set)
        self.repeated = 0
        self.log = open(log, "ab")
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            owner, partition, number, device, body = line.split()
            number = int(number)
            last = self.sequence.get(partition, -1)
            if number <= last:
                self.repeated += 1
            elif number != last + 1:
                self.gaps.append((partition, last, number))
            now = time.monotonic()
            if partition in self.last:
                self.silences[partition] = max(self.silences[partition], now - self.last[partition])
            self.last[partition] = now
            self.owners[partition].add(owner)
            self.sequence[partition] = max(last, number)
            self.seen[device].add(int(body))

    def missing(self, senders):
        return {s.name_of_device: n for s in senders if (n := s.acknowledged - len(self.seen[s.name_of_device] & set(range(1, s.acknowledged + 1))))}

    def stop(self):
        self.process.kill()
        self.process.wait()


class Nodes:
    """The processes of the cluster's nodes, which are stopped and started again in turn."""

    def __init__(self, hub):
        self.processes = []
        for pid in hub.connection["pids"]:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            # A node that `dev` has started ends with `dev`; ours end with this program.
            command = [part for part in command if part != b"--until-stdin-closes"]
            environment = dict(part.split(b"=", 1) for part in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in part)
            self.processes.append({"pid": pid, "command": command, "environment": environment, "child": None})
        self.log = open(hub.log_file, "ab")

    def restart(self, number):
        node = self.processes[number]
        os.kill(node["pid"], signal.SIGTERM)
        if node["child"]:
            node["child"].wait()
        else:
            while running(node["pid"]):
                time.sleep(0.05)
        child = subprocess.Popen(node["command"], env=node["environment"], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        node["pid"], node["child"] = child.pid, child

    def stop(self):
        for node in self.processes:
            if node["child"]:
                node["child"].terminate()
        for node in self.processes:
            if node["child"]:
                node["child"].wait()


def running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--minutes", type=float, default=120)
    parse.add_argument("--every", type=float, default=60, help="seconds between two stops of a node")
    parse.add_argument("--silence", type=float, default=60, help="the longest silence of a partition in a group, seconds")
    parse.add_argument("--devices", type=int, default=12)
    parse.add_argument("--pause", type=float, default=0.5, help="seconds between two messages of a device")
    parse.add_argument("--only", default="python,node,java,go")
    parse.add_argument("--folder", default=".", help="where logs and the report go")
    options = parse.parse_args()
    folder = Path(options.folder)
    programs = json.loads(os.environ["HOLDFAST_SOAK_PROGRAMS"])
    report = {"minutes": options.minutes, "restarts": 0}
    with Hub() as hub:
        environment = {
            **os.environ,
            **sdk_environment(hub.connection_file, hub.connection),
            "HOLDFAST_SOAK_BLOBS": hub.connection["blobs"]["connectionString"],
        }
        os.environ["REQUESTS_CA_BUNDLE"] = hub.connection["caFile"]
        registry = IoTHubRegistryManager.from_connection_string(hub.connection["owner"])
        senders = [Sender(hub, registry, f"soak-{number}", options.pause) for number in range(1, options.devices + 1)]
        groups = {}
        for name in options.only.split(","):
            hub.add_consumer_group(name)
            command = [*programs[name], *([] if name == "java" else [hub.connection["eventHub"]]), name]
            groups[name] = Processors(name, command, environment, folder / f"{name}.log")
        for sender in senders:
            sender.start()
        nodes = Nodes(hub)
        end = time.monotonic() + options.minutes * 60
        turn = 0
        while time.monotonic() < end:
            time.sleep(min(options.every, max(0, end - time.monotonic())))
            dead = [g.name for g in groups.values() if g.process.poll() is not None]
            if dead:
                report["ended"] = dead
                break
            if end - time.monotonic() > options.every:
                nodes.restart(turn % len(nodes.processes))
                turn += 1
                report["restarts"] = turn
            line = "  ".join(f"{g.name} {sum(map(len, g.seen.values()))}" for g in groups.values())
            print(f"{turn} restarts, {sum(s.acknowledged for s in senders)} acknowledged; read: {line}", flush=True)
        for sender in senders:
            sender.ended.set()
        for sender in senders:
            sender.join(120)
        report["senders that did not end"] = [s.name_of_device for s in senders if s.is_alive()]
        settle = time.monotonic() + 180
        while time.monotonic() < settle and any(g.missing(senders) for g in groups.values()):
            time.sleep(1)
        report["acknowledged"] = sum(s.acknowledged for s in senders)
        ok = "ended" not in report and not report["senders that did not end"]
        for group in groups.values():
            missing, longest = group.missing(senders), max(group.silences.values(), default=0)
            good = not missing and not group.gaps and longest <= options.silence
            ok = ok and good
            report[group.name] = {
                "read": sum(map(len, group.seen.values())), "missing": missing, "gaps": group.gaps[:20], "repeated": group.repeated,
                "longest silence of a partition, s": round(longest, 1), "passed": good,
            }
            group.stop()
        for sender in senders:
            sender.client.shutdown()
        nodes.stop()
        report["passed"] = ok
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
