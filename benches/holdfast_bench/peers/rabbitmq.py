"""RabbitMQ with its MQTT plugin; a durable queue, classic or quorum, confirms after it is on disk."""

import os
import subprocess

from ..machine import command_output, install
from ..processes import Server, accepts, free_port

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def version(kind):
    return f"rabbitmq-server {command_output('dpkg-query', '-W', '-f=${Version}', 'rabbitmq-server')}, {kind} queue"


def ensure():
    install("rabbitmq-server")


class RabbitMq(Server):
    name = "rabbitmq"

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.port = free_port()
        self.amqp_port = free_port()

    def command(self):
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp_port}\n"
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "mqtt.allow_anonymous = true\n"
            f"mqtt.durable_queue_type = {self.kind}\n"
            "mqtt.prefetch = 1000\n"
            "log.console.level = error\n"
        )
        (self.folder / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        return [SERVER]

    def environment(self):
        return dict(
            os.environ,
            HOME=str(self.folder),
            RABBITMQ_NODENAME="bench@localhost",
            RABBITMQ_CONFIG_FILE=str(self.folder / "rabbitmq.conf"),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(self.folder / "enabled_plugins"),
            RABBITMQ_MNESIA_BASE=str(self.folder / "mnesia"),
            RABBITMQ_LOG_BASE=str(self.folder / "log"),
            RABBITMQ_PID_FILE=str(self.folder / "pid"),
            RABBITMQ_DIST_PORT=str(self.dist_port()),
            ERL_EPMD_PORT=str(self.epmd_port()),
            ERL_EPMD_ADDRESS="127.0.0.1",
        )

    def dist_port(self):
        self._dist_port = getattr(self, "_dist_port", None) or free_port()
        return self._dist_port

    def epmd_port(self):
        self._epmd_port = getattr(self, "_epmd_port", None) or free_port()
        return self._epmd_port

    def is_ready(self):
        return accepts(self.port)

    def pids(self):
        """The Erlang machine: the script that was started, or a child of it."""
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            if "beam" in command_output("ps", "-o", "comm=", "-p", str(pid)):
                found.append(pid)
            waiting += [int(p) for p in command_output("pgrep", "-P", str(pid)).split() if p.isdigit()]
        return found

    def stop(self):
        super().stop()
        # The port mapper outlives its node; only ours listens on this port.
        subprocess.run(["epmd", "-port", str(self.epmd_port()), "-kill"], capture_output=True, check=False)

    def target(self):
        return ["--target", f"127.0.0.1:{self.port}", "--user", "guest", "--password", "guest"]
