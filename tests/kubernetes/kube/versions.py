"""Two versions of the hub: an upgrade, the way back before the feature level is raised, and an old version over newer data.

They need an older binary, as that of an older image (HOLDFAST_OLD_BIN); without one they say that they were skipped.
"""
import time

from .cluster import NAMESPACE, RELEASE, Watcher
from .containers import say, wait_for
from .scenarios import CORE, CORE_ONLY, GATEWAYS, RETENTION, prepare, settled

OLD = "holdfast:0.0.1"


def new_version(cluster):
    """Three nodes of an old version are upgraded under load, taken back, and upgraded for good; then everything is uninstalled."""
    if not cluster.old:
        say("skipped: no older binary was given (HOLDFAST_OLD_BIN)")
        return
    cluster.agent.images[OLD] = cluster.old
    prepare(cluster)
    cluster.install(*CORE_ONLY, "--set", "image.tag=0.0.1", "--wait", "--timeout", "180s")
    wait_for("partitions have three replicas", cluster.healthy, 120)
    fleet = cluster.fleet(110, "version-")
    level = lambda: cluster.status().get("featureLevel", 0)
    levels = []
    for what, change in (("upgrade, the level kept", lambda: cluster.upgrade(*CORE_ONLY, "--set", "config.cluster.raise_feature_level=false", "--wait", "--timeout", "300s")),
                         ("helm rollback", lambda: cluster.helm("rollback", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "300s")),
                         ("upgrade for good", lambda: cluster.upgrade(*CORE_ONLY, "--wait", "--timeout", "300s"))):
        begun, watch = time.monotonic(), Watcher(cluster, CORE)
        change()
        settled(cluster)
        seen = watch.stop()
        assert watch.most_away <= 1, seen
        say(f"{what}: {time.monotonic() - begun:.0f} s; feature level {level()}; {seen}")
        levels.append(level())
    wait_for("the feature level is raised", lambda: level() > levels[0], 120)
    say(f"feature level {levels[0]} while it was kept, {level()} after the last upgrade; devices meanwhile: {cluster.check(fleet)}")
    cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait")
    kept = [claim["metadata"]["name"] for claim in cluster.storage.claims.all()]
    assert sorted(kept) == sorted(f"data-{name}" for name in CORE), "volumes stay after an uninstall"
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


def old_version(cluster):
    """An older binary over data of a newer feature level: the pod says what to do, the rollout stops, and going back heals it."""
    if not cluster.old:
        say("skipped: no older binary was given (HOLDFAST_OLD_BIN)")
        return
    cluster.agent.images[OLD] = cluster.old
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
