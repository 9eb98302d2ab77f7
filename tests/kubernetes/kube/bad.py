"""Bad input: what the pod, the API server or helm says, and that nothing is lost."""
import base64
import shutil
import time

from .cluster import CHART, NAME, NAMESPACE, RELEASE
from .containers import say, wait_for
from .hub import certificates
from .scenarios import CORE, RETENTION, settled

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
    # The key of the other hub, so that nothing but the cluster's id keeps their data apart (foreign_volume).
    key = cluster.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}-sealing-key")["data"]["sealing.key"]
    cluster.secret("other-holdfast-sealing-key", {"sealing.key": base64.b64decode(key)}, namespace)
    seconds = wait_for("the hub of one node is ready", lambda: cluster.ready([pod], namespace=namespace), 120)
    say(f"missing Secrets: helm lists them; the pod says \"{line}\"; ready {seconds:.0f} s after the last one is made")


def same_names(cluster):
    """Two releases with one name, and another release with the same names of objects, are refused by helm; the hub is untouched."""
    before = {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}
    options = ("--namespace", NAMESPACE, "--values", LAPTOP)
    first = cluster.refused(cluster.tools["helm"], "install", RELEASE, CHART, *options)
    assert "cannot reuse a name that is still in use" in first or "cannot re-use a name" in first, first
    second = cluster.refused(cluster.tools["helm"], "install", "second", CHART, *options, "--set", f"fullnameOverride={NAME}")
    assert f'belongs to the release "{RELEASE}"' in second, second
    third = cluster.refused(cluster.tools["helm"], "upgrade", RELEASE, CHART, "--namespace", NAMESPACE, "--set", "core.replicas=two,hub.host=hub.example.com")
    assert "replicas" in third, third
    assert before == {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}
    say(f"two releases with one name: \"{first.splitlines()[-1][-90:]}\"; another release with its names: \"{second.strip().splitlines()[-1][-160:]}\"; a wrong value: \"{third.strip().splitlines()[-1].strip()[:120]}\"")


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
    assert "data of another hub" in text and not cluster.ready([pod]) and cluster.ready(CORE), text
    say(f"a volume of another hub: \"{' '.join(text.split())[-300:]}\"")
    cluster.kubectl("-n", NAMESPACE, "delete", "pvc", f"data-{pod}", "--wait=false")
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", pod)
    seconds = wait_for("the pod joins with a new volume", lambda: cluster.ready([pod]), 240)
    say(f"claim and pod deleted: it joins with a new volume after {seconds:.0f} s")
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "600s")
    settled(cluster)


def kubectl_scale(cluster):
    """`kubectl scale` instead of `helm upgrade`: the pod without a configuration says so, and an upgrade takes it away again."""
    cluster.kubectl("-n", NAMESPACE, "scale", f"statefulset/{NAME}", "--replicas=4")
    pod = f"{NAME}-3"
    wait_for("the pod says that it has no configuration", lambda: f"{pod}.toml" in cluster.message(pod) if pod in cluster.pods() else False, 120)
    text = " ".join(cluster.message(pod).split())
    assert cluster.ready(CORE)
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "300s")
    wait_for("the pod is gone", lambda: set(cluster.pods()) == set(CORE), 60)
    settled(cluster)
    cluster.kubectl("-n", NAMESPACE, "delete", "pvc", f"data-{pod}")
    say(f"kubectl scale: \"{text[-200:]}\"; the next helm upgrade takes the pod away")


def early_upgrade(cluster):
    """An upgrade while pod 0 is ready, but not for as long as it must be: pod 0 is made anew once, and the others follow."""
    wait = "core.minReadySeconds=15"
    sets = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{NAME}"
    cluster.upgrade(*RETENTION, "--set", wait)
    wait_for("all are available", lambda: cluster.api.get(sets)["status"].get("availableReplicas") == len(CORE), 120)
    before = {name: cluster.pods()[name]["metadata"]["uid"] for name in CORE}
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", CORE[0])
    wait_for("pod 0 is ready again", lambda: cluster.ready(CORE) and cluster.pods()[CORE[0]]["metadata"]["uid"] != before[CORE[0]], 120)
    begun = time.monotonic()
    cluster.upgrade("--set", "config.partition.retention=3d", "--set", wait)
    new = lambda: cluster.ready(CORE) and all(cluster.pods()[name]["metadata"]["uid"] != before[name] for name in CORE)
    wait_for("all pods are new", new, 180)
    settled(cluster)
    say(f"an upgrade while pod 0 is ready, but not available: done after {time.monotonic() - begun:.0f} s")
