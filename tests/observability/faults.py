"""The hubs of the recording, what happens to them at which minute, and which alerts must fire for it."""
import contextlib
import os
import signal
import socket
import struct
import threading
import time

import hubs

LIBFAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"

# Job: the alerts that fire, and those that may.
EXPECTED = {
    "healthy": ((), ()),
    "nodes": (("HoldfastNodeDown", "HoldfastMemberDown", "HoldfastSessionsDrop"), ()),
    "network": (("HoldfastPeersUnstable", "HoldfastPeersRefused", "HoldfastFilesNearLimit", "HoldfastPeerCertificateEnds", "HoldfastCertificateEnds",
                 "HoldfastCertificateNotLoaded", "HoldfastClockOff", "HoldfastNotReady", "HoldfastPartitionWithoutOwner"), ()),
    "slow": (("HoldfastDiskSlow", "HoldfastCommitsSlow"), ()),
    "full": (("HoldfastDiskFills", "HoldfastWritesRefused"), ()),
    "clients": (("HoldfastThrottled", "HoldfastQuotaNearlyUsed", "HoldfastIssuerUnreachable", "HoldfastDeviceCaEnds", "HoldfastOcspEnds", "HoldfastAuditLost",
                 "HoldfastBackupOverdue"), ()),
    "restarts": (("HoldfastRestarts",), ()),
}
# What no fault of this list makes: bugs (a panic, a batch that no owner takes), and what takes longer than the recording. Their tests are in
# tests/kubernetes/alerts_test.yaml alone.
NOT_RECORDED = {"HoldfastPanics", "HoldfastEntriesRejected", "HoldfastCrlsOld", "HoldfastRefusalsGrow", "HoldfastReaderMissedMessages",
                "HoldfastSavedQueryFails", "HoldfastMovesStuck"}


def knock(address, password="SharedAccessSignature sr=x&sig=eA%3D%3D&se=1"):
    """A device with a token that has ended, over MQTT without TLS."""
    def text(value):
        return struct.pack(">H", len(value)) + value.encode()
    user = f"{address}/stranger/?api-version=2021-04-12"
    body = text("MQTT") + bytes([4, 0xC2]) + struct.pack(">H", 60) + text("stranger") + text(user) + text(password)
    length, head = len(body), b""
    while True:
        length, part = length // 128, length % 128
        head += bytes([part | (0x80 if length else 0)])
        if not length:
            break
    with contextlib.suppress(OSError), socket.create_connection((address, 1883), timeout=5) as stream:
        stream.settimeout(5)
        stream.sendall(b"\x10" + head + body)
        stream.recv(16)


class Recording:
    """All hubs, on file systems of their own: a trend of free space is theirs alone."""

    def __init__(self, programs):
        self.programs, self.mounts, self.minutes, self.is_over = programs, [], [], threading.Event()
        place = self.file_system
        self.healthy = hubs.Hub(programs, "healthy", 41, 3, place("healthy", "100g"))
        self.nodes = hubs.Hub(programs, "nodes", 42, 3, place("nodes", "100g"))
        self.network = hubs.Hub(programs, "network", 43, 3, place("network", "100g"))
        self.slow = hubs.Hub(programs, "slow", 44, 1, place("slow", "100g"))
        self.full = hubs.Hub(programs, "full", 45, 1, place("full", "900m"), ["storage.min_free=128MiB"])
        self.tiny = place("tiny", "256k")
        self.clients = hubs.Hub(programs, "clients", 46, 1, place("clients", "100g"), [
            "throttles.registry_operations=6/min", "throttles.max_wait=1s", "throttles.daily_messages=500", "backup.target=/proc/no-such-folder",
            "backup.schedule=1m"])
        self.restarts = hubs.Hub(programs, "restarts", 47, 1, place("restarts", "100g"))
        self.slow_file = programs.folder / "slow_sync_ms"
        self.all = [self.healthy, self.nodes, self.network, self.slow, self.full, self.clients, self.restarts]

    def file_system(self, name, size):
        at = self.programs.folder / name
        at.mkdir()
        hubs.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", at)
        self.mounts.append(at)
        return at

    def begin(self):
        for hub in self.all:
            hub.make()
        ocsp = hubs.ocsp_response(self.clients.folder, self.clients.folder / "server.pem", minutes=600)
        self.healthy.start_all()
        self.nodes.start_all()
        # The fake clock is of one node; timers, which count from the start of the machine, stay true.
        self.network.start(2, LD_PRELOAD=LIBFAKETIME, FAKETIME="+5s", DONT_FAKE_MONOTONIC="1")
        self.network.start(1)
        self.network.start(3)
        self.slow.start_all(LD_PRELOAD=str(self.programs.slow_sync), SLOW_SYNC_FILE=str(self.slow_file))
        self.full.start_all()
        self.clients.start_all(HOLDFAST_TLS_OCSP_FILE=str(ocsp), HOLDFAST_AUDIT_FILE=str(self.tiny / "audit.jsonl"),
                               HOLDFAST_AUTH_OIDC_ISSUER="https://127.0.0.1:1", HOLDFAST_AUTH_OIDC_REFRESH_INTERVAL="5m")
        self.restarts.start_all()
        hubs.wait_for("network is ready", lambda: all(self.network.is_ready(node) for node in (1, 2, 3)))
        for hub, devices in ((self.healthy, 10), (self.nodes, 20), (self.network, 6), (self.slow, 4), (self.full, 4), (self.clients, 6), (self.restarts, 4)):
            hub.fleet(devices)
        self.idle = self.nodes.swarm("idle", "idle", "-n", "150", "--transport", "tls13", "--until-input-ends", "--survive-disconnect", "--keep-alive", "60")
        self.programs.start("reader", self.programs.holdfast, "monitor-events", "--connection-file", self.nodes.connection_file())
        for work in (self.traffic, self.newcomers, self.strangers, self.registry_calls, self.filler):
            threading.Thread(target=work, daemon=True).start()

    def end(self):
        self.is_over.set()
        self.programs.end()
        for at in self.mounts:
            hubs.run("umount", "-l", at, check=False)

    # What goes on all the time ----------------------------------------------------------------------------------------------------
    def every(self, seconds, work):
        while not self.is_over.wait(seconds):
            with contextlib.suppress(OSError, RuntimeError):
                work()

    def traffic(self):
        """Of back ends, and of devices over AMQP and HTTPS, at the hub whose dashboards are drawn."""
        def once():
            self.nodes.cli("device", "method", "echo", "sim-0000", check=False)
            self.nodes.cli("c2d", "send", "sim-0001", "--data", "hello", check=False)
            self.nodes.cli("c2d", "send", "sim-0002", "--data", "hello", check=False)
            self.nodes.cli("twin", "show", "sim-0003", check=False)
            self.nodes.cli("twin", "update", "sim-0003", "--desired", f'{{"at": {int(time.time())}}}', check=False)
            self.nodes.cli("query", "SELECT * FROM devices WHERE connectionState = 'Connected'", check=False)
            for protocol in ("amqp", "https"):
                process = self.nodes.swarm("publish", "publish", "--protocol", protocol, "--transport", "tls13", "-n", "5", "--messages", "20", "--prefix", f"{protocol}-")
                with contextlib.suppress(hubs.subprocess.TimeoutExpired):
                    process.wait(30)
        self.every(10, once)

    def newcomers(self):
        """Devices that register with the provisioning service."""
        def once():
            run = f"prov{int(time.time())}-"
            self.nodes.cli("simulate", "--provision", "group-key", "--prefix", run, "--devices", "4", "--messages", "3", check=False)
        self.every(60, once)

    def strangers(self):
        def once():
            knock(self.nodes.address(1))
            knock(self.clients.address(1))
        self.every(3, once)

    def registry_calls(self):
        self.every(3, lambda: self.clients.cli("device", "show", "sim-0000", check=False))

    def filler(self):
        """100 KiB a second onto the disk that fills."""
        path = self.full.folder / "of-somebody-else"

        def once():
            with open(path, "ab") as file:
                file.write(bytes(500 << 10))
        self.every(5, once)

    # What happens, by the minute --------------------------------------------------------------------------------------------------
    def timeline(self):
        yield 1, "a CA of devices that ends in 20 days", self.add_ca
        yield 1, "a disk gets slow", lambda: self.slow_file.write_text("600\n")
        yield 2, "a node is killed and stays away", lambda: self.nodes.kill(3)
        yield 2, "a stranger calls the port of nodes", self.call_peer_port
        yield 3, "certificates that end in 3 days", self.short_certificates
        yield 3, "a limit of open files that is nearly reached", self.few_files
        yield 3, "a process is killed", self.restart
        yield 4, "the disk of the audit log is full", self.fill_audit
        yield 5, "a renewed certificate that cannot be read", self.spoil_certificate
        yield 5, "a node stalls, again and again", lambda: threading.Thread(target=self.stalls, daemon=True).start()
        yield 6, "a process is killed", self.restart
        yield 9, "a process is killed", self.restart
        yield 14, "most devices go away", lambda: self.idle.stdin.close()
        yield 25, "the certificate can be read again", lambda: (self.network.folder / "server-rsa.pem").write_text(self.rsa)
        yield 26, "two of three nodes are killed", lambda: [self.network.kill(node) for node in (2, 3)]
        yield 29, "and come back", lambda: [self.network.start(node) for node in (2, 3)]
        yield 34, "the disk is nearly full", self.fill_disk

    def add_ca(self):
        self.clients.cli("ca", "add", "old-fleet", "--file", hubs.own_ca(self.programs.folder, "old-fleet", 20))

    def call_peer_port(self):
        hubs.run("openssl", "s_client", "-connect", f"{self.network.address(1)}:9700", "-servername", "peer.holdfast", check=False, input="", timeout=20)

    def short_certificates(self):
        folder, data = self.network.folder, self.network.data(1)
        names = ",".join(f"IP:{self.network.address(node)}" for node in (1, 2, 3)) + ",DNS:localhost"
        hubs.Authority(folder / "ca.pem", folder / "ca.key").sign(folder / "server.key", folder / "server.pem", "server", names, 3)
        hubs.Authority(folder / "peer-ca.pem", folder / "peer-ca.key").sign(
            data / "peer.key", data / "peer.pem", "node-1", "DNS:peer.holdfast,DNS:node-1.peer.holdfast,DNS:node-1", 3)

    def spoil_certificate(self):
        file = self.network.folder / "server-rsa.pem"
        self.rsa = file.read_text()
        file.write_text("no certificate\n")

    def few_files(self):
        pid = self.network.processes[1].pid
        limit = int(len(os.listdir(f"/proc/{pid}/fd")) * 1.1)
        hubs.run("prlimit", "--pid", pid, f"--nofile={limit}:{limit}")

    def restart(self):
        self.restarts.kill(1)
        self.restarts.start(1)

    def fill_audit(self):
        with contextlib.suppress(OSError), open(self.tiny / "of-somebody-else", "wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()

    def stalls(self):
        for _ in range(16):
            self.network.signal(3, signal.SIGSTOP)
            time.sleep(7)
            self.network.signal(3, signal.SIGCONT)
            if self.is_over.wait(25):
                return

    def fill_disk(self):
        about = os.statvfs(self.full.folder)
        left = about.f_bavail * about.f_frsize - (100 << 20)
        with open(self.full.folder / "of-somebody-else-2", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(left, 1))
