#!/usr/bin/env python3
"""Runs the pods of the rendered chart as processes, and what happens to a hub in a year: pods.py HELM HOLDFAST

Not a kubelet: it does what a pod's containers can notice (kube/containers.py), with names of pods and Services in /etc/hosts; init containers run
first, readiness is probed, a stop is SIGTERM and then SIGKILL after the grace period. The Service is a proxy to the pods that are ready. A
StatefulSet is started in parallel, and restarted one pod after the other.
Not here: API server, scheduler, controllers, budgets, a container runtime. cluster.py has all but the last.

As root, in namespaces of its own, which it makes; it needs openssl, iproute2 and util-linux, and PyYAML.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import yaml

from kube import containers
from kube.containers import Missing, Network, Sandbox, apart, proxy, run, say, wait_for
from kube.hub import HOST, NAME, NAMESPACE, RELEASE, Fleet, certificates

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parents[1] / "helm/holdfast"
SERVICES = {NAME: "10.77.0.250", f"{NAME}-core": "10.77.0.251"}


class Cluster:
    """The objects of the release, Secrets, volumes and running pods."""

    def __init__(self, helm, holdfast, folder):
        self.helm, self.folder, self.pods, self.addresses, self.secrets, self.jobs = helm, folder, {}, {}, {}, 0
        self.files = {"/etc/hosts": folder / "hosts", "/usr/local/bin/holdfast": pathlib.Path(holdfast).resolve()}
        self.network = Network()
        self.name(f"127.0.0.1 localhost\n{SERVICES[NAME]} {HOST}")
        for service, address in SERVICES.items():
            self.network.address(address)
            self.name(f"{address} {service}.{NAMESPACE}.svc")
            for port, target in ((8883, 8883), (5671, 5671), (443, 8443)):
                proxy(address, port, lambda service=service, target=target: [(pod.ip, target) for pod in self.backends(service)])

    # The release -------------------------------------------------------------------------------------------------------------------
    def render(self, *options):
        text = run(self.helm, "template", RELEASE, CHART, "--namespace", NAMESPACE, "--kube-version", "1.35.0", "--values", HERE / "pods-values.yaml", *options)
        self.objects = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text) if one}

    def stateful(self, name):
        return self.objects["StatefulSet", name]["spec"]

    def address(self, pod):
        if pod not in self.addresses:
            self.addresses[pod] = f"10.77.0.{len(self.addresses) + 10}"
            self.name(f"{self.addresses[pod]} {pod}.{NAME}-peers.{NAMESPACE}.svc.cluster.local")
        return self.addresses[pod]

    def name(self, line):
        """All pods have this file, as they would have one DNS; it only grows, so that no reader finds half of it."""
        with open(self.folder / "hosts", "a") as hosts:
            hosts.write(line + "\n")

    # The Service -------------------------------------------------------------------------------------------------------------------
    def backends(self, service):
        component = self.objects["Service", service]["spec"]["selector"]["app.kubernetes.io/component"]
        return [pod for pod in self.pods.values() if pod.ready and not pod.stopping and pod.labels["app.kubernetes.io/component"] == component]

    # Pods --------------------------------------------------------------------------------------------------------------------------
    def start_set(self, name, first=0):
        """All pods of a StatefulSet at once, as podManagementPolicy Parallel does."""
        spec = self.stateful(name)
        for ordinal in range(first, spec["replicas"]):
            pod = Pod(self, f"{name}-{ordinal}", spec["template"], zone="abc"[ordinal % 3])
            self.pods[pod.name] = pod
            pod.start()

    def roll(self, name):
        """One pod after the other, the last one first, each when the one before has been ready for minReadySeconds."""
        spec = self.stateful(name)
        for ordinal in reversed(range(spec["replicas"])):
            old = self.pods[f"{name}-{ordinal}"]
            old.stop()
            new = self.pods[old.name] = Pod(self, old.name, spec["template"], zone=old.zone)
            new.start()
            wait_for(f"{new.name} ready after its restart", lambda new=new: new.ready)
            time.sleep(spec["minReadySeconds"])

    def task(self, kind, name):
        """A Job or a test's pod, to its end; its exit code and output."""
        made = self.objects[kind, name]
        template = made["spec"]["template"] if kind == "Job" else made
        self.jobs += 1
        pod = Pod(self, f"{name}-{self.jobs}", template, zone="a")
        return pod.run_once(template["spec"]["containers"][0])

    def client(self, arguments, environment):
        """`holdfast …` in a pod of its own, which reaches the hub by the Service: its exit code and output."""
        template = self.objects["Pod", f"{NAME}-test-connect"]
        self.jobs += 1
        container = template["spec"]["containers"][0] | {"args": arguments, "env": [{"name": key, "value": value} for key, value in environment.items()]}
        return Pod(self, f"client-{self.jobs}", template, zone="a").run_once(container)

    def cli(self, *arguments, pod=f"{NAME}-0"):
        """`kubectl exec POD -- holdfast …`"""
        return self.pods[pod].execute(["/usr/local/bin/holdfast", *arguments])

    def members(self, pod=f"{NAME}-0"):
        return {node["name"]: node for node in json.loads(self.cli("node", "list", "-o", "json", pod=pod)[1])}

    def healthy(self, pod=f"{NAME}-0"):
        code, text = self.cli("cluster", "status", "--json", pod=pod)
        return code == 0 and json.loads(text)["healthy"]


class Pod:
    def __init__(self, cluster, name, template, zone):
        self.cluster, self.name, self.zone, self.spec = cluster, name, zone, template["spec"]
        self.labels = template["metadata"]["labels"]
        self.metadata = template["metadata"] | {"name": name, "labels": self.labels | {"topology.kubernetes.io/zone": f"zone-{zone}"}}
        self.ip = cluster.address(name)
        self.folder = cluster.folder / "pods" / f"{name}-{time.monotonic_ns()}"
        self.sandbox = Sandbox(cluster.network, self.spec, self.ip, self.folder)
        self.ready = self.stopping = False
        self.process, self.restarts, self.said = None, 0, ""

    # What a pod is made of ----------------------------------------------------------------------------------------------------------
    def data(self, kind, name):
        if kind == "Secret":
            return self.cluster.secrets.get(name)
        return {key: text.encode() for key, text in self.cluster.objects["ConfigMap", name]["data"].items()}

    def field(self, path):
        return containers.field_of(self.metadata, path)

    def value(self, entry):
        source = entry.get("valueFrom")
        if not source:
            return entry["value"]
        if "configMapKeyRef" in source:
            return self.data("ConfigMap", source["configMapKeyRef"]["name"])[source["configMapKeyRef"]["key"]].decode()
        return self.field(source["fieldRef"]["fieldPath"])

    def environment(self, container):
        return containers.environment(container, self.value)

    def volume(self, volume):
        """A folder with the volume's content; Missing while a Secret is not there."""
        folder = self.folder / "volumes" / volume["name"]
        if "emptyDir" in volume:
            containers.empty(folder, volume["emptyDir"], self.sandbox.volume_group)
        elif volume["name"] == "data":
            folder = self.cluster.folder / "claims" / f"data-{self.name}"
            folder.mkdir(parents=True, exist_ok=True)
            containers.own(folder, self.sandbox.volume_group)
        else:
            containers.fill(folder, containers.content(volume, self.data, self.field, None), self.sandbox.volume_group)
        return folder

    def command(self, container, volumes):
        environment = self.environment(container)
        return self.sandbox.command(container, self.restarts, self.cluster.files, volumes, environment), environment

    def mounted(self):
        """The volumes by name, or None while one waits for its Secret."""
        wanted = [*self.spec["volumes"]]
        if any(mount["name"] == "data" for container in self.spec["containers"] for mount in container["volumeMounts"]):
            wanted.append({"name": "data"})
        try:
            return {volume["name"]: self.volume(volume) for volume in wanted}
        except Missing:
            return None

    # Its life -------------------------------------------------------------------------------------------------------------------------
    def start(self):
        threading.Thread(target=self.live, daemon=True).start()

    def live(self):
        self.sandbox.connect()
        while (volumes := self.mounted()) is None:
            self.said = "waits for a Secret"
            if self.stopping:
                return
            time.sleep(0.5)
        for container in self.spec.get("initContainers", []):
            while self.once(container, volumes)[0] != 0:
                self.restarts += 1
                time.sleep(1)
                if self.stopping:
                    return
        [container] = self.spec["containers"]
        while not self.stopping:
            command, environment = self.command(container, volumes)
            log = open(self.cluster.folder / f"{self.name}.log", "ab")
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            while self.process.poll() is None:
                self.ready = self.sandbox.probe(container["readinessProbe"], container)[0]
                time.sleep(0.3)
            self.ready = False
            self.restarts += 1
            time.sleep(1)

    def once(self, container, volumes):
        command, environment = self.command(container, volumes)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.said = (done.stderr + done.stdout).strip()
        return done.returncode, self.said

    def run_once(self, container):
        self.sandbox.connect()
        try:
            return self.once(container, self.mounted())
        finally:
            self.sandbox.disconnect()

    def execute(self, command):
        return self.sandbox.execute(self.process.pid, command, self.environment(self.spec["containers"][0]))

    def stop(self):
        self.stopping = True
        grace = self.spec["terminationGracePeriodSeconds"]
        begun = time.monotonic()
        if self.process and self.process.poll() is None:
            time.sleep(self.spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"])
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(grace - (time.monotonic() - begun))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise SystemExit(f"pods: {self.name} did not stop within its grace period of {grace} s")
        self.ready = False
        self.sandbox.disconnect()
        return self.process.returncode if self.process else 0

    def kill(self):
        """The machine dies."""
        self.stopping = True
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.ready = False
        self.sandbox.disconnect()


def scenario(cluster):
    ready = lambda *names: lambda: all(cluster.pods[name].ready for name in names)
    core = [f"{NAME}-{n}" for n in range(5)]
    gateways = [f"{NAME}-gateway-{n}" for n in range(2)]
    cluster.render()
    cluster.start_set(NAME)
    cluster.start_set(f"{NAME}-gateway")
    seconds = wait_for("three core pods ready", ready(*core[:3]), 300)
    say(f"install: three core pods are ready after {seconds:.1f} s")
    assert all(cluster.pods[name].said == "waits for a Secret" for name in gateways), "gateways wait for the credential"
    wait_for("partitions have three replicas", cluster.healthy, 120)

    owner = json.loads(cluster.pods[core[0]].execute(["cat", "/run/holdfast/connection.json"])[1])["owner"]
    cluster.secrets["hub-admin"] = {"login": re.sub("HostName=[^;]*", f"HostName={NAME}-core.{NAMESPACE}.svc", owner).encode()}
    seconds = wait_for("gateways ready", ready(*gateways), 300)
    say(f"the credential: two gateways have joined after {seconds:.1f} s")
    members = cluster.members()
    assert {members[name]["role"] for name in gateways} == {"gateway"} and {members[name]["zone"] for name in core[:3]} == {"zone-a", "zone-b", "zone-c"}, members
    code, text = cluster.task("Pod", f"{NAME}-test-connect")
    assert code == 0, text
    say("helm test: " + text.splitlines()[-1])

    fleet = Fleet(cluster.client, owner)
    cluster.render("--set", "founding.enabled=false", "--set", "core.replicas=5")
    cluster.start_set(NAME, first=3)
    seconds = wait_for("five core pods ready", ready(*core), 300)
    # A replica of each partition in each zone: pods 0 and 3 share zone a, 1 and 4 zone b, and pod 2 is alone in zone c.
    spread = lambda: [cluster.members()[name]["replicas"] for name in core]
    wait_for("replicas on five nodes", lambda: cluster.healthy() and spread() == [4, 4, 8, 4, 4], 240)
    say(f"3 to 5: two pods are ready after {seconds:.1f} s; replicas {spread()} in the zones a b c a b")

    before = cluster.stateful(NAME)["template"]["metadata"]["annotations"]
    cluster.render("--set", "founding.enabled=false", "--set", "core.replicas=5", "--set", "config.partition.retention=2d")
    assert cluster.stateful(NAME)["template"]["metadata"]["annotations"] != before, "a change of config restarts pods"
    begun = time.monotonic()
    cluster.roll(NAME)
    cluster.roll(f"{NAME}-gateway")
    wait_for("healthy after the restart", cluster.healthy)
    say(f"rolling restart of five core pods and two gateways: {time.monotonic() - begun:.0f} s, each ready before the next")

    cluster.render("--set", "founding.enabled=false", "--set", "core.replicas=3", "--set", "config.partition.retention=2d")
    begun = time.monotonic()
    code, text = cluster.task("Job", f"{NAME}-scale-in")
    assert code == 0, text
    assert set(cluster.members()) == {*core[:3], *gateways}, cluster.members().keys()
    for name in (core[4], core[3]):
        cluster.pods.pop(name).stop()
    wait_for("healthy with three", cluster.healthy)
    say(f"5 to 3: drained, removed and healthy after {time.monotonic() - begun:.0f} s; {text.splitlines()[-1]}")
    code, text = cluster.task("Job", f"{NAME}-scale-in")
    assert code == 0 and "no member goes" in text, text

    say("devices during all that: " + fleet.check(lambda: cluster.cli("monitor-events", "--from=oldest", "--timeout=10", "--output=json")[1]))

    # An autoscaler takes a gateway away: it leaves, and joins anew when it comes back.
    cluster.pods[gateways[1]].stop()
    wait_for("the gateway has left", lambda: set(cluster.members()) == {*core[:3], gateways[0]} and cluster.healthy())
    cluster.start_set(f"{NAME}-gateway", first=1)
    seconds = wait_for("the gateway is ready again", ready(gateways[1]), 120)
    say(f"a gateway is scaled in and leaves; scaled out, it is ready after {seconds:.1f} s")
    # One is killed, and its volume is lost.
    cluster.pods[gateways[1]].kill()
    shutil.rmtree(cluster.folder / "claims" / f"data-{gateways[1]}")
    wait_for("the others notice", lambda: not cluster.members()[gateways[1]]["up"])
    cluster.start_set(f"{NAME}-gateway", first=1)
    seconds = wait_for("the gateway is ready with a new disk", ready(gateways[1]), 120)
    wait_for("healthy with the gateway", cluster.healthy)
    say(f"a gateway with a lost disk has joined again under its name after {seconds:.1f} s")

    # The machine of pod 0 and its disk are gone. Without founding it must join, not create another hub.
    cluster.pods[core[0]].kill()
    shutil.rmtree(cluster.folder / "claims" / f"data-{core[0]}")
    wait_for("the others notice", lambda: not cluster.members(core[1])[core[0]]["up"])
    # Refused until the partitions that it led have elected other leaders.
    wait_for("pod 0 removed", lambda: cluster.cli("node", "remove", core[0], "--dead", pod=core[1])[0] == 0)
    identity = json.loads(cluster.cli("cluster", "status", "--json", pod=core[1])[1])["cluster"]
    pod = cluster.pods[core[0]] = Pod(cluster, core[0], cluster.stateful(NAME)["template"], zone="a")
    pod.start()
    wait_for("pod 0 ready with a new disk", lambda: pod.ready, 300)
    wait_for("healthy with the new pod 0", cluster.healthy, 240)
    assert json.loads(cluster.cli("cluster", "status", "--json")[1])["cluster"] == identity, "another hub was created"
    say("pod 0 with a lost disk has joined its hub again")

    # All at once, as after an outage of the whole cluster.
    for name in [*core[:3], *gateways]:
        cluster.pods[name].kill()
    cluster.start_set(NAME)
    cluster.start_set(f"{NAME}-gateway")
    seconds = wait_for("all pods ready again", ready(*core[:3], *gateways), 300)
    say(f"outage of all pods: ready {seconds:.1f} s after their start")


def main():
    apart("PODS_INSIDE")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="holdfast-pods-"))
    os.chmod(folder, 0o755)
    cluster = Cluster(sys.argv[1], sys.argv[2], folder)
    keep = False
    try:
        cluster.secrets = certificates(folder)
        scenario(cluster)
        say("passed")
    except BaseException as error:
        keep = True
        say(f"FAILED: {error!r}")
        for pod in cluster.pods.values():
            log = folder / f"{pod.name}.log"
            say(f"{pod.name}: ready {pod.ready}, restarts {pod.restarts}, said {pod.said[-300:]!r}")
            if log.exists():
                print("\n".join("    " + line[:240] for line in log.read_text(errors="replace").splitlines()[-8:]))
        raise
    finally:
        for pod in cluster.pods.values():
            pod.kill()
        if keep:
            say(f"logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


main()
