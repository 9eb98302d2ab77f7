#!/usr/bin/env python3
"""Onboards a fleet to three linked hubs while the leader of the service is killed, and checks where every device is.

A cluster of three nodes has the provisioning service; it takes no devices itself. Three hubs are linked to it with weights. Every device registers
over HTTPS by a group key, polls until its registration is final, and registers again when it failed. Meanwhile the node that leads the
registry's group is killed with SIGKILL and started again, several times. In the end each device is at exactly one hub, the one it was
answered, and each hub has its share of the devices within one percentage point (of a small fleet: within three standard deviations).

    tests/onboarding/onboard.py --binary target/release/holdfast --devices 100000 --kills 2

Prints a report as JSON; exits with 1 when a condition does not hold. Needs Python alone.
"""

import argparse
import asyncio
import base64
import collections
import hashlib
import hmac
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse

FRONT = "front.test"
LINKED = ["north.test", "east.test", "west.test"]
# How long a device tries before it counts as missing, in seconds.
DEADLINE = 900
TOKEN_END = 4_000_000_000


def sign(resource, key, policy):
    resource = urllib.parse.quote(resource, safe="")
    digest = hmac.new(key, f"{resource}\n{TOKEN_END}".encode(), hashlib.sha256).digest()
    signature = urllib.parse.quote(base64.b64encode(digest), safe="")
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={TOKEN_END}&skn={policy}"


class Connection:
    """Requests over one kept connection, one after the other."""

    def __init__(self, address, name, context):
        self.address, self.name, self.context = address, name, context
        self.reader = self.writer = None

    def close(self):
        if self.writer:
            self.writer.close()
        self.reader = self.writer = None

    async def call(self, method, path, token, body=b"", headers=()):
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(
                *self.address, ssl=self.context, server_hostname=self.name
            )
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.name}",
            f"Authorization: {token}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            found[name.strip().lower()] = value.strip()
        answer = await self.reader.readexactly(int(found.get("content-length", 0)))
        return int(head[0].split()[1]), found, json.loads(answer) if answer else None


class Hub:
    """A development hub in a folder of its own."""

    def __init__(self, binary, folder, name, nodes=1):
        self.binary, self.name = binary, name
        self.data = folder / name
        command = [binary, "dev", "--host", name, "--data-dir", self.data]
        if nodes > 1:
            # A node that is started again has the ports that it had.
            first = f"127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}.1"
            command += ["--nodes", str(nodes), "--bind", first, "--port-offset", "30000"]
        else:
            command += ["--ports", "0"]
        self.log = open(folder / f"{name}.log", "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.restarted = []
        self.killed = {}
        self.file = self.data / "connection.json"
        deadline = time.monotonic() + 180
        while not self.file.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} does not start: {self.log.name}")
            time.sleep(0.1)
        self.facts = json.loads(self.file.read_text())
        self.context = ssl.create_default_context(cafile=self.facts["caFile"])

    def cli(self, *args):
        command = [self.binary, *args, "--connection-file", self.file]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{args}: {done.stderr}")
        return done.stdout

    def addresses(self):
        nodes = self.facts.get("nodes") or []
        found = [(node["address"], node["ports"]["https"]) for node in nodes]
        return found or [("127.0.0.1", self.facts["ports"]["https"])]

    def owner(self):
        fields = dict(part.split("=", 1) for part in self.facts["owner"].split(";"))
        return sign(self.name, base64.b64decode(fields["SharedAccessKey"]), fields["SharedAccessKeyName"])

    def leader(self):
        """The index of the node that leads the registry's group."""
        status = json.loads(self.cli("cluster", "status", "--json"))
        registry = next(group for group in status["groups"] if group["name"] == "registry")
        names = {node["id"]: node["name"] for node in status["nodes"]}
        leader = names.get(registry["leader"], registry["leader"])
        return next(at for at, node in enumerate(self.facts["nodes"]) if node["name"] == leader)

    def kill(self, at):
        os.kill(self.killed.get(at) or self.facts["pids"][at], signal.SIGKILL)

    def start_again(self, at):
        config = self.facts["nodes"][at]["configFile"]
        node = subprocess.Popen(
            [self.binary, "start", "--config", config], stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL
        )
        self.restarted.append(node)
        self.killed[at] = node.pid

    def stop(self):
        for process in [*self.restarted, self.process]:
            process.terminate()
        for process in [*self.restarted, self.process]:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


class Fleet:
    def __init__(self, front, scope, key, devices):
        self.front, self.scope, self.key, self.devices = front, scope, key, devices
        self.assigned = {}
        self.counts = collections.Counter()
        self.longest_answer = 0.0
        self.next = 0

    async def worker(self, number):
        addresses = self.front.addresses()
        at = number
        connection = Connection(addresses[at % len(addresses)], FRONT, self.front.context)
        while self.next < self.devices:
            device, self.next = f"SN-{self.next:06}", self.next + 1
            deadline = time.monotonic() + DEADLINE
            operation = None
            while time.monotonic() < deadline:
                try:
                    operation, wait = await self.step(connection, device, operation)
                except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ssl.SSLError):
                    self.counts["lost connections"] += 1
                    connection.close()
                    at += 1
                    connection = Connection(addresses[at % len(addresses)], FRONT, self.front.context)
                    wait = 0.2
                if device in self.assigned:
                    break
                await asyncio.sleep(wait)
        connection.close()

    async def step(self, connection, device, operation):
        """One request; the operation to poll, and the time until the next request."""
        path = f"/{self.scope}/registrations/{device}"
        derived = hmac.new(self.key, device.encode(), hashlib.sha256).digest()
        token = sign(f"{self.scope}/registrations/{device}", derived, "registration")
        begun = time.monotonic()
        if operation is None:
            call = connection.call("PUT", f"{path}/register?api-version=2021-06-01", token, b"{}")
        else:
            call = connection.call("GET", f"{path}/operations/{operation}?api-version=2021-06-01", token)
        status, headers, answer = await asyncio.wait_for(call, 30)
        took = time.monotonic() - begun
        wait = float(headers.get("retry-after", 0.2))
        if status in (429, 500, 503):
            self.counts[f"answers {status}"] += 1
            return operation, wait
        self.longest_answer = max(self.longest_answer, took)
        if status == 404:
            self.counts["operations not found"] += 1
            return None, 0.2
        if status not in (200, 202):
            raise RuntimeError(f"{device}: {status} {answer}")
        self.counts["answers"] += 1
        if answer["status"] == "assigning":
            return answer["operationId"], wait
        if answer["status"] == "assigned":
            self.assigned[device] = answer["registrationState"]["assignedHub"]
            return None, 0
        self.counts[f"failed {answer['registrationState'].get('errorCode')}"] += 1
        return None, wait


async def devices_of(hub):
    """The ids of all devices of a hub."""
    connection = Connection(hub.addresses()[0], hub.name, hub.context)
    token, found, continuation = hub.owner(), set(), None
    while True:
        headers = ["x-ms-max-item-count: 1000"]
        if continuation:
            headers.append(f"x-ms-continuation: {continuation}")
        query = json.dumps({"query": "SELECT deviceId FROM devices"}).encode()
        path = "/devices/query?api-version=2021-04-12"
        status, answered, page = await connection.call("POST", path, token, query, headers)
        if status != 200:
            raise RuntimeError(f"{hub.name}: {status} {page}")
        found.update(device["deviceId"] for device in page)
        continuation = answered.get("x-ms-continuation")
        if not continuation:
            connection.close()
            return found


async def killer(front, fleet, kills):
    """Kills the leader when equal parts of the fleet are assigned; how long each kill took."""
    done = []
    for kill in range(1, kills + 1):
        while len(fleet.assigned) < fleet.devices * kill // (kills + 1):
            await asyncio.sleep(0.2)
        at = await asyncio.to_thread(front.leader)
        front.kill(at)
        done.append({"node": at + 1, "assigned": len(fleet.assigned)})
        await asyncio.sleep(5)
        front.start_again(at)
        await asyncio.sleep(5)
    return done


async def onboard(args, front, linked):
    weights = [int(weight) for weight in args.weights.split(",")]
    front.cli("provisioning", "hub", "update", FRONT, "--allocation-weight", "0")
    for hub, weight in zip(linked, weights):
        address, port = hub.addresses()[0]
        front.cli(
            "provisioning", "hub", "add", hub.name, "--connection-string", hub.facts["owner"],
            "--endpoint", f"{address}:{port}", "--ca", hub.facts["caFile"], "--allocation-weight", str(weight),
        )
    key = os.urandom(64)
    front.cli("provisioning", "group", "create", "fleet", "--primary-key", base64.b64encode(key).decode())
    fleet = Fleet(front, front.facts["provisioning"]["idScope"], key, args.devices)
    begun = time.monotonic()
    killing = asyncio.create_task(killer(front, fleet, args.kills))
    await asyncio.gather(*(fleet.worker(number) for number in range(args.connections)))
    seconds = time.monotonic() - begun
    kills = await killing
    # Devices that an operation has left elsewhere are deleted soon.
    deadline = time.monotonic() + 120
    while True:
        holders = {hub.name: await devices_of(hub) for hub in [front, *linked]}
        counts = collections.Counter(device for found in holders.values() for device in found)
        twice = sum(1 for count in counts.values() if count > 1)
        if twice == 0 or time.monotonic() > deadline:
            break
        await asyncio.sleep(2)
    elsewhere = sum(1 for device, hub in fleet.assigned.items() if device not in holders.get(hub, ()))
    shares = {}
    for hub, weight in zip(linked, weights):
        share = len(holders[hub.name]) / max(args.devices, 1)
        shares[hub.name] = {"share": round(share, 4), "wanted": round(weight / sum(weights), 4)}
    report = {
        "devices": args.devices,
        "assigned": len(fleet.assigned),
        "missing": args.devices - len(fleet.assigned),
        "atTwoHubs": twice,
        "notWhereAnswered": elsewhere,
        "unknown": sum(1 for device in counts if device not in fleet.assigned),
        "atTheServicesOwnHub": len(holders[FRONT]),
        "shares": shares,
        "leaderKills": kills,
        "seconds": round(seconds, 1),
        "devicesPerSecond": round(len(fleet.assigned) / seconds, 1),
        "longestAnswerSeconds": round(fleet.longest_answer, 3),
        "counts": dict(fleet.counts),
    }
    # A small fleet is spread as the hash falls: three standard deviations.
    spread = max(0.01, 3 * 0.5 / args.devices**0.5)
    even = all(abs(share["share"] - share["wanted"]) <= spread for share in shares.values())
    report["holds"] = even and not any(
        report[name] for name in ("missing", "atTwoHubs", "notWhereAnswered", "unknown", "atTheServicesOwnHub")
    )
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=3, help="of the cluster with the service")
    parser.add_argument("--weights", default="1,1,1")
    args = parser.parse_args()
    args.binary = args.binary.resolve()
    hubs = []
    with tempfile.TemporaryDirectory(prefix="holdfast-onboarding-") as folder:
        folder = pathlib.Path(folder)
        try:
            hubs.append(Hub(args.binary, folder, FRONT, args.nodes))
            hubs.extend(Hub(args.binary, folder, name) for name in LINKED)
            report = asyncio.run(onboard(args, hubs[0], hubs[1:]))
        except BaseException:
            for log in folder.glob("*.log"):
                print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]), file=sys.stderr)
            raise
        finally:
            for hub in hubs:
                hub.stop()
    print(json.dumps(report, indent=2))
    sys.exit(0 if report["holds"] else 1)


if __name__ == "__main__":
    main()
