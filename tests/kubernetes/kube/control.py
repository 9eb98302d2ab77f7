"""A real control plane on this machine, and a client of its API: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

It listens on the test's bridge. Each component has a certificate of a CA made for the run and the rights that Kubernetes gives it (RBAC).
Not here: high availability, encryption of Secrets at rest, a cloud provider, kube-proxy and kubelet (services.py, node.py).
"""
import http.client
import json
import pathlib
import ssl
import subprocess
import threading
import time
import urllib.parse

from .containers import run, wait_for

SERVICES_RANGE = "10.96.0.0/16"
PORT = 6443


class ApiError(Exception):
    def __init__(self, status, message, reason=""):
        super().__init__(f"{status} {message}")
        self.status, self.message, self.reason = status, message, reason


class Api:
    """Requests as JSON, each on a connection of its own."""

    def __init__(self, host, folder, name="admin"):
        self.host = host
        self.context = ssl.create_default_context(cafile=folder / "ca.crt")
        self.context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")

    def open(self, method, path, body=None, kind="application/json", timeout=60):
        connection = http.client.HTTPSConnection(self.host, PORT, context=self.context, timeout=timeout)
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind, "Accept": "application/json"})
        return connection, connection.getresponse()

    def request(self, method, path, body=None, kind="application/json"):
        connection, answer = self.open(method, path, body, kind)
        try:
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            try:
                status = json.loads(text)
                raise ApiError(answer.status, status.get("message", ""), status.get("reason", ""))
            except ValueError:
                raise ApiError(answer.status, text.decode(errors="replace")) from None
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def get(self, path):
        return self.request("GET", path)

    def find(self, path):
        """An object, or None if there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def post(self, path, body):
        return self.request("POST", path, body)

    def put(self, path, body):
        return self.request("PUT", path, body)

    def patch(self, path, body, kind="strategic-merge-patch"):
        return self.request("PATCH", path, body, f"application/{kind}+json")

    def delete(self, path, **options):
        return self.request("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", **options})


class Informer:
    """The objects of a path, kept current by a watch; `changed(type, object)` hears each change, one after the other."""

    def __init__(self, api, path, changed=lambda kind, thing: None):
        self.api, self.path, self.changed, self.objects, self.synced = api, path, changed, {}, threading.Event()
        threading.Thread(target=self.follow, daemon=True).start()

    @staticmethod
    def key(thing):
        return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]

    def all(self):
        return list(self.objects.values())

    def follow(self):
        while True:
            try:
                listed = self.api.get(self.path)
                now = {self.key(thing): thing for thing in listed["items"]}
                for key in [key for key in self.objects if key not in now]:
                    self.changed("DELETED", self.objects.pop(key))
                for key, thing in now.items():
                    self.objects[key] = thing
                    self.changed("MODIFIED", thing)
                self.synced.set()
                self.watch(listed["metadata"]["resourceVersion"])
            except (OSError, http.client.HTTPException, ApiError, ValueError):
                time.sleep(0.5)

    def watch(self, version):
        mark = "&" if "?" in self.path else "?"
        query = urllib.parse.urlencode({"watch": 1, "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": 1800})
        connection, answer = self.api.open("GET", f"{self.path}{mark}{query}", timeout=None)
        try:
            while line := answer.readline():
                event = json.loads(line)
                thing = event["object"]
                if event["type"] == "ERROR":
                    return
                if event["type"] == "BOOKMARK":
                    continue
                if event["type"] == "DELETED":
                    self.objects.pop(self.key(thing), None)
                else:
                    self.objects[self.key(thing)] = thing
                self.changed(event["type"], thing)
        finally:
            connection.close()


class ControlPlane:
    """The four processes, their certificates, and `kubeconfig` for helm and kubectl, in `folder`."""

    def __init__(self, folder, tools, address):
        self.folder, self.tools, self.address, self.processes = folder, tools, address, {}
        folder.mkdir()
        self.certificates()
        self.kubeconfig = self.config("admin")

    # Certificates ---------------------------------------------------------------------------------------------------------------------
    def key(self, name):
        run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.folder / f"{name}.key")
        return self.folder / f"{name}.key"

    def issue(self, name, subject, names="DNS:unused"):
        request, extensions = self.folder / "request", self.folder / "extensions"
        run("openssl", "req", "-new", "-key", self.key(name), "-subj", subject, "-out", request)
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n")
        run("openssl", "x509", "-req", "-in", request, "-CA", self.folder / "ca.crt", "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-days", "3", "-extfile", extensions, "-out", self.folder / f"{name}.crt")

    def certificates(self):
        run("openssl", "req", "-x509", "-new", "-key", self.key("ca"), "-days", "3", "-subj", "/CN=kubernetes", "-addext", "keyUsage=critical,keyCertSign,digitalSignature", "-out", self.folder / "ca.crt")
        names = "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1"
        self.issue("apiserver", "/CN=kube-apiserver", f"{names},IP:{self.address}")
        self.issue("admin", "/O=system:masters/CN=admin")
        self.issue("controller-manager", "/CN=system:kube-controller-manager")
        self.issue("scheduler", "/CN=system:kube-scheduler")
        self.issue("aggregator", "/CN=aggregator")
        # What the test itself serves: logs of pods, metrics.
        self.issue("test", "/CN=test", f"IP:{self.address}")
        run("openssl", "genrsa", "-out", self.folder / "accounts.key", "2048")
        run("openssl", "rsa", "-in", self.folder / "accounts.key", "-pubout", "-out", self.folder / "accounts.pub")

    def config(self, name):
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"https://{self.address}:{PORT}", "certificate-authority": str(self.folder / "ca.crt")}}],
            "users": [{"name": name, "user": {"client-certificate": str(self.folder / f"{name}.crt"), "client-key": str(self.folder / f"{name}.key")}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
        }))
        return path

    # Processes ------------------------------------------------------------------------------------------------------------------------
    def start(self, name, *options, config=None):
        """A component with its options, or another program that takes a kubeconfig."""
        log = open(self.folder / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen([self.tools[name], *([config] if config else []), *(f"--{option}" for option in options)], stdout=log, stderr=log, cwd=self.folder)

    def up(self):
        """Starts everything; returns the client once the API answers and its controllers run."""
        f = self.folder
        self.start("etcd", f"data-dir={f}/etcd", "listen-client-urls=http://127.0.0.1:2379", "advertise-client-urls=http://127.0.0.1:2379",
                   "listen-peer-urls=http://127.0.0.1:2380", "initial-advertise-peer-urls=http://127.0.0.1:2380", "initial-cluster=default=http://127.0.0.1:2380",
                   "unsafe-no-fsync")
        self.start("kube-apiserver", "etcd-servers=http://127.0.0.1:2379", f"bind-address={self.address}", f"advertise-address={self.address}", f"secure-port={PORT}",
                   f"service-cluster-ip-range={SERVICES_RANGE}", f"tls-cert-file={f}/apiserver.crt", f"tls-private-key-file={f}/apiserver.key", f"client-ca-file={f}/ca.crt",
                   "service-account-issuer=https://kubernetes.default.svc.cluster.local", f"service-account-key-file={f}/accounts.pub",
                   f"service-account-signing-key-file={f}/accounts.key", "authorization-mode=Node,RBAC", "enable-admission-plugins=NodeRestriction",
                   # Shorter than the default's five minutes.
                   "default-not-ready-toleration-seconds=20", "default-unreachable-toleration-seconds=20",
                   f"requestheader-client-ca-file={f}/ca.crt", "requestheader-allowed-names=aggregator", "requestheader-username-headers=X-Remote-User",
                   "requestheader-group-headers=X-Remote-Group", "requestheader-extra-headers-prefix=X-Remote-Extra-",
                   f"proxy-client-cert-file={f}/aggregator.crt", f"proxy-client-key-file={f}/aggregator.key",
                   "kubelet-preferred-address-types=InternalIP", f"kubelet-client-certificate={f}/admin.crt", f"kubelet-client-key={f}/admin.key", "profiling=false", "event-ttl=2h")
        api = Api(self.address, f)
        self.api = api
        seconds = wait_for("kube-apiserver is ready", self.ready, 180)
        common = ["leader-elect=false", "bind-address=127.0.0.1"]
        for name, user in (("kube-controller-manager", "controller-manager"), ("kube-scheduler", "scheduler")):
            config = self.config(user)
            more = [f"authentication-kubeconfig={config}", f"authorization-kubeconfig={config}", f"kubeconfig={config}"]
            if name == "kube-controller-manager":
                more += [f"root-ca-file={f}/ca.crt", f"service-account-private-key-file={f}/accounts.key", "use-service-account-credentials=true",
                         "horizontal-pod-autoscaler-sync-period=5s", "node-monitor-grace-period=20s", "terminated-pod-gc-threshold=100"]
            self.start(name, *common, *more)
        wait_for("the default account is there", lambda: api.find("/api/v1/namespaces/default/serviceaccounts/default"), 120)
        return seconds

    def ready(self):
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = (self.folder / f"{name}.log").read_text(errors="replace")
                raise SystemExit(f"{name} has ended with exit code {process.returncode}:\n" + "\n".join(log.splitlines()[-15:]))
        try:
            return self.api.get("/readyz") == "ok"
        except (OSError, http.client.HTTPException, ApiError):
            return False

    def down(self):
        """Nothing of it is kept."""
        for process in reversed(self.processes.values()):
            process.kill()
            process.wait()

    def memory(self):
        """Resident memory of each process, in MiB."""
        made = {}
        for name, process in self.processes.items():
            pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            made[name] = pages * 4096 // 2**20
        return made
