"""Eclipse Mosquitto with persistence on. None of its settings makes a PUBACK durable."""

from ..machine import Trouble, cache, command_output, install
from ..processes import Server, accepts, free_port


def version():
    lines = command_output("dpkg-query", "-W", "-f=${Version}", "mosquitto")
    return f"mosquitto {lines}"


def ensure():
    install("mosquitto")


class Mosquitto(Server):
    name = "mosquitto"

    def __init__(self, tls=False):
        super().__init__()
        self.port = free_port()
        self.tls = tls

    def command(self):
        config = self.folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {self.folder}/",
            "max_inflight_messages 65535",
            "max_queued_messages 0",
            "log_type error",
            "user root",
        ]
        if self.tls:
            certificates = ensure_certificates()
            lines += [f"certfile {certificates}/server.pem", f"keyfile {certificates}/server.key", "tls_version tlsv1.3"]
        config.write_text("\n".join(lines) + "\n")
        return ["mosquitto", "-c", str(config)]

    def is_ready(self):
        return accepts(self.port)

    def target(self):
        arguments = ["--target", f"127.0.0.1:{self.port}"]
        return arguments + (["--ca", f"{ensure_certificates()}/ca.pem", "--server-name", "localhost"] if self.tls else [])


def ensure_certificates():
    """A CA and an ECDSA server certificate for localhost."""
    import subprocess

    folder = cache() / "certificates"
    if (folder / "server.pem").exists():
        return folder
    install("openssl")
    folder.mkdir(exist_ok=True)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]
    (folder / "san").write_text("subjectAltName=DNS:localhost\n")
    steps = [
        ["openssl", "req", "-x509", *key, "-subj", "/CN=bench ca", "-keyout", "ca.key", "-out", "ca.pem"],
        ["openssl", "req", "-new", *key[:-2], "-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"],
        ["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        + ["-days", "3650", "-extfile", "san", "-out", "server.pem"],
    ]
    for step in steps:
        done = subprocess.run(step, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise Trouble(f"openssl failed: {done.stderr[-300:]}")
    return folder
