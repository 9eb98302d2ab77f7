"""OCSP responses stapled by a hub, as openssl's client sees them."""

import re
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

import harness
from certificates import Workshop

WAIT_SECONDS = 60


def ocsp_response(workshop, issuer, certificate, file):
    """Has openssl, as the CA's responder, write a response about a certificate."""
    def run(*args):
        return subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, text=True).stdout

    serial = run("x509", "-in", certificate.certificate_file, "-noout", "-serial").strip().split("=")[1]
    index = Path(workshop.folder) / f"{serial}.txt"
    index.write_text(f"V\t21250101000000Z\t\t{serial}\tunknown\t/CN=server\n", encoding="ascii")
    request = index.with_suffix(".req")
    run("ocsp", "-issuer", issuer.certificate_file, "-cert", certificate.certificate_file, "-no_nonce",
        "-reqout", request)
    run("ocsp", "-index", index, "-CA", issuer.certificate_file, "-rsigner", issuer.certificate_file,
        "-rkey", issuer.key_file, "-reqin", request, "-respout", file, "-ndays", "1")


def stapled(hub, ca, version):
    """What `openssl s_client -status` says of the response that the MQTT listener staples."""
    port = hub.connection["ports"]["mqtt"]
    command = ["openssl", "s_client", "-connect", f"{hub.address}:{port}", f"-{version}", "-status",
               "-CAfile", str(ca.certificate_file)]
    output = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60).stdout
    if "OCSP response: no response sent" in output:
        return None
    found = re.search(r"Cert Status: (\w+)", output)
    assert found, output
    return found.group(1)


def expiry(hub):
    with urllib.request.urlopen(hub.connection["metrics"], timeout=30) as answer:
        text = answer.read().decode()
    return float(re.search(r'^holdfast_tls_ocsp_expiry_seconds\{certificate="server"\} (\S+)$', text, re.M).group(1))


def eventually(what, holds):
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.mark.skipif(harness.NODES > 1, reason="the files are one node's")
def test_a_response_is_stapled_until_it_is_of_another_certificate():
    workshop = Workshop()
    hub = harness.Hub()
    ca = workshop.ca("Root")
    server, other = workshop.server(hub.address, ca), workshop.server(hub.address, ca)
    chain = workshop.folder / "chain.pem"
    chain.write_text(server.certificate_file.read_text() + ca.certificate_file.read_text(), encoding="ascii")
    good, foreign, file = (workshop.folder / name for name in ("good.der", "foreign.der", "stapled.der"))
    ocsp_response(workshop, ca, server, good)
    ocsp_response(workshop, ca, other, foreign)
    file.write_bytes(good.read_bytes())
    settings = {
        "tls.certificate_file": chain,
        "tls.key_file": server.key_file,
        "tls.ocsp_file": file,
        "tls.reload_interval": "100ms",
    }
    hub.args = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    with hub:
        for version in ("tls1_2", "tls1_3"):
            assert stapled(hub, ca, version) == "good"
        assert time.time() < expiry(hub) <= time.time() + 86_400
        file.write_bytes(foreign.read_bytes())
        eventually("the response about another certificate is noticed", lambda: expiry(hub) == 0)
        for version in ("tls1_2", "tls1_3"):
            assert stapled(hub, ca, version) is None
        file.write_bytes(good.read_bytes())
        eventually("the right one is back", lambda: expiry(hub) > 0)
        assert stapled(hub, ca, "tls1_3") == "good"
