"""Starts a real hub for the SDK tests, and stops it again. No third-party packages.

Every hub gets a loopback address of its own, because no SDK lets anyone change ports: 8883, 5671 and 443 have to be the
hub's. So suites may run side by side, and beside a hub on 127.0.0.1.

As a library: `with Hub() as hub: hub.connection["owner"]`. As a program: `harness.py COMMAND…` starts a hub, runs the
command with HOLDFAST_CONNECTION_FILE and the CA variables of all SDKs set, stops the hub, and returns the command's exit
code. With HOLDFAST_CONNECTION_FILE already set, a running hub is used and left running. `harness.py --issuer COMMAND…`: the
hub takes tokens of an issuer alone, whose address is in HOLDFAST_ISSUER.

HOLDFAST_NODES=3 makes every hub a cluster of three: the hub's address is then a TCP load balancer's, which gives each
new connection to the next node, as a deployment would.
"""

import asyncio
import base64
import errno
import hashlib
import hmac
import ipaddress
import itertools
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

READY_SECONDS = float(os.environ.get("HOLDFAST_READY_SECONDS", "60"))
STOP_SECONDS = 60
LOG_LINES = 40
PORTS = (8883, 5671, 443)
PLAIN_PORTS = (1883, 5672)
NODES = int(os.environ.get("HOLDFAST_NODES", "1"))
ROOT = Path(__file__).resolve().parents[2]


def binary() -> Path:
    """HOLDFAST_BIN, else cargo's debug build, which `cargo build` has just made, else its release build."""
    if "HOLDFAST_BIN" in os.environ:
        return Path(os.environ["HOLDFAST_BIN"])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "holdfast"
    cache = Path(os.environ.get("HOLDFAST_CACHE", cache))
    targets = [Path(os.environ.get("CARGO_TARGET_DIR", cache / "target")), ROOT / "target"]
    found = [t / kind / "holdfast" for kind in ("debug", "release") for t in targets if (t / kind / "holdfast").exists()]
    if not found:
        sys.exit("no holdfast binary: build it (cargo build -p holdfast), or set HOLDFAST_BIN")
    return found[0]


def after(address: str, number: int) -> str:
    """The loopback address `number` after this one."""
    return str(ipaddress.ip_address(address) + number)


def free_address(count: int = 1) -> str:
    """A loopback address on which all three standard ports can be bound, there and on the `count` - 1 after it."""
    for _ in range(200):
        address = f"127.{random.randint(16, 250)}.{random.randint(1, 250)}.{random.randint(2, 240)}"
        try:
            for number in range(count):
                for port in PORTS:
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind((after(address, number), port))
            return address
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                sys.exit(
                    "the SDKs only know port 443, which this user may not bind; run as root, or once:\n"
                    "  sudo sysctl -w net.ipv4.ip_unprivileged_port_start=443"
                )
            if error.errno != errno.EADDRINUSE:
                raise
    sys.exit("found no free loopback address")


class Balancer:
    """Gives each new connection to the next of `targets` that takes it, and carries its bytes until either side ends."""

    def __init__(self, address, targets, ports):
        self.targets = targets
        self.turns = itertools.count()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.servers = [
            asyncio.run_coroutine_threadsafe(
                asyncio.start_server(lambda r, w, port=port: self.carry(port, r, w), address, port), self.loop
            ).result(10)
            for port in ports
        ]

    async def carry(self, port, reader, writer):
        for _ in self.targets:
            target = self.targets[next(self.turns) % len(self.targets)]
            try:
                up_reader, up_writer = await asyncio.open_connection(target, port)
                break
            except OSError:
                continue
        else:
            writer.transport.abort()
            return
        await asyncio.gather(self.pump(reader, up_writer), self.pump(up_reader, writer))

    @staticmethod
    async def pump(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()
        except (OSError, asyncio.CancelledError):
            # A reset on one side is a reset on the other.
            writer.transport.abort()

    def close(self):
        async def end():
            for server in self.servers:
                server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


class HubFailed(Exception):
    """The hub did not do what it should; the text ends with its last log lines."""


class Hub:
    """One hub process with its data directory; `start` and `stop` may alternate."""

    def __init__(self, args=(), keep_data=False):
        self.address = free_address(1 if NODES == 1 else NODES + 1)
        self.balancer = None
        self.data_dir = Path(tempfile.mkdtemp(prefix="holdfast-sdk-"))
        self.log_file = self.data_dir.with_suffix(".log")
        self.args = list(args)
        self.keep_data = keep_data
        self.process = None
        self.connection = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            if self.balancer is not None:
                self.balancer.close()
            self.discard()

    @property
    def connection_file(self) -> Path:
        return self.data_dir / "connection.json"

    def start(self):
        """Returns when connection.json is there: then the listeners are open."""
        # The hub reads HOLDFAST_… as configuration; ours are not meant for it.
        env = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        self.connection_file.unlink(missing_ok=True)
        with open(self.log_file, "ab") as log:
            command = [str(binary()), "dev", "--data-dir", str(self.data_dir), "--host", self.address, *self.args]
            if NODES > 1:
                command += ["--nodes", str(NODES), "--nodes-from", after(self.address, 1)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if self.process.poll() is not None:
                raise HubFailed(f"the hub ended with {self.process.returncode} while starting\n{self.last_log_lines()}")
            if self.connection_file.exists():
                self.connection = json.loads(self.connection_file.read_text())
                if NODES > 1 and self.balancer is None:
                    nodes = [node["address"] for node in self.connection["nodes"]]
                    self.balancer = Balancer(self.address, nodes, PORTS + PLAIN_PORTS)
                return
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise HubFailed(f"no connection.json within {READY_SECONDS:.0f} s\n{self.last_log_lines()}")
            time.sleep(0.05)

    def stop(self):
        """SIGTERM; the hub drains, flushes, and must end with 0."""
        if self.process is None:
            return
        process, self.process = self.process, None
        if process.poll() is not None:
            raise HubFailed(f"the hub had ended by itself with {process.returncode}\n{self.last_log_lines()}")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise HubFailed(f"the hub did not stop within {STOP_SECONDS} s of SIGTERM\n{self.last_log_lines()}") from None
        if process.returncode != 0:
            raise HubFailed(f"the hub ended with {process.returncode} after SIGTERM\n{self.last_log_lines()}")

    def kill(self):
        """SIGKILL: as if the power of the process failed."""
        process, self.process = self.process, None
        pids = self.connection["pids"] if NODES > 1 else []
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.02)

    def discard(self):
        if not self.keep_data:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            self.log_file.unlink(missing_ok=True)

    def last_log_lines(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return "\n".join([f"--- last lines of {self.log_file}", *lines[-LOG_LINES:], "---"])

    def cli(self, *args) -> str:
        """Runs `holdfast …` against this hub and returns what it prints."""
        return cli(self.connection_file, *args)

    def add_consumer_group(self, name):
        add_consumer_group(self.connection, name)


class RunningHub:
    """A hub that runs already."""

    def __init__(self, connection_file):
        self.connection_file = Path(connection_file)
        self.connection = json.loads(self.connection_file.read_text())

    def last_log_lines(self) -> str:
        return "(this hub was not started here, so its log is elsewhere)"

    def cli(self, *args) -> str:
        return cli(self.connection_file, *args)

    def add_consumer_group(self, name):
        add_consumer_group(self.connection, name)


def cli(connection_file, *args) -> str:
    env = {**os.environ, "HOLDFAST_CONNECTION_FILE": str(connection_file)}
    done = subprocess.run([str(binary()), *args], env=env, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise HubFailed(f"holdfast {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def fields(connection_string: str) -> dict:
    """`Name=value;Name=value` as a dictionary."""
    return dict(part.split("=", 1) for part in connection_string.split(";") if part)


def sas_token(resource: str, key: str, policy: str | None = None, expiry: float | None = None) -> str:
    """A token as the documentation's sample makes it; `expiry` in seconds since 1970, default in an hour."""
    expiry = int(time.time() + 3600 if expiry is None else expiry)
    sr = urllib.parse.quote(resource, safe="")
    mac = hmac.new(base64.b64decode(key), f"{sr}\n{expiry}".encode(), hashlib.sha256).digest()
    sig = urllib.parse.quote(base64.b64encode(mac), safe="")
    return f"SharedAccessSignature sr={sr}&sig={sig}&se={expiry}" + (f"&skn={policy}" if policy else "")


def add_consumer_group(connection, name):
    """No SDK can: with Azure it is a management call. Ours is a REST call of its own."""
    owner = fields(connection["owner"])
    url = f"https://{owner['HostName']}/holdfast/v1/consumerGroups/{name}?api-version=2021-04-12"
    token = sas_token(owner["HostName"], owner["SharedAccessKey"], owner["SharedAccessKeyName"])
    request = urllib.request.Request(url, method="PUT", headers={"Authorization": token})
    context = ssl.create_default_context(cafile=connection["caFile"])
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:
        answer.read()


def sdk_environment(connection_file, connection) -> dict:
    """Variables that make every SDK trust the hub's CA (Spec device-mqtt §12, amqp §10)."""
    ca = connection["caFile"]
    return {
        "HOLDFAST_CONNECTION_FILE": str(connection_file),
        "HOLDFAST_BIN": str(binary()),
        "NODE_EXTRA_CA_CERTS": ca,
        "REQUESTS_CA_BUNDLE": ca,
        "SSL_CERT_FILE": ca,
    }


def with_issuer(command) -> int:
    """Runs the command beside a hub without policies and the issuer whose tokens it takes."""
    sys.path.insert(0, str(Path(__file__).resolve().parent / "python"))
    from issuer import Issuer

    issuer = Issuer()
    with Hub(issuer.hub_arguments(NODES)) as hub:
        environment = sdk_environment(hub.connection_file, hub.connection)
        both = issuer.workshop.folder / "both.pem"
        authorities = [Path(hub.connection["caFile"]), issuer.ca.certificate_file]
        both.write_text("".join(file.read_text() for file in authorities), encoding="ascii")
        environment["NODE_EXTRA_CA_CERTS"] = str(both)
        code = subprocess.call(command, env={**os.environ, **environment, "HOLDFAST_ISSUER": issuer.url})
        if code != 0:
            print(hub.last_log_lines(), file=sys.stderr)
    issuer.close()
    return code


def main(command) -> int:
    if command[0] == "--issuer":
        return with_issuer(command[1:])
    if "HOLDFAST_CONNECTION_FILE" in os.environ:
        hub = RunningHub(os.environ["HOLDFAST_CONNECTION_FILE"])
        return subprocess.call(command, env={**os.environ, **sdk_environment(hub.connection_file, hub.connection)})
    with Hub() as hub:
        code = subprocess.call(command, env={**os.environ, **sdk_environment(hub.connection_file, hub.connection)})
        if code != 0:
            print(hub.last_log_lines(), file=sys.stderr)
        return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HubFailed as failure:
        sys.exit(f"harness: {failure}")
