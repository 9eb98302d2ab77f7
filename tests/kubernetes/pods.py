#!/usr/bin/env python3
"""Runs the pods of the rendered chart as processes, and what happens to a hub in a year: pods.py HELM HOLDFAST [SCENARIO…]

Not a kubelet: it does what a pod's containers can notice. Each pod has a network namespace with an address, names of pods and Services in
/etc/hosts, a root file system that is read-only, the volumes of its manifest with the owners and modes that Kubernetes gives them, the variables
of its manifest, a user without capabilities; init containers run first, readiness is probed, a stop is SIGTERM and then SIGKILL after the grace
period. The Service is a proxy to the pods that are ready. A StatefulSet is started in parallel, and restarted one pod after the other.
Not here: API server, scheduler, controllers, budgets, a container runtime.

As root, in a network namespace of its own, which it makes; it needs openssl, iproute2 and util-linux, and PyYAML.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import yaml

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parents[1] / "helm/holdfast"
NAMESPACE, RELEASE, NAME = "iot", "fleet", "fleet-holdfast"
USER = 10001
SERVICES = {NAME: "10.77.0.250", f"{NAME}-core": "10.77.0.251"}


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options).stdout


def wait_for(what, condition, seconds=120):
    """Polls until `condition` is true; returns the seconds that it took."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if condition():
            return time.monotonic() - begun
        time.sleep(0.2)
    raise SystemExit(f"pods: not within {seconds} s: {what}")


class Cluster:
    """The objects of the release, Secrets, volumes and running pods."""

    def __init__(self, helm, holdfast, folder):
        self.helm, self.folder, self.pods, self.addresses, self.secrets, self.jobs = helm, folder, {}, {}, {}, 0
        self.binary = folder / "holdfast"
        shutil.copy(holdfast, self.binary)
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "pods", "type", "bridge")
        run("ip", "addr", "add", "10.77.0.1/24", "dev", "pods")
        run("ip", "link", "set", "pods", "up")
        self.name(f"127.0.0.1 localhost\n{SERVICES[NAME]} hub.example.com")
        for service, address in SERVICES.items():
            run("ip", "addr", "add", f"{address}/32", "dev", "pods")
            self.name(f"{address} {service}.{NAMESPACE}.svc")
            for port, target in ((8883, 8883), (5671, 5671), (443, 8443)):
                threading.Thread(target=self.serve, args=(service, port, target), daemon=True).start()

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

    def serve(self, service, port, target):
        listener = socket.create_server((SERVICES[service], port), backlog=256)
        turn = 0
        while True:
            client, _ = listener.accept()
            ready = self.backends(service)
            turn += 1
            if ready:
                threading.Thread(target=forward, args=(client, ready[turn % len(ready)].ip, target), daemon=True).start()
            else:
                client.close()

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

    def client(self, *arguments, **environment):
        """`holdfast …` in a pod of its own, which reaches the hub by the Service: its exit code and output."""
        template = self.objects["Pod", f"{NAME}-test-connect"]
        self.jobs += 1
        container = template["spec"]["containers"][0] | {"args": list(arguments), "env": [{"name": key, "value": value} for key, value in environment.items()]}
        return Pod(self, f"client-{self.jobs}", template, zone="a").run_once(container)

    def cli(self, *arguments, pod=f"{NAME}-0"):
        """`kubectl exec POD -- holdfast …`"""
        return self.pods[pod].execute(["/usr/local/bin/holdfast", *arguments])

    def members(self, pod=f"{NAME}-0"):
        return {node["name"]: node for node in json.loads(self.cli("node", "list", "-o", "json", pod=pod)[1])}

    def healthy(self, pod=f"{NAME}-0"):
        code, text = self.cli("cluster", "status", "--json", pod=pod)
        return code == 0 and json.loads(text)["healthy"]


def forward(client, host, port):
    with contextlib.suppress(OSError), client, socket.create_connection((host, port), timeout=5) as server:
        ends = {client: server, server: client}
        for end in ends:
            end.settimeout(None)
        while True:
            for end in select.select(list(ends), [], [])[0]:
                data = end.recv(65536)
                if not data:
                    return
                ends[end].sendall(data)


class Pod:
    def __init__(self, cluster, name, template, zone):
        self.cluster, self.name, self.zone, self.spec = cluster, name, zone, template["spec"]
        self.labels = template["metadata"]["labels"]
        self.ip = cluster.address(name)
        self.folder = cluster.folder / "pods" / f"{name}-{time.monotonic_ns()}"
        self.ready = self.stopping = False
        self.process, self.restarts, self.said = None, 0, ""
        self.network = f"hfk-{os.getpid()}-{self.ip.rsplit('.', 1)[1]}"

    # What a pod is made of ----------------------------------------------------------------------------------------------------------
    def value(self, entry):
        source = entry.get("valueFrom")
        if not source:
            return entry["value"]
        if "configMapKeyRef" in source:
            return self.cluster.objects["ConfigMap", source["configMapKeyRef"]["name"]]["data"][source["configMapKeyRef"]["key"]]
        path = source["fieldRef"]["fieldPath"]
        return {"metadata.name": self.name, "metadata.labels['topology.kubernetes.io/zone']": f"zone-{self.zone}"}[path]

    def environment(self, container):
        made = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for entry in container.get("env", []):
            made[entry["name"]] = re.sub(r"\$\((\w+)\)", lambda found: made.get(found[1], found[0]), self.value(entry))
        return made

    def volume(self, volume):
        """A folder with the volume's content; None while a Secret is missing."""
        folder = self.folder / "volumes" / volume["name"]
        if volume["name"] == "data" and "emptyDir" not in volume:
            folder = self.cluster.folder / "claims" / f"data-{self.name}"
        if folder.exists():
            return folder
        files, mode = {}, 0o644
        if "configMap" in volume:
            files = {key: text.encode() for key, text in self.cluster.objects["ConfigMap", volume["configMap"]["name"]]["data"].items()}
        elif "secret" in volume:
            source = volume["secret"]
            content = self.cluster.secrets.get(source["secretName"])
            if content is None and not source.get("optional"):
                return None
            files, mode = content or {}, source.get("defaultMode", 0o644)
            if "items" in source and files:
                files = {item["path"]: files[item["key"]] for item in source["items"]}
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
            os.chown(folder / name, 0, USER)
            # As the kubelet does for fsGroup.
            os.chmod(folder / name, mode | 0o440)
        os.chown(folder, 0, USER)
        os.chmod(folder, 0o2775)
        return folder

    def command(self, container, volumes):
        """The shell that makes the container's root, mounts, user and then itself the process."""
        base = self.folder / f"root-{container['name']}-{self.restarts}"
        for part in ("upper/usr/local/bin", "upper/etc/holdfast", "upper/var/lib/holdfast", "upper/run/holdfast", "work", "root"):
            (base / part).mkdir(parents=True, exist_ok=True)
        shutil.copy(self.cluster.binary, base / "upper/usr/local/bin/holdfast")
        (base / "upper/etc/hosts").touch()
        root = base / "root"
        steps = [f"mount -t overlay overlay -o lowerdir=/,upperdir={base}/upper,workdir={base}/work {root}"]
        for mount in container.get("volumeMounts", []):
            (base / "upper" / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        for mount in container.get("volumeMounts", []):
            target = f"{root}{mount['mountPath']}"
            assert "subPath" not in mount
            steps.append(f"mount --bind {volumes[mount['name']]} {target}")
            if mount.get("readOnly"):
                steps.append(f"mount -o remount,bind,ro {target}")
        steps += [f"mount --bind {self.cluster.folder}/hosts {root}/etc/hosts", f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev", f"mount -o remount,ro {root}"]
        inside = container.get("command", ["/usr/local/bin/holdfast"]) + container.get("args", [])
        environment = self.environment(container)
        inside = [re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), part) for part in inside]
        quoted = " ".join("'" + part.replace("'", "'\\''") + "'" for part in inside)
        steps.append(f"exec chroot {root} setpriv --reuid {USER} --regid {USER} --groups {USER} --inh-caps=-all --bounding-set=-all --no-new-privs {quoted}")
        return ["ip", "netns", "exec", self.network, "unshare", "--mount", "sh", "-ec", " && ".join(steps)], environment

    def connect(self):
        if self.network in run("ip", "netns", "list"):
            return
        end = f"p{self.ip.rsplit('.', 1)[1]}"
        run("ip", "netns", "add", self.network)
        run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", self.network)
        run("ip", "link", "set", end, "master", "pods", "up")
        for command in (("link", "set", "lo", "up"), ("addr", "add", f"{self.ip}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            run("ip", "netns", "exec", self.network, "ip", *command)

    def mounted(self):
        """The volumes by name, or None while one waits for its Secret."""
        wanted = [*self.spec["volumes"]]
        if any(mount["name"] == "data" for container in self.spec["containers"] for mount in container["volumeMounts"]):
            wanted.append({"name": "data"})
        made = {volume["name"]: self.volume(volume) for volume in wanted}
        return None if None in made.values() else made

    # Its life -------------------------------------------------------------------------------------------------------------------------
    def start(self):
        threading.Thread(target=self.live, daemon=True).start()

    def live(self):
        self.connect()
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
                self.ready = self.probe(container["readinessProbe"])
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
        self.connect()
        return self.once(container, self.mounted())

    def probe(self, probe):
        port = {"ops": 9600}[probe["httpGet"]["port"]]
        with contextlib.suppress(OSError, urllib.error.URLError):
            with urllib.request.urlopen(f"http://{self.ip}:{port}{probe['httpGet']['path']}", timeout=probe["timeoutSeconds"]) as answer:
                return answer.status == 200
        return False

    def execute(self, command):
        """In the container, as kubectl exec does: its namespaces, its variables."""
        [container] = self.spec["containers"]
        enter = ["nsenter", "--target", str(self.process.pid), "--mount", "--net", "--root", "setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
        done = subprocess.run(enter + command, env=self.environment(container), capture_output=True, text=True)
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr

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
        return self.process.returncode if self.process else 0

    def kill(self):
        """The machine dies."""
        self.stopping = True
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.ready = False


class Fleet:
    """Devices that send one message a second each, and what they have got acknowledged: `holdfast simulate` counts a message once it is."""

    DEVICES, MESSAGES = 20, 110

    def __init__(self, cluster, owner):
        self.cluster = cluster
        arguments = ["simulate", f"--devices={self.DEVICES}", "--interval=1", f"--messages={self.MESSAGES}", "--ca-file=/etc/holdfast/ca/ca.crt"]
        self.thread = threading.Thread(target=lambda: setattr(self, "ended", cluster.client(*arguments, HOLDFAST_LOGIN=owner)), daemon=True)
        self.thread.start()

    def check(self):
        """Each acknowledged message is read from the log, and the messages of a device are in order."""
        self.thread.join(300)
        code, text = self.ended
        assert code == 0, text[-2000:]
        _, text = self.cluster.cli("monitor-events", "--from=oldest", "--timeout=10", "--output=json")
        seen = {}
        for line in text.splitlines():
            if line.startswith("{"):
                event = json.loads(line)["event"]
                seen.setdefault(event["origin"], []).append(event["payload"]["message"])
        lost = [(device, n) for device in seen for n in range(1, self.MESSAGES + 1) if n not in seen[device]]
        assert len(seen) == self.DEVICES and not lost, (len(seen), lost[:10])
        repeated = sum(len(numbers) - self.MESSAGES for numbers in seen.values())
        assert all(list(dict.fromkeys(numbers)) == sorted(set(numbers)) for numbers in seen.values()), "out of order"
        ends = len(re.findall(r"^sim-\d+: ", self.ended[1], re.M))
        return f"{self.DEVICES * self.MESSAGES} messages acknowledged, 0 lost, {repeated} repeated, in order; {ends} connections ended meanwhile"


def certificates(folder):
    """The Secrets that docs/kubernetes.md has a platform engineer make: server certificate, certificates of nodes, sealing key, join tokens."""
    nodes = [f"{NAME}-{n}" for n in range(6)] + [f"{NAME}-gateway-{n}" for n in range(4)]

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
        "hub-tls": secret("hub", ["hub.example.com", *(f"{service}.{NAMESPACE}.svc" for service in SERVICES)], "serverAuth"),
        "hub-peer": secret("nodes", ["peer.holdfast", *(f"{node}.peer.holdfast" for node in nodes)], "serverAuth,clientAuth"),
        f"{NAME}-sealing-key": {"sealing.key": digits()},
        f"{NAME}-join": {f"{NAME}-1": digits(), f"{NAME}-2": digits()},
    }


def say(text):
    print(f"pods: {text}", flush=True)


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

    fleet = Fleet(cluster, owner)
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

    say("devices during all that: " + fleet.check())

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
    if os.environ.get("PODS_INSIDE") != "1":
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], os.environ | {"PODS_INSIDE": "1"})
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
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
        for name in run("ip", "netns", "list").split("\n"):
            if name.startswith(f"hfk-{os.getpid()}-"):
                run("ip", "netns", "del", name.split()[0])
        if keep:
            say(f"logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


main()
