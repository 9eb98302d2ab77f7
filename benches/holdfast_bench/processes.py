"""Servers as processes: started in a fresh folder, awaited by a condition, stopped by their own pid."""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from .machine import Trouble, cache, require_real_disk

READY_SECONDS = 90
STOP_SECONDS = 60
SERVER_PORTS = (20_000, 30_000)


def free_port():
    """A free port below the kernel's range for clients, so that no client takes it before its server is up."""
    while True:
        port = random.randrange(*SERVER_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def fresh_folder(name):
    """An empty folder on a real disk."""
    folder = cache() / "data" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    require_real_disk(folder)
    return folder


def wait_for(condition, what, alive=lambda: True, seconds=READY_SECONDS, step=0.002):
    """Waits until `condition()` is true and gives its value back."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        if not alive():
            raise Trouble(f"the process ended while waiting for {what}")
        time.sleep(step)
    raise Trouble(f"{what} did not come within {seconds} s")


def accepts(port, host="127.0.0.1"):
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        return False


class Server:
    """A running server. Subclasses say how it starts, when it is ready, and which processes are it."""

    name = "server"

    def __init__(self, folder=None):
        self.folder = folder or fresh_folder(self.name)
        self.process = None
        self.log = None

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ)

    def is_ready(self):
        raise NotImplementedError

    def start(self):
        """Starts and returns the seconds until it was ready."""
        self.log = open(self.folder.parent / f"{self.folder.name}.log", "ab")
        begun = time.monotonic()
        places = {"stdout": self.log, "stderr": self.log, "cwd": self.folder}
        self.process = subprocess.Popen(self.command(), env=self.environment(), **places)
        try:
            wait_for(self.is_ready, f"{self.name} to be ready", self.is_alive)
        except Trouble as trouble:
            self.kill()
            raise Trouble(f"{trouble}; its last words:\n{self.last_words()}") from None
        return time.monotonic() - begun

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def pids(self):
        return [self.process.pid]

    def last_words(self):
        lines = Path(self.log.name).read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def kill(self):
        """SIGKILL, as a power cut would."""
        if self.is_alive():
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def stop(self):
        if self.is_alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print(f"bench: {self.name} did not stop within {STOP_SECONDS} s and was killed", flush=True)
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
        self.log.close()

    def discard(self):
        """Stops it and removes what it kept."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def target(self):
        """The arguments with which swarm finds it."""
        raise NotImplementedError

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.discard()
