"""What metrics-server and prometheus-adapter are in a cluster: metrics.k8s.io and custom.metrics.k8s.io, by which the autoscaler of Kubernetes scales.

The CPU of pods is read from their processes, sessions from the pods' own /metrics when the autoscaler asks. The API server reaches it as an
aggregated API, by a Service without a selector.
Not here: authentication of the API server, other metrics than gauges of a pod, values per object.
"""
import http.server
import json
import os
import re
import socketserver
import ssl
import threading
import time
import urllib.parse

from .pod import now

PORT = 6444
GROUPS = {"custom.metrics.k8s.io": "v1beta2", "metrics.k8s.io": "v1beta1"}


def matches(labels, selector):
    wanted = dict(part.split("=", 1) for part in selector.replace("==", "=").split(",") if "=" in part)
    return all(labels.get(key) == value for key, value in wanted.items())


class Metrics:
    def __init__(self, api, plane, agent, measure):
        self.agent, self.measure, self.before = agent, measure, {}
        self.serve(plane)
        namespace = "kube-system"
        api.post(f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": "metrics"}, "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]}})
        api.post(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", {
            "metadata": {"name": "metrics", "labels": {"kubernetes.io/service-name": "metrics"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [plane.address], "conditions": {"ready": True}}], "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}]})
        for group, version in GROUPS.items():
            api.post("/apis/apiregistration.k8s.io/v1/apiservices", {"metadata": {"name": f"{version}.{group}"}, "spec": {
                "group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": True, "service": {"namespace": namespace, "name": "metrics"}}})

    def pods(self, namespace, selector):
        return [pod for pod in list(self.agent.pods.values()) if pod.namespace == namespace and not pod.dead.is_set() and matches(pod.manifest["metadata"].get("labels", {}), selector)]

    def custom(self, namespace, metric, selector):
        items = []
        for pod in self.pods(namespace, selector):
            found = re.search(rf"^{re.escape(metric)}(?:{{[^}}]*}})? ([0-9.e+]+)$", self.measure(pod) or "", re.M)
            if found:
                items.append({"describedObject": {"kind": "Pod", "namespace": namespace, "name": pod.name, "apiVersion": "/v1"}, "metric": {"name": metric},
                              "timestamp": now(), "value": str(int(float(found[1])))})
        return {"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": {}, "items": items}

    def usage(self, namespace, selector):
        items = []
        for pod in self.pods(namespace, selector):
            used = []
            for one in pod.containers:
                try:
                    with open(f"/proc/{one.process.pid}/stat") as stat:
                        fields = stat.read().rsplit(")", 1)[1].split()
                except (OSError, AttributeError):
                    continue
                ticks, at = int(fields[11]) + int(fields[12]), time.monotonic()
                ticks_before, at_before = self.before.get(one.process.pid, (ticks, at - 1))
                self.before[one.process.pid] = (ticks, at)
                milli = round((ticks - ticks_before) / os.sysconf("SC_CLK_TCK") / max(at - at_before, 0.1) * 1000)
                used.append({"name": one.spec["name"], "usage": {"cpu": f"{milli}m", "memory": f"{int(fields[21]) * 4}Ki"}})
            if used:
                items.append({"metadata": {"name": pod.name, "namespace": namespace, "labels": pod.manifest["metadata"].get("labels", {})}, "timestamp": now(), "window": "15s", "containers": used})
        return {"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}

    def answer(self, path, query):
        """The object for a path, or None."""
        parts, selector = path.strip("/").split("/"), query.get("labelSelector", [""])[0]
        if len(parts) < 3 or GROUPS.get(parts[1]) != parts[2]:
            return None
        if len(parts) == 3:
            name = "pods/holdfast_device_hub_sessions" if parts[1].startswith("custom") else "pods"
            kind = "MetricValueList" if parts[1].startswith("custom") else "PodMetrics"
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{parts[1]}/{parts[2]}", "resources": [{"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}]}
        if parts[1] == "metrics.k8s.io" and len(parts) == 6 and parts[5] == "pods":
            return self.usage(parts[4], selector)
        if parts[1] == "custom.metrics.k8s.io" and len(parts) == 8 and parts[5:7] == ["pods", "*"]:
            return self.custom(parts[4], parts[7], selector)
        return None

    def serve(self, plane):
        metrics = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                where = urllib.parse.urlparse(self.path)
                found = metrics.answer(urllib.parse.unquote(where.path), urllib.parse.parse_qs(where.query))
                body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True

        server = Server((plane.address, PORT), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(plane.folder / "test.crt", plane.folder / "test.key")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
