"""Bad input: what the pod, the API server or helm says, and that nothing is lost."""
import shutil
import time

from .cluster import CHART, NAME, NAMESPACE, RELEASE
from .containers import say, wait_for
from .hub import certificates
from .scenarios import CORE, GATEWAYS, RETENTION, settled

LAPTOP = CHART / "ci/laptop-values.yaml"


def missing_secrets(cluster):
    """A hub of one node without its Secrets: pods wait, and say for what; once they are there, the hub starts."""
    namespace = "laptop"
    cluster.namespace(namespace)
    text = cluster.helm("install", "other", CHART, "--namespace", namespace, "--values", LAPTOP)
    assert "Pods wait for these Secrets" in text and "hub-tls" in text and "other-holdfast-sealing-key" in text, text
    pod = "other-holdfast-0"
    wait_for("the pod says what it waits for", lambda: any('secret "hub-tls" not found' in line for line in cluster.events(pod, namespace)), 60)
    line = next(line for line in cluster.events(pod, namespace) if "hub-tls" in line)
    secrets = certificates(cluster.folder)
    cluster.secret("hub-tls", secrets["hub-tls"], namespace)
    wait_for("the other Secret is named", lambda: any("other-holdfast-sealing-key" in line for line in cluster.events(pod, namespace)), 60)
    cluster.secret("other-holdfast-sealing-key", secrets[f"{NAME}-sealing-key"], namespace)
    seconds = wait_for("the hub of one node is ready", lambda: cluster.ready([pod], namespace=namespace), 120)
    say(f"missing Secrets: helm lists them; the pod says \"{line}\"; ready {seconds:.0f} s after the last one is made")


def same_names(cluster):
    """Two releases with one name, and another release with the same names of objects, are refused by helm; the hub is untouched."""
    before = {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}
    options = ("--namespace", NAMESPACE, "--values", LAPTOP)
    first = cluster.refused(cluster.tools["helm"], "install", RELEASE, CHART, *options)
    assert "cannot reuse a name that is still in use" in first or "cannot re-use a name" in first, first
    second = cluster.refused(cluster.tools["helm"], "install", "second", CHART, *options, "--set", f"fullnameOverride={NAME}")
    assert "exists and cannot be imported into the current release" in second, second
    third = cluster.refused(cluster.tools["helm"], "upgrade", RELEASE, CHART, "--namespace", NAMESPACE, "--set", "core.replicas=two,hub.host=hub.example.com")
    assert "replicas" in third, third
    assert before == {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}
    say(f"two releases with one name: \"{first.splitlines()[-1][-90:]}\"; other objects' names: refused; a wrong value: \"{third.strip().splitlines()[-1].strip()[:120]}\"")


def foreign_volume(cluster):
    """A new core pod finds a claim with the data of another hub: it says so and serves nothing; the hub and the other hub's data stay as they are."""
    source = cluster.api.get("/api/v1/namespaces/laptop/persistentvolumeclaims/data-other-holdfast-0")["spec"]["volumeName"]
    cluster.kubectl("-n", "laptop", "scale", "statefulset/other-holdfast", "--replicas=0")
    wait_for("the other hub has stopped", lambda: not cluster.pods(namespace="laptop"), 120)
    claim = {"metadata": {"name": f"data-{NAME}-3", "namespace": NAMESPACE}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "disks", "volumeName": "foreign", "resources": {"requests": {"storage": "50Gi"}}}}
    shutil.copytree(cluster.storage.folder / source, cluster.storage.folder / "foreign")
    for path in [cluster.storage.folder / "foreign", *(cluster.storage.folder / "foreign").rglob("*")]:
        shutil.chown(path, 10001, 10001)
    cluster.storage.make("foreign", "zone-a", claim)
    cluster.api.post(f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", claim)
    cluster.upgrade(*RETENTION, "--set", "core.replicas=4")
    pod = f"{NAME}-3"
    wait_for("the pod refuses the volume", lambda: cluster.message(pod), 120)
    text = cluster.message(pod)
    assert not cluster.ready([pod]) and cluster.ready(CORE), text
    say(f"a volume of another hub: \"{' '.join(text.split())[-300:]}\"")
    cluster.kubectl("-n", NAMESPACE, "delete", "pvc", f"data-{pod}", "--wait=false")
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", pod)
    seconds = wait_for("the pod joins with a new volume", lambda: cluster.ready([pod]), 240)
    say(f"claim and pod deleted: it joins with a new volume after {seconds:.0f} s")
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "600s")
    settled(cluster)


def old_version(cluster):
    """An older binary over data of a newer feature level: the pod says what to do, the rollout stops, and going forward heals it."""
    if not cluster.old:
        say("skipped: no older binary was given (HOLDFAST_OLD_BIN)")
        return
    cluster.agent.images["holdfast:0.0.1"] = cluster.old
    fleet = cluster.fleet(60, "old-")
    cluster.upgrade(*RETENTION, "--set", "image.tag=0.0.1")
    pod = CORE[2]
    wait_for("the old version refuses the data", lambda: cluster.message(pod), 180)
    text = cluster.message(pod)
    time.sleep(10)
    assert cluster.ready(CORE[:2]), "the rollout stops at the first pod"
    say(f"an old version over new data: \"{' '.join(text.split())[-400:]}\"")
    cluster.helm("rollback", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "300s")
    settled(cluster)
    wait_for("gateways ready", lambda: cluster.ready(GATEWAYS, "gateway"), 180)
    say("helm rollback: all pods are ready again, with their data")
    say("devices meanwhile: " + cluster.check(fleet))
