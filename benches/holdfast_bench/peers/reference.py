"""The bare TLS server of swarm: it accepts, completes the handshake, answers one packet, and does nothing else."""

from .. import load
from ..processes import Server, accepts, free_port


class Reference(Server):
    """`clients`: "none" requests no certificate, "possession" checks that the client has its key, "issuer" also its CA."""

    def __init__(self, clients, acceptors):
        self.name = f"reference-{clients}"
        super().__init__()
        self.clients, self.acceptors, self.port = clients, acceptors, free_port()

    def command(self):
        arguments = {"none": [], "possession": ["--client-certificates"], "issuer": ["--device-ca", str(self.device_ca())]}
        common = ["--port", str(self.port), "--ca", str(self.ca()), "--threads", str(self.acceptors)]
        return [load.program(), "accept-tls", *common, *arguments[self.clients]]

    def ca(self):
        return self.folder / "ca.pem"

    def device_ca(self):
        return self.folder / "device-ca"

    def is_ready(self):
        return accepts(self.port)

    def target(self):
        trusted = ["--device-ca", str(self.device_ca())] if self.clients == "issuer" else []
        return ["--target", f"127.0.0.1:{self.port}", "--ca", str(self.ca()), *trusted]
