#!/usr/bin/env python3
"""The chart on a real control plane: cluster.py --tools DIR --holdfast BINARY [--crds DIR…] [SCENARIO…]

etcd, kube-apiserver, kube-controller-manager and kube-scheduler run as they are; helm and kubectl are called as people call them; the pods that the
scheduler binds are run as processes by an agent (kube/node.py). Each scenario says what it saw, with figures; the first that fails ends the run.

As root, in namespaces of its own, which it makes; it needs openssl, iproute2 and util-linux, and PyYAML. kube/ has what is not real: containers
without a runtime, Services, names, volumes.
"""
import argparse
import os
import pathlib
import sys
import tempfile
import time
import traceback

from kube import bad, certs, scenarios, versions
from kube.cluster import Cluster
from kube.containers import apart, say

SCENARIOS = {one.__name__: one for one in (
    scenarios.apply, versions.new_version, certs.cert_manager, scenarios.install, scenarios.gateways, scenarios.rolling, scenarios.scale, scenarios.evict, scenarios.node_loss, scenarios.rollback, scenarios.autoscale,
    bad.missing_secrets, bad.same_names, bad.kubectl_scale, bad.foreign_volume, bad.early_upgrade, versions.old_version)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", type=pathlib.Path, required=True, help="folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and helm")
    parser.add_argument("--holdfast", required=True)
    parser.add_argument("--old", help="an older binary: what an older image has")
    parser.add_argument("--crds", action="append", default=[], type=pathlib.Path, help="folder with custom resource definitions")
    parser.add_argument("scenario", nargs="*", default=list(SCENARIOS))
    options = parser.parse_args()
    unknown = [name for name in options.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {unknown[0]}; there are {', '.join(SCENARIOS)}")
    apart("CLUSTER_INSIDE")
    tools = {name: options.tools / name for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "helm")}
    if (options.tools / "certificates").exists():
        tools["certificates"] = options.tools / "certificates"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-cluster-"))
    os.chmod(folder, 0o755)
    begun, keep, cluster = time.monotonic(), True, None
    try:
        cluster = Cluster(tools, options.holdfast, folder)
        cluster.crds, cluster.old = options.crds, options.old
        say(f"control plane: kube-apiserver is ready after {cluster.seconds:.0f} s, nodes are {', '.join(cluster.agent.nodes)} in three zones")
        for name in options.scenario:
            start = time.monotonic()
            say(f"--- {name}")
            SCENARIOS[name](cluster)
            say(f"    ({time.monotonic() - start:.0f} s)")
        assert not cluster.agent.faults, cluster.agent.faults
        say(f"passed, {time.monotonic() - begun:.0f} s; memory of the control plane in MiB: {cluster.plane.memory()}")
        keep = False
    except BaseException as error:
        say(f"FAILED: {error!r}")
        traceback.print_exc()
        if cluster:
            explain(cluster)
        raise SystemExit(1) from None
    finally:
        if cluster:
            cluster.down(keep)
        if keep:
            say(f"logs are in {folder}")


def explain(cluster):
    """What one would look at."""
    for command in (["get", "pods,pvc,jobs", "-A", "-o", "wide"], ["get", "events", "-A", "--sort-by=.lastTimestamp"]):
        try:
            print("\n".join(cluster.kubectl(*command).splitlines()[-40:]), file=sys.stderr)
        except RuntimeError as error:
            print(error, file=sys.stderr)
    for log in sorted((cluster.folder / "logs").iterdir()):
        print(f"{log.name}:", *(f"    {line[:240]}" for line in log.read_text(errors="replace").splitlines()[-6:]), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
