"""NATS with JetStream and MQTT, embedded in a small Go program; `sync_interval: always` makes its PUBACK durable."""

import os
import shutil
import subprocess

from ..machine import Trouble, cache
from ..processes import Server, accepts, free_port

VERSION = os.environ.get("HOLDFAST_BENCH_NATS", "v2.10.27")
PROGRAM = """package main

import (
	"log"

	"github.com/nats-io/nats-server/v2/server"
	"os"
)

func main() {
	options, err := server.ProcessConfigFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	hub, err := server.NewServer(options)
	if err != nil {
		log.Fatal(err)
	}
	hub.ConfigureLogger()
	hub.Start()
	hub.WaitForShutdown()
}
"""


def version():
    return f"nats-server {VERSION}, sync_interval always"


def program():
    return cache() / f"nats-server-{VERSION}" / "nats"


def ensure():
    if program().exists():
        return
    if not shutil.which("go"):
        raise Trouble("NATS needs a Go toolchain, and there is none")
    folder = program().parent
    folder.mkdir(exist_ok=True)
    (folder / "main.go").write_text(PROGRAM)
    print(f"bench: building NATS {VERSION}", flush=True)
    (folder / "go.mod").unlink(missing_ok=True)
    for step in (
        ["go", "mod", "init", "bench"],
        ["go", "get", f"github.com/nats-io/nats-server/v2@{VERSION}"],
        ["go", "mod", "tidy"],
        ["go", "build", "-o", "nats", "."],
    ):
        done = subprocess.run(step, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise Trouble(f"`{' '.join(step)}` failed: {done.stderr[-300:]}")


class Nats(Server):
    name = "nats"

    def __init__(self):
        super().__init__()
        self.port = free_port()
        self.client_port = free_port()

    def command(self):
        config = self.folder / "nats.conf"
        config.write_text(
            f"server_name: bench\nhost: 127.0.0.1\nport: {self.client_port}\n"
            f"jetstream {{ store_dir: \"{self.folder}/store\", sync_interval: always }}\n"
            # The default of 100 unacknowledged messages a connection is above every window used here.
            f"mqtt {{ host: 127.0.0.1, port: {self.port} }}\n"
        )
        return [str(program()), str(config)]

    def is_ready(self):
        return accepts(self.port)

    def target(self):
        return ["--target", f"127.0.0.1:{self.port}"]
