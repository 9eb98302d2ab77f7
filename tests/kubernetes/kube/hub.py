"""The hub of the tests: its names, the Secrets that a platform engineer makes, and devices whose acknowledged messages are looked for afterwards."""
import json
import os
import re
import threading

from .containers import run

NAMESPACE, RELEASE, NAME = "iot", "fleet", "fleet-holdfast"
HOST = "hub.example.com"


def certificates(folder, core=6, gateways=4):
    """The Secrets that docs/kubernetes.md has a platform engineer make: server certificate, certificates of nodes, sealing key, join tokens."""
    nodes = [f"{NAME}-{n}" for n in range(core)] + [f"{NAME}-gateway-{n}" for n in range(gateways)]

    def secret(subject, names, usage):
        key, request, certificate, authority, authority_key = (folder / name for name in ("key", "csr", "crt", f"{subject}-ca", f"{subject}-ca.key"))
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3", "-subj", f"/CN={subject} CA", "-keyout", authority_key, "-out", authority)
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={subject}", "-keyout", key, "-out", request)
        extensions = folder / "ext"
        extensions.write_text(f"subjectAltName={','.join('DNS:' + name for name in names)}\nextendedKeyUsage={usage}\nkeyUsage=critical,digitalSignature\n")
        run("openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-days", "3", "-extfile", extensions, "-out", certificate)
        return {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes(), "ca.crt": authority.read_bytes()}

    digits = lambda: os.urandom(32).hex().encode()
    return {
        "hub-tls": secret("hub", [HOST, *(f"{service}.{NAMESPACE}.svc" for service in (NAME, f"{NAME}-core"))], "serverAuth"),
        "hub-peer": secret("nodes", ["peer.holdfast", *(f"{node}.peer.holdfast" for node in nodes)], "serverAuth,clientAuth"),
        f"{NAME}-sealing-key": {"sealing.key": digits()},
        f"{NAME}-join": {f"{NAME}-1": digits(), f"{NAME}-2": digits()},
    }


class Fleet:
    """Devices that send one message a second each, and what they have got acknowledged: `holdfast simulate` counts a message once it is.

    `client(arguments, variables)` runs `holdfast` with them in a pod of its own, to its end: exit code and output."""

    def __init__(self, client, owner, devices=20, messages=110, prefix="sim-"):
        self.devices, self.messages, self.prefix = devices, messages, prefix
        arguments = ["simulate", f"--devices={devices}", f"--prefix={prefix}", "--interval=1", f"--messages={messages}", "--ca-file=/etc/holdfast/ca/ca.crt"]
        self.ended = None
        self.thread = threading.Thread(target=lambda: setattr(self, "ended", client(arguments, {"HOLDFAST_LOGIN": owner})), daemon=True)
        self.thread.start()

    def check(self, events, seconds=300):
        """Each acknowledged message is among `events()`, the log's as JSON lines, and the messages of a device are in order."""
        self.thread.join(seconds)
        assert self.ended, f"the devices have not ended within {seconds} s"
        code, text = self.ended
        assert code == 0, text[-2000:]
        seen = {}
        for line in events().splitlines():
            if line.startswith("{"):
                event = json.loads(line)["event"]
                if event["origin"].startswith(self.prefix):
                    seen.setdefault(event["origin"], []).append(event["payload"]["message"])
        lost = [(device, n) for device in seen for n in range(1, self.messages + 1) if n not in seen[device]]
        assert len(seen) == self.devices and not lost, (len(seen), len(lost), lost[:10])
        repeated = sum(len(numbers) - self.messages for numbers in seen.values())
        assert all(list(dict.fromkeys(numbers)) == sorted(set(numbers)) for numbers in seen.values()), "out of order"
        ends = len(re.findall(rf"^{self.prefix}\d+: ", text, re.M))
        return f"{self.devices * self.messages} messages acknowledged, 0 lost, {repeated} repeated, in order; {ends} connections ended meanwhile"
