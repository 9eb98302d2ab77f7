"""What happens to a hub under Kubernetes, in this order: each scenario begins where the one before has ended.

Devices are under load where it says so, and each message that was acknowledged is looked for in the log afterwards.
"""
import re
import time

import yaml

from .cluster import CHART, NAME, NAMESPACE, RELEASE, Watcher
from .containers import say, wait_for
from .control import ApiError, Informer
from .hub import certificates
from .metrics import Metrics

CORE = [f"{NAME}-{n}" for n in range(3)]
FIVE = [f"{NAME}-{n}" for n in range(5)]
GATEWAYS = [f"{NAME}-gateway-{n}" for n in range(2)]
CORE_ONLY = ("--set", "gateway.enabled=false", "--set", "admin.existingSecret=")
RETENTION = ("--set", "config.partition.retention=2d")


def apply(cluster):
    """Every values file of ci/: server-side apply, at first as a dry run; Pod Security lets all pods in; nothing runs, for lack of images and Secrets."""
    cluster.definitions()
    cluster.api.post("/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": "iot-critical"}, "value": 1000})
    served = set(re.findall(r"\S+$", cluster.kubectl("api-resources", "--no-headers"), re.M))
    for file in sorted((CHART / "ci").glob("*-values.yaml")):
        name = file.name.removesuffix("-values.yaml")
        cluster.namespace(name)
        text = cluster.helm("template", RELEASE, CHART, "--namespace", name, "--values", file, "--kube-version", "1.37.2")
        objects = [one for one in yaml.safe_load_all(text) if one]
        kept = [one for one in objects if one["kind"] in served]
        hook = lambda one: "helm.sh/hook" in one["metadata"].get("annotations", {})
        lasting = yaml.safe_dump_all(one for one in kept if not hook(one))
        for text, dry in ((lasting, ["--dry-run=server"]), (lasting, []), (yaml.safe_dump_all(one for one in kept if hook(one)), ["--dry-run=server"])):
            cluster.kubectl("apply", "--server-side", *dry, "-n", name, "-f", "-", stdin=text)
        wanted = sum(one["spec"].get("replicas", 0) for one in kept if one["kind"] == "StatefulSet")
        made = lambda name=name: len(cluster.pods("core", name)) + len(cluster.pods("gateway", name))
        wait_for(f"{name}: the StatefulSets have made their pods", lambda: made() >= wanted, 60)
        left = sorted({one["kind"] for one in objects if one["kind"] not in served})
        say(f"{name}: {len(kept)} objects applied by the server side, {made()} pods admitted by `restricted`" + (f"; without {', '.join(left)}" if left else ""))
        cluster.kubectl("delete", "namespace", name, "--wait=false")
    for file in (CHART / "ci").glob("*-values.yaml"):
        wait_for("the namespace is gone", lambda file=file: not cluster.api.find(f"/api/v1/namespaces/{file.name.removesuffix('-values.yaml')}"), 120)


def prepare(cluster):
    """The namespace and its Secrets."""
    cluster.namespace(NAMESPACE)
    for name, data in certificates(cluster.folder).items():
        cluster.secret(name, data)


def install(cluster):
    """docs/kubernetes.md, "Three nodes, from nothing"."""
    prepare(cluster)
    seconds = cluster.install(*CORE_ONLY, "--wait", "--timeout", "180s")
    zones = {cluster.agent.nodes[pod["spec"]["nodeName"]].zone for pod in cluster.pods().values()}
    assert zones == {"zone-a", "zone-b", "zone-c"}, zones
    labels = {pod["metadata"]["labels"].get("topology.kubernetes.io/zone") for pod in cluster.pods().values()}
    assert labels == zones, "Kubernetes puts the zone on pods from 1.35 on"
    wait_for("partitions have three replicas", cluster.healthy, 120)
    assert {cluster.members()[name]["zone"] for name in CORE} == zones, cluster.members()
    say(f"helm install --wait: three core pods are ready after {seconds:.1f} s, one in each zone")
    assert seconds <= 60, "the target is 60 s"
    begun = time.monotonic()
    text = cluster.helm("test", RELEASE, "--namespace", NAMESPACE, "--logs")
    assert "Phase:          Succeeded" in text, text
    checks = re.findall(r"^passed +(\S+)", text, re.M)
    say(f"helm test: {time.monotonic() - begun:.1f} s; checks passed: {', '.join(checks)}")
    cluster.kubectl("-n", NAMESPACE, "delete", "secret", f"{NAME}-join")
    before = {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}
    cluster.upgrade(*CORE_ONLY, "--wait", "--timeout", "120s")
    assert before == {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}, "closing the door restarts nothing"
    say("founding.enabled=false, without its Secret: no pod is restarted")


def gateways(cluster):
    """Gateways wait for the credential, and join once it is there."""
    seconds = cluster.upgrade()
    say(f"helm upgrade with a credential whose Secret is not there yet: {seconds:.1f} s; its hook has nothing to drain")
    wait_for("gateways say what they wait for", lambda: any('secret "hub-admin" not found' in line for line in cluster.events(GATEWAYS[0])), 120)
    cluster.secret("hub-admin", {"login": cluster.login().encode()})
    begun = time.monotonic()
    wait_for("gateways ready", lambda: cluster.ready(GATEWAYS, "gateway"), 180)
    say(f"two gateways wait for the Secret by name, and are ready {time.monotonic() - begun:.1f} s after it is made")
    wait_for("core pods have the credential", lambda: cluster.ready(CORE) and cluster.healthy(), 300)
    settled(cluster)


def settled(cluster, names=CORE):
    """No rollout is under way."""
    for name in (NAME, f"{NAME}-gateway"):
        if cluster.api.find(f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/{name}"):
            cluster.kubectl("-n", NAMESPACE, "rollout", "status", f"statefulset/{name}", "--timeout=600s")
    wait_for("healthy", lambda: cluster.ready(names) and cluster.healthy(), 180)


def rolling(cluster):
    """A change of the configuration restarts all pods, one after the other, under load."""
    fleet = cluster.fleet(70, "roll-")
    before = {name: pod["metadata"]["uid"] for name, pod in cluster.pods().items()}
    watch = Watcher(cluster, CORE)
    seconds = cluster.upgrade(*RETENTION, "--wait", "--timeout", "600s")
    settled(cluster)
    seen = watch.stop()
    assert watch.most_away <= 1, seen
    assert watch.median() <= 0.5, seen
    assert all(before[name] != cluster.pods()[name]["metadata"]["uid"] for name in CORE), "all pods are new"
    say(f"rolling restart of three core pods and two gateways: {seconds:.0f} s; {seen}")
    say("devices meanwhile: " + cluster.check(fleet))


def scale(cluster):
    """3 to 5 to 3 core nodes, under load, by `helm upgrade` and the hook."""
    fleet = cluster.fleet(120, "scale-")
    begun = time.monotonic()
    cluster.upgrade(*RETENTION, "--set", "core.replicas=5", "--wait", "--timeout", "600s")
    ready = time.monotonic() - begun
    replicas = lambda: [cluster.members().get(name, {}).get("replicas", 0) for name in FIVE]
    leaders = lambda: [cluster.leaders().get(name, 0) for name in FIVE]
    zones = {name: cluster.agent.nodes[pod["spec"]["nodeName"]].zone for name, pod in cluster.pods().items()}

    def even():
        """A replica of each of the 8 partitions in each zone, even within it; leaders even over all."""
        led, held = leaders(), replicas()
        by_zone = [[count for name, count in zip(FIVE, held) if zones[name] == zone] for zone in set(zones.values())]
        return cluster.healthy() and sum(led) == 8 and max(led) - min(led) <= 1 and all(sum(counts) == 8 and max(counts) - min(counts) <= 1 for counts in by_zone)

    seconds = wait_for("replicas and leaders are even", even, 300, 1)
    say(f"3 to 5: ready after {ready:.0f} s, even {seconds:.0f} s later: replicas {replicas()} (zones {' '.join(zones[name][-1] for name in FIVE)}), leaders {leaders()}")
    begun = time.monotonic()
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "600s")
    wait_for("their pods are gone", lambda: set(cluster.pods()) == set(CORE), 120)
    seconds = time.monotonic() - begun
    assert set(cluster.members()) == {*CORE, *GATEWAYS}, cluster.members().keys()
    wait_for("healthy with three", cluster.healthy, 120)
    jobs = [log.read_text() for log in sorted((cluster.folder / "logs").glob(f"{NAMESPACE}_{NAME}-scale-in-*.log"))]
    named = re.findall(r"kubectl delete pvc (\S+)", "".join(jobs))
    assert sorted(named) == [f"data-{name}" for name in FIVE[3:]], jobs
    kept = [claim["metadata"]["name"] for claim in cluster.storage.claims.all() if claim["metadata"]["name"] in named]
    assert sorted(kept) == sorted(named), "volumes stay until someone deletes them"
    say(f"5 to 3 by the hook: {seconds:.0f} s; members removed before their pods went, volumes named: {', '.join(sorted(named))}")
    cluster.kubectl("-n", NAMESPACE, "delete", "pvc", *named)
    wait_for("volumes are deleted", lambda: not [one for one in cluster.storage.volumes.all() if one["spec"]["claimRef"]["name"] in named], 60)
    say("devices meanwhile: " + cluster.check(fleet))


def evicted(cluster, pod):
    """The Eviction API, which `kubectl drain` uses: None, or the refusal."""
    try:
        cluster.api.post(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}})
    except ApiError as error:
        return error
    return None


def evict(cluster):
    """One core pod at a time may be evicted; `kubectl drain` waits for the budget."""
    fleet = cluster.fleet(60, "evict-")
    wait_for("the budget allows one", lambda: allowed(cluster) == 1, 60)
    assert evicted(cluster, CORE[1]) is None
    refusal = evicted(cluster, CORE[2])
    assert refusal and refusal.status == 429, refusal
    say(f"eviction of {CORE[1]}: accepted; of {CORE[2]} meanwhile: {refusal.status} {refusal.message}")
    node = cluster.pods()[CORE[2]]["spec"]["nodeName"]
    begun = time.monotonic()
    watch = Watcher(cluster, CORE)
    cluster.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s", "--force")
    drained = time.monotonic() - begun
    seen = watch.stop()
    assert watch.most_away <= 1, seen
    wait_for("the pod runs on another machine of its zone", lambda: cluster.ready(CORE) and cluster.pods()[CORE[2]]["spec"]["nodeName"] != node, 180)
    cluster.kubectl("uncordon", node)
    settled(cluster)
    say(f"kubectl drain of {CORE[2]}'s machine: {drained:.0f} s with the budget's refusals; {seen}; the pod is ready on {cluster.pods()[CORE[2]]['spec']['nodeName']}")
    say("devices meanwhile: " + cluster.check(fleet))


def allowed(cluster):
    return cluster.api.get(f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{NAME}").get("status", {}).get("disruptionsAllowed")


def node_loss(cluster):
    """A process is killed and restarted in its pod. A machine loses power: Kubernetes notices, the pod is forced away and starts on another machine of
    its zone; then the machine is back. Another one is back before anyone does anything."""
    fleet = cluster.fleet(110, "loss-")
    cluster.agent.named(CORE[0]).containers[0].process.kill()
    wait_for("the container is down", lambda: not cluster.ready([CORE[0]]), 30)
    again = wait_for("the container is ready again", lambda: cluster.ready([CORE[0]]), 120)
    assert cluster.pods()[CORE[0]]["status"]["containerStatuses"][0]["restartCount"] == 1
    settled(cluster)
    say(f"a core process is killed: its container is ready again after {again:.0f} s, in the same pod")
    pod = CORE[1]
    node = cluster.pods()[pod]["spec"]["nodeName"]
    begun = time.monotonic()
    cluster.agent.lose(node)
    state = lambda: next(one["status"] for one in cluster.api.get(f"/api/v1/nodes/{node}")["status"]["conditions"] if one["type"] == "Ready")
    noticed = wait_for("the node is not ready", lambda: state() != "True", 120)
    wait_for("the pod is to go", lambda: cluster.pods()[pod]["metadata"].get("deletionTimestamp"), 120)
    marked = time.monotonic() - begun
    assert evicted(cluster, CORE[0]).status == 429, "the budget counts the lost pod"
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--force", "--grace-period=0")
    again = wait_for("the pod is ready elsewhere", lambda: cluster.ready([pod]) and cluster.pods()[pod]["spec"]["nodeName"] != node, 180)
    settled(cluster)
    say(f"a machine dies: not ready after {noticed:.0f} s, its pod marked after {marked:.0f} s and not replaced until it is forced away; then ready on {cluster.pods()[pod]['spec']['nodeName']} after {again:.0f} s with its volume")
    cluster.agent.recover(node)
    wait_for("the node is ready", lambda: state() == "True", 60)
    # The same with a machine that comes back before anyone forces anything.
    node = cluster.pods()[CORE[2]]["spec"]["nodeName"]
    cluster.agent.lose(node)
    wait_for("the node is not ready", lambda: state() != "True", 120)
    cluster.agent.recover(node)
    again = wait_for("the pod is ready with its machine", lambda: cluster.ready([CORE[2]]), 180)
    settled(cluster)
    say(f"a machine is back before its pods are given up: its core pod is ready after {again:.0f} s")
    say("devices meanwhile: " + cluster.check(fleet))


def rollback(cluster):
    """An image that does not exist: the upgrade's hook meets it first, and no pod is touched. Without hooks the rollout stops at its first pod, and `helm
    rollback` heals it, without any pod deleted by hand."""
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "300s")
    settled(cluster)
    fleet = cluster.fleet(90, "back-")
    typo = [*RETENTION, "--set", "image.tag=0.1.0-typo", "--set", "config.partition.retention=3d"]
    before = uids(cluster)
    refusal = ""
    try:
        cluster.upgrade(*typo, "--timeout", "15s")
    except RuntimeError as error:
        refusal = str(error).strip().splitlines()[-1]
    assert refusal and before == uids(cluster), refusal
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "300s")
    assert before == uids(cluster), "nothing has changed"
    say(f"an image that does not exist, with a credential: \"{refusal[-120:]}\", and no pod is touched")
    watch = Watcher(cluster, CORE)
    cluster.upgrade(*typo, "--no-hooks")
    waiting = lambda: any("ImagePullBackOff" in str(one.get("state")) for pod in cluster.pods().values() for one in pod.get("status", {}).get("initContainerStatuses", []))
    wait_for("a pod waits for its image", waiting, 120)
    time.sleep(15)
    away = [name for name in CORE if not cluster.is_ready(cluster.pods()[name])]
    assert away == [CORE[2]], away
    begun = time.monotonic()
    cluster.helm("rollback", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "300s")
    settled(cluster)
    seconds = time.monotonic() - begun
    seen = watch.stop()
    assert watch.most_away <= 1, seen
    say(f"the same without hooks: the rollout stops at {CORE[2]}; helm rollback has all pods ready after {seconds:.0f} s, none deleted by hand; {seen}")
    say("devices meanwhile: " + cluster.check(fleet))


def uids(cluster):
    return {name: pod["metadata"]["uid"] for name, pod in (cluster.pods() | cluster.pods("gateway")).items()}


def autoscale(cluster):
    """The autoscaler of Kubernetes scales gateways out and in by their connections."""
    Metrics(cluster.api, cluster.plane, cluster.agent, cluster.measure)
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "300s")
    settled(cluster)
    options = [*RETENTION, *(part for value in ("enabled=true", "minReplicas=2", "maxReplicas=4", "targetSessions=10", "scaleInPeriodSeconds=15") for part in ("--set", f"gateway.autoscaling.{value}"))]
    wanted = set()
    Informer(cluster.api, f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets", lambda _, one: one["metadata"]["name"] == f"{NAME}-gateway" and wanted.add(one["spec"]["replicas"]))
    cluster.upgrade(*options)
    scaler = lambda: cluster.api.get(f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/{NAME}-gateway").get("status", {})
    works = lambda: any(one["type"] == "ScalingActive" and one["status"] == "True" for one in scaler().get("conditions", []))
    wait_for("the autoscaler has its metrics", works, 120)
    time.sleep(10)
    assert wanted == {2}, f"switching the autoscaler on makes it {wanted} gateways"
    begun = time.monotonic()
    short, long = cluster.fleet(60, "storm-", 30), cluster.fleet(170, "calm-", 12)
    wait_for("four gateways", lambda: cluster.ready([f"{NAME}-gateway-{n}" for n in range(4)], "gateway"), 120)
    sessions = [one.get("pods", {}).get("current", {}).get("averageValue") for one in scaler().get("currentMetrics", [])]
    say(f"42 devices, 10 a gateway wanted: four gateways are ready {time.monotonic() - begun:.0f} s after the devices have begun to start (average then {sessions[0]})")
    cluster.upgrade(*options, "--set", "metrics.dashboards.enabled=false")
    assert len(cluster.pods("gateway")) == 4, "helm upgrade leaves the number to the autoscaler"
    text = cluster.check(short)
    gone = wait_for("two gateways again", lambda: set(cluster.pods("gateway")) == set(GATEWAYS), 180)
    wait_for("the others have left the hub", lambda: set(cluster.members()) == {*CORE, *GATEWAYS}, 60)
    say(f"30 of them end ({text}): two gateways again after {gone:.0f} s, one after the other; the others are no members any more")
    say("the other devices meanwhile: " + cluster.check(long))
    cluster.upgrade(*RETENTION, "--wait", "--timeout", "300s")
    settled(cluster)
