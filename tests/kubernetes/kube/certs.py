"""The chart with certificates by cert-manager's own controllers: issued, renewed without a restart, issued anew for a node more.

The controllers are those of cert-manager, started by a program of the test (certificates/); its webhook is not there.
"""
import base64
import os
import subprocess
import time

from .cluster import CHART
from .containers import say, wait_for

NAMESPACE, RELEASE, NAME = "pki", "pki", "pki-holdfast"
CORE = [f"{NAME}-{n}" for n in range(3)]
OPTIONS = [part for value in ("hub.host=hub.example.com", "core.minReadySeconds=3", "core.sessions=1000", "drain.preStopSeconds=1",
                              "config.storage.min_free=64MiB", "config.storage.min_free_percent=1") for part in ("--set", value)]


def cert_manager(cluster):
    """Both CAs of the chart's own, the certificates of Service and nodes; a renewal; a fourth node."""
    if "certificates" not in cluster.tools or not cluster.crds:
        say("skipped: cert-manager's controllers or definitions cannot be had here")
        return
    cluster.definitions()
    cluster.plane.start("certificates", config=cluster.plane.kubeconfig)
    cluster.namespace(NAMESPACE)
    digits = lambda: os.urandom(32).hex().encode()
    cluster.secret(f"{NAME}-sealing-key", {"sealing.key": digits()}, NAMESPACE)
    cluster.secret(f"{NAME}-join", {name: digits() for name in CORE[1:]}, NAMESPACE)
    begun = time.monotonic()
    cluster.helm("install", RELEASE, CHART, "--namespace", NAMESPACE, *OPTIONS, "--wait", "--timeout", "180s")
    seconds = time.monotonic() - begun
    made = {one["metadata"]["name"] for one in cluster.api.get(f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates")["items"] if ready(one)}
    assert made == {f"{NAME}-{part}" for part in ("ca", "tls", "peer-ca", "peer-core")}, made
    text = cluster.helm("test", RELEASE, "--namespace", NAMESPACE)
    assert "Phase:          Succeeded" in text, text
    say(f"helm install --wait without any certificate given: {seconds:.1f} s; cert-manager has issued {', '.join(sorted(made))}; helm test passes")

    # A renewal reaches what the pods serve.
    old = served(cluster)
    path = f"/apis/cert-manager.io/v1/namespaces/{NAMESPACE}/certificates/{NAME}-tls"
    begun = time.monotonic()
    one = cluster.api.get(path)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    one["status"]["conditions"].append({"type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "", "lastTransitionTime": stamp})
    cluster.api.put(f"{path}/status", one)
    wait_for("all pods serve the new certificate", lambda: not set(served(cluster)) & set(old), 120)
    seconds = time.monotonic() - begun
    restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in cluster.pods(namespace=NAMESPACE).values()]
    assert restarts == [0, 0, 0], restarts
    say(f"a renewal is served by all pods after {seconds:.0f} s, without a restart")

    # The certificate of nodes is issued anew with a fourth name.
    fourth = f"{NAME}-3"
    token = cluster.cli("node", "token", "--valid", "1h", pod=CORE[0], namespace=NAMESPACE)[1].strip()
    cluster.api.patch(f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}-join", {"data": {fourth: base64.b64encode(token.encode()).decode()}})
    cluster.helm("upgrade", RELEASE, CHART, "--namespace", NAMESPACE, *OPTIONS, "--set", "core.replicas=4")
    seconds = wait_for("the fourth pod is ready", lambda: cluster.ready([fourth], namespace=NAMESPACE), 240)
    status = cluster.pods(namespace=NAMESPACE)[fourth]["status"]
    tries = sum(one["restartCount"] for one in status["containerStatuses"] + status.get("initContainerStatuses", []))
    say(f"a fourth core pod, whose name the certificate of nodes did not bear: ready after {seconds:.0f} s, {tries} restart(s) of its containers")
    cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=180s")


def ready(one):
    return any(part["type"] == "Ready" and part["status"] == "True" for part in one.get("status", {}).get("conditions", []))


def served(cluster):
    """The serial numbers of the certificates that the core pods show."""
    made = []
    for name in CORE:
        pod = cluster.agent.named(name, NAMESPACE)
        shown = subprocess.run(["openssl", "s_client", "-connect", f"{pod.ip}:8883", "-servername", "hub.example.com"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
        number = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=shown.stdout, capture_output=True)
        made.append(number.stdout.decode().strip())
    assert all(made), made
    return made
