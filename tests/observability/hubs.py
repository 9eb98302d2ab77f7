"""Hubs of the recording: real processes on loopback addresses of their own, with what a person or a disk would do to them."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import urllib.request


def run(*command, check=True, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def wait_for(what, condition, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return
        time.sleep(0.2)
    raise RuntimeError(f"not within {seconds} s: {what}")


class Programs:
    """Where the binaries are, and every process of the recording, so that each of them ends."""

    def __init__(self, holdfast, swarm, folder):
        self.holdfast, self.swarm, self.folder, self.started = holdfast, swarm, folder, []
        self.slow_sync = folder / "slow_sync.so"
        run("cc", "-shared", "-fPIC", "-o", self.slow_sync, pathlib.Path(__file__).with_name("slow_sync.c"), "-ldl")

    def start(self, log, *command, **variables):
        with open(self.folder / f"{log}.log", "ab") as out:
            process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=out, stderr=out, env=os.environ | variables)
        self.started.append(process)
        return process

    def end(self):
        for process in reversed(self.started):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.started:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


class Hub:
    """A hub of 1 or 3 nodes at 127.0.NET.1 and on. `dev` makes its files; the nodes are then processes of the recording's own, so that each can be
    killed, stopped and started in another environment."""

    def __init__(self, programs, name, net, nodes=1, folder=None, settings=()):
        self.programs, self.name, self.net, self.count = programs, name, net, nodes
        self.folder, self.settings, self.processes = folder or programs.folder / name, list(settings), {}

    def address(self, node):
        return f"127.0.{self.net}.{node}"

    def targets(self):
        return [f"{self.address(node)}:9600" for node in range(1, self.count + 1)]

    def dev(self):
        options = [part for setting in self.settings for part in ("--set", setting)]
        several = ["--nodes", self.count] if self.count > 1 else []
        return [self.programs.holdfast, "dev", "--data-dir", self.folder, "--host", self.address(1), *several, *options]

    def make(self):
        maker = self.programs.start(f"{self.name}-dev", *self.dev())
        wait_for(f"{self.name} is ready", lambda: self.connection_file().exists() or maker.poll() is not None)
        if maker.poll() is not None:
            raise RuntimeError(f"{self.name} does not start: see {self.programs.folder}/{self.name}-dev.log")
        self.connection = json.loads(self.connection_file().read_text())
        kept = self.folder / "connection.kept"
        shutil.copy(self.connection_file(), kept)
        maker.terminate()
        maker.wait(60)
        shutil.copy(kept, self.connection_file())

    def connection_file(self):
        return self.folder / "connection.json"

    def data(self, node):
        return self.folder if node == 1 else self.folder / f"node-{node}"

    def start(self, node, **variables):
        # A hub of one node is the process `dev` itself, which writes no configuration.
        command = self.dev() if self.count == 1 else [self.programs.holdfast, "start", "--config", self.data(node) / "holdfast.toml"]
        self.processes[node] = self.programs.start(f"{self.name}-{node}", *command, **variables)

    def start_all(self, **variables):
        for node in range(1, self.count + 1):
            self.start(node, **variables)
        for node in range(1, self.count + 1):
            wait_for(f"{self.name} {node} is ready", lambda node=node: self.is_ready(node))

    def is_ready(self, node):
        try:
            return urllib.request.urlopen(f"http://{self.address(node)}:9600/readyz", timeout=2).status == 200
        except OSError:
            return False

    def kill(self, node):
        self.processes[node].kill()
        self.processes[node].wait()

    def signal(self, node, number):
        self.processes[node].send_signal(number)

    def cli(self, *arguments, check=True):
        return run(self.programs.holdfast, *arguments, "--connection-file", self.connection_file(), check=check)

    def fleet(self, devices):
        """Devices that send readings, answer methods and report their twins."""
        return self.programs.start(f"{self.name}-fleet", self.programs.holdfast, "simulate", "--connection-file", self.connection_file(), "--devices", devices)

    def swarm(self, log, *arguments):
        return self.programs.start(f"{self.name}-{log}", self.programs.swarm, *arguments, "--hub", self.connection_file(), "-q")


class Authority:
    """Certificates by a key that a hub has, with the life that a test wants."""

    def __init__(self, ca, key):
        self.ca, self.key = ca, key

    def sign(self, key, into, subject, names, days):
        """A certificate for the private key `key`, in the file `into` at once."""
        request = run("openssl", "req", "-new", "-key", key, "-subj", f"/CN={subject}")
        extensions = into.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={names}\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n")
        made = run("openssl", "x509", "-req", "-CA", self.ca, "-CAkey", self.key, "-days", days, "-extfile", extensions, "-set_serial", int(time.time()), input=request)
        fresh = into.with_suffix(".new")
        fresh.write_text(made)
        fresh.replace(into)


def own_ca(folder, name, days):
    """A CA of devices that ends in so many days."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", certificate, "-days", days,
        "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    return certificate


def ocsp_response(folder, certificate, minutes):
    """A response about a server certificate, signed by its CA, as `openssl ocsp` writes it."""
    into = folder / "server.ocsp"
    serial = run("openssl", "x509", "-in", certificate, "-noout", "-serial").strip().split("=")[1]
    index = folder / "index.txt"
    index.write_text(f"V\t400101000000Z\t\t{serial}\tunknown\t/CN=server\n")
    run("openssl", "ocsp", "-index", index, "-rsigner", folder / "ca.pem", "-rkey", folder / "ca.key", "-CA", folder / "ca.pem", "-issuer", folder / "ca.pem",
        "-cert", certificate, "-respout", into, "-nmin", minutes, "-noverify")
    return into
