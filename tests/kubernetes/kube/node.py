"""The node agent of the test: nodes that the API server believes in, and the pods that the scheduler binds to them.

One process has all nodes: objects with zones and capacity, leases that say they live, and for each bound pod a pod.Pod. It also serves the logs of pods,
as a kubelet does for `kubectl logs`. A node can be lost: its lease is not renewed, its processes are killed, and nothing is said of its pods until
it is back; then they are started again with what is on its disk.
Not here: exec and port-forward of the kubelet's API (`execute` of a pod does the first), eviction for lack of memory or disk, static pods.
"""
import contextlib
import datetime
import http.server
import shutil
import socketserver
import ssl
import threading
import time
import urllib.parse

from .control import ApiError, Informer
from .pod import Pod, now

LEASE_SECONDS = 5


class Node:
    def __init__(self, name, zone, address):
        self.name, self.zone, self.address, self.lost = name, zone, address, False


class Agent:
    def __init__(self, api, plane, network, folder, storage, images):
        """`images`: the binary of the hub by the image's reference; "*" is for all others, if it is there."""
        self.api, self.network, self.folder, self.storage, self.images = api, network, folder, storage, images
        self.nodes, self.pods, self.faults, self.serial, self.lock = {}, {}, [], 0, threading.RLock()
        (folder / "logs").mkdir()
        self.resolve = folder / "resolv.conf"
        self.serve_logs(plane)
        threading.Thread(target=self.live, daemon=True).start()

    def start(self, zones, per_zone):
        for place in range(len(zones) * per_zone):
            name, zone = f"node-{place}", zones[place % len(zones)]
            address = f"10.77.1.{place + 1}"
            self.network.address(address)
            self.nodes[name] = Node(name, zone, address)
            self.register(self.nodes[name])
        self.known = Informer(self.api, "/api/v1/pods", self.changed)
        for path in ("/api/v1/secrets", "/api/v1/configmaps"):
            Informer(self.api, path, self.refresh)

    # Nodes ------------------------------------------------------------------------------------------------------------------------------
    def register(self, node):
        labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "topology.kubernetes.io/zone": node.zone, "topology.kubernetes.io/region": "here"}
        self.api.post("/api/v1/nodes", {"metadata": {"name": node.name, "labels": labels}})
        self.report(node)

    def report(self, node):
        amount = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi"}
        stamp = now()
        state = lambda kind, value: {"type": kind, "status": value, "reason": "Test", "message": "", "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
        self.api.patch(f"/api/v1/nodes/{node.name}/status", {"status": {
            "capacity": amount, "allocatable": amount, "addresses": [{"type": "InternalIP", "address": node.address}, {"type": "Hostname", "address": node.name}],
            "conditions": [state("Ready", "True"), state("MemoryPressure", "False"), state("DiskPressure", "False"), state("PIDPressure", "False")],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}, "nodeInfo": {
                "machineID": node.name, "systemUUID": node.name, "bootID": node.name, "kernelVersion": "test", "osImage": "test", "containerRuntimeVersion": "test://1",
                "kubeletVersion": "v1.37.2", "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64"}}})

    def lease(self, node):
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        spec = {"holderIdentity": node.name, "leaseDurationSeconds": 40, "renewTime": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
        try:
            self.api.patch(f"{path}/{node.name}", {"spec": spec}, "merge-patch")
        except ApiError as error:
            if error.status != 404:
                raise
            self.api.post(path, {"metadata": {"name": node.name}, "spec": spec})

    def live(self):
        while True:
            for node in list(self.nodes.values()):
                if not node.lost:
                    with contextlib.suppress(ApiError, OSError):
                        self.lease(node)
            for pod in list(self.pods.values()):
                with contextlib.suppress(ApiError, OSError):
                    pod.publish()
            time.sleep(LEASE_SECONDS)

    def lose(self, name):
        node = self.nodes[name]
        node.lost = True
        with self.lock:
            for uid in [uid for uid, pod in self.pods.items() if pod.node is node]:
                self.pods.pop(uid).crash()

    def recover(self, name):
        node = self.nodes[name]
        node.lost = False
        self.lease(node)
        self.report(node)
        for manifest in self.known.all():
            self.changed("MODIFIED", manifest)

    # Pods -------------------------------------------------------------------------------------------------------------------------------
    def changed(self, kind, manifest):
        node = self.nodes.get(manifest["spec"].get("nodeName"))
        if not node or node.lost:
            return
        with self.lock:
            pod = self.pods.get(manifest["metadata"]["uid"])
            if kind == "DELETED":
                if pod:
                    pod.force()
            elif pod and manifest["metadata"].get("deletionTimestamp"):
                pod.delete(manifest)
            elif not pod and manifest.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                pod = self.pods[manifest["metadata"]["uid"]] = Pod(self, node, manifest)
                if manifest["metadata"].get("deletionTimestamp"):
                    pod.delete(manifest)

    def refresh(self, kind, thing):
        if kind == "MODIFIED":
            for pod in list(self.pods.values()):
                if pod.namespace == thing["metadata"]["namespace"]:
                    pod.refresh(thing["metadata"]["name"])

    def gone(self, pod):
        with self.lock:
            self.pods.pop(pod.uid, None)
        shutil.rmtree(pod.folder, ignore_errors=True)

    def named(self, name, namespace="iot"):
        """The pod of a name that runs here, or None."""
        found = [pod for pod in list(self.pods.values()) if pod.name == name and pod.namespace == namespace and not pod.stopping.is_set()]
        return found[-1] if found else None

    def address(self):
        with self.lock:
            self.serial += 1
            return f"10.77.{10 + self.serial // 250}.{self.serial % 250 + 1}"

    def files(self, image):
        binary = self.images.get(image, self.images.get("*"))
        return binary and {"/usr/local/bin/holdfast": binary, "/etc/resolv.conf": self.resolve}

    def event(self, manifest, kind, reason, message, node):
        meta, stamp = manifest["metadata"], now()
        with contextlib.suppress(ApiError, OSError):
            self.api.post(f"/api/v1/namespaces/{meta['namespace']}/events", {
                "metadata": {"generateName": f"{meta['name'][:40]}.", "namespace": meta["namespace"]}, "type": kind, "reason": reason, "message": message,
                "involvedObject": {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
                "source": {"component": "kubelet", "host": node}, "firstTimestamp": stamp, "lastTimestamp": stamp, "count": 1})

    # Logs -------------------------------------------------------------------------------------------------------------------------------
    def log(self, pod, container):
        return self.folder / "logs" / f"{pod.namespace}_{pod.name}_{container}.log"

    def serve_logs(self, plane):
        agent = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                where = urllib.parse.urlparse(self.path)
                parts, query = where.path.strip("/").split("/"), urllib.parse.parse_qs(where.query)
                file = agent.folder / "logs" / f"{'_'.join(parts[1:])}.log"
                if parts[0] != "containerLogs" or len(parts) != 4 or not file.exists():
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                with open(file, "rb") as text:
                    while True:
                        self.wfile.write(text.read())
                        running = agent.named(parts[2], parts[1])
                        if "follow" not in query or not running:
                            self.wfile.write(text.read())
                            return
                        time.sleep(0.3)

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True

        server = Server(("0.0.0.0", 10250), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(plane.folder / "test.crt", plane.folder / "test.key")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop(self):
        for pod in list(self.pods.values()):
            pod.crash()
