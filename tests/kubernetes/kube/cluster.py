"""A cluster for the scenarios of cluster.py: control plane, nodes, storage, Services, and helm and kubectl as people call them."""
import base64
import collections
import json
import os
import pathlib
import re
import shutil
import sys
import threading
import time
import urllib.request

from . import hub
from .containers import Network, run, wait_for
from .control import ControlPlane
from .node import Agent
from .services import DOMAIN, Services
from .storage import Storage

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "upgrade"))
import leaderless  # noqa: E402

CHART = pathlib.Path(__file__).resolve().parents[3] / "helm/holdfast"
VALUES = pathlib.Path(__file__).resolve().parents[1] / "pods-values.yaml"
NAMESPACE, RELEASE, NAME = hub.NAMESPACE, hub.RELEASE, hub.NAME
IMAGE = "holdfast:0.1.0"


class Cluster:
    def __init__(self, tools, holdfast, folder, zones=("zone-a", "zone-b", "zone-c"), nodes_per_zone=2):
        self.tools, self.folder, self.clients = tools, folder, 0
        self.network = Network()
        self.plane = ControlPlane(folder / "plane", tools, self.network.gateway)
        self.seconds = self.plane.up()
        self.api = self.plane.api
        (folder / "resolv.conf").write_text(f"nameserver {self.network.gateway}\nsearch {NAMESPACE}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n")
        self.storage = Storage(self.api, folder / "volumes")
        self.services = Services(self.api, self.network, {hub.HOST: (NAMESPACE, NAME)})
        self.agent = Agent(self.api, self.plane, self.network, folder, self.storage, {IMAGE: pathlib.Path(holdfast).resolve()})
        self.agent.start(zones, nodes_per_zone)
        self.variables = os.environ | {"KUBECONFIG": str(self.plane.kubeconfig), "HOME": str(folder), "HELM_CACHE_HOME": str(folder / "helm"), "HELM_CONFIG_HOME": str(folder / "helm"), "HELM_DATA_HOME": str(folder / "helm")}

    # As people do -----------------------------------------------------------------------------------------------------------------------
    def kubectl(self, *arguments, stdin=None):
        return run(self.tools["kubectl"], *arguments, env=self.variables, input=stdin)

    def helm(self, *arguments):
        return run(self.tools["helm"], *arguments, env=self.variables)

    def install(self, *options, release=RELEASE, namespace=NAMESPACE, values=VALUES, command="install"):
        """`helm install` or `helm upgrade`; returns the seconds that it took."""
        begun = time.monotonic()
        self.helm(command, release, CHART, "--namespace", namespace, "--values", values, *options)
        return time.monotonic() - begun

    def upgrade(self, *options, **where):
        return self.install("--set", "founding.enabled=false", *options, command="upgrade", **where)

    def refused(self, *command):
        """The message of a command that fails."""
        try:
            answer = run(*command, env=self.variables)
        except RuntimeError as error:
            return str(error)
        raise AssertionError(f"accepted: {command}: {answer[-300:]}")

    def definitions(self):
        """The custom resource definitions that were given, once."""
        for folder in self.crds:
            self.kubectl("apply", "--server-side", "-f", folder)
        if self.crds:
            self.kubectl("wait", "--for=condition=Established", "--timeout=120s", "crd", "--all")

    def namespace(self, name):
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")

    def secret(self, name, data, namespace=NAMESPACE):
        self.api.post(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}, "data": {key: base64.b64encode(value).decode() for key, value in data.items()}})

    # What is there ------------------------------------------------------------------------------------------------------------------------
    def pods(self, component="core", namespace=NAMESPACE):
        """The pods of a component, as the API server has them, by name."""
        made = {}
        for pod in self.agent.known.all():
            meta = pod["metadata"]
            if meta["namespace"] == namespace and meta.get("labels", {}).get("app.kubernetes.io/component") == component:
                made[meta["name"]] = pod
        return made

    @staticmethod
    def is_ready(pod):
        return not pod["metadata"].get("deletionTimestamp") and any(one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", []))

    def ready(self, names, component="core", namespace=NAMESPACE):
        pods = self.pods(component, namespace)
        return all(name in pods and self.is_ready(pods[name]) for name in names)

    def events(self, pod, namespace=NAMESPACE):
        found = self.api.get(f"/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name%3D{pod}")["items"]
        return [f"{one['reason']}: {one['message']}" for one in found]

    def message(self, pod, namespace=NAMESPACE):
        """What `kubectl describe pod` shows of the last container that has failed."""
        status = (self.api.find(f"/api/v1/namespaces/{namespace}/pods/{pod}") or {}).get("status", {})
        for one in status.get("containerStatuses", []) + status.get("initContainerStatuses", []):
            for state in (one.get("state", {}), one.get("lastState", {})):
                if state.get("terminated", {}).get("exitCode"):
                    return state["terminated"].get("message", f"exit code {state['terminated']['exitCode']}")
        return ""

    def log(self, pod, container, namespace=NAMESPACE):
        file = self.folder / "logs" / f"{namespace}_{pod}_{container}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    # The hub ------------------------------------------------------------------------------------------------------------------------------
    def cli(self, *arguments, pod=f"{NAME}-0", namespace=NAMESPACE, seconds=120):
        """`kubectl exec POD -- holdfast …`: exit code and output."""
        found = self.agent.named(pod, namespace)
        if not found or not found.containers[0].process:
            return 1, f"{pod} does not run"
        return found.execute("/usr/local/bin/holdfast", *arguments, seconds=seconds)

    def members(self, pod=f"{NAME}-0"):
        code, text = self.cli("node", "list", "-o", "json", pod=pod)
        return {node["name"]: node for node in json.loads(text)} if code == 0 else {}

    def status(self, pod=f"{NAME}-0", namespace=NAMESPACE):
        code, text = self.cli("cluster", "status", "--json", pod=pod, namespace=namespace)
        return json.loads(text) if code == 0 else {"healthy": False}

    def leaders(self):
        """How many partitions each node leads, by its name."""
        found = self.status()
        names = {node["id"]: node["name"] for node in found.get("nodes", [])}
        return collections.Counter(names.get(group.get("leader")) for group in found.get("groups", []) if group.get("partition") is not None)

    def healthy(self, pod=f"{NAME}-0"):
        return self.status(pod)["healthy"]

    def owner(self):
        """The connection string of the owner, by the name of the Service of core nodes, as docs/kubernetes.md reads it."""
        code, text = self.agent.named(f"{NAME}-0").execute("cat", "/run/holdfast/connection.json")
        assert code == 0, text
        return json.loads(text)["owner"]

    def login(self):
        return re.sub("HostName=[^;]*", f"HostName={NAME}-core.{NAMESPACE}.svc", self.owner())

    def client(self, arguments, variables):
        """`holdfast …` in a pod of its own, to its end: exit code and output. Nothing of the chart matters to it but the CA's Secret."""
        self.clients += 1
        name = f"client-{self.clients}"
        self.api.post(f"/api/v1/namespaces/{NAMESPACE}/pods", {"metadata": {"name": name, "labels": {"app": "devices"}}, "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "devices", "image": IMAGE, "args": arguments, "env": [{"name": key, "value": value} for key, value in variables.items()],
                            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "ca", "mountPath": "/etc/holdfast/ca", "readOnly": True}]}],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "ca", "secret": {"secretName": "hub-tls", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}})
        pod = None
        while not pod or pod["status"].get("phase") not in ("Succeeded", "Failed"):
            time.sleep(0.5)
            pod = self.agent.known.objects.get((NAMESPACE, name))
        code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        text = self.log(name, "devices")
        self.api.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}", gracePeriodSeconds=0)
        return code, text

    def fleet(self, messages, prefix, devices=20):
        """Devices under load, from the moment on at which all of them send."""
        before = self.clients
        made = hub.Fleet(self.client, self.owner(), devices, messages, prefix)
        sends = lambda: self.clients > before and re.search(rf"fleet: {devices} connected, [1-9]", self.log(f"client-{before + 1}", "devices"))
        wait_for("devices send", lambda: sends() or made.ended, 60)
        return made

    def check(self, fleet):
        return fleet.check(lambda: self.cli("monitor-events", "--from=oldest", "--timeout=10", "--output=json", seconds=300)[1])

    def measure(self, pod):
        """A pod's metrics, or None."""
        try:
            with urllib.request.urlopen(f"http://{pod.ip}:9600/metrics", timeout=2) as answer:
                return answer.read().decode()
        except OSError:
            return None

    def down(self, keep):
        self.agent.stop()
        self.plane.down()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


class Watcher:
    """Looks at the hub five times a second while something happens: pods that are not ready at once, and the hub's own histogram of how long partitions
    were without a leader. A process's histogram ends with it: what it counts after the last look, its own last hand-overs, is not in the sum."""

    def __init__(self, cluster, core):
        self.cluster, self.core, self.most_away = cluster, core, 0
        self.first, self.last = {}, {}
        self.read()
        self.first = dict(self.last)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def read(self):
        """The histograms by process."""
        for name in self.core:
            pod = self.cluster.agent.named(name)
            process = pod and pod.containers and pod.containers[0].process
            text = process and self.cluster.measure(pod)
            if text and pod.containers[0].process is process:
                self.last[name, process.pid] = leaderless.histogram(text)

    def look(self):
        while not self.over.is_set():
            pods = self.cluster.pods()
            self.most_away = max(self.most_away, sum(name not in pods or not self.cluster.is_ready(pods[name]) for name in self.core))
            self.read()
            self.over.wait(0.1)

    def times(self):
        """What each process has counted meanwhile."""
        negative = lambda histogram: {cause: {bound: -count for bound, count in counts.items()} for cause, counts in histogram.items()}
        return [leaderless.added([last, negative(self.first.get(process, {}))]) for process, last in self.last.items()]

    def median(self):
        return leaderless.median_of(self.times())

    def stop(self):
        self.over.set()
        self.thread.join()
        self.read()
        return f"at most {self.most_away} core pod not ready at once; partitions without a leader, by replica: {leaderless.described(self.times())}"
