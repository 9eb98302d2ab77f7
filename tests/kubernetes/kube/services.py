"""What kube-proxy and the cluster's DNS are in a cluster: Services that reach pods, and names.

Both follow the EndpointSlices that the controller manager makes. A ClusterIP is an address of the bridge, and each port of it a proxy; a name is
answered by a small server on the bridge's address.
Not here: UDP, NodePorts, session affinity, traffic policies, IPv6. Names outside of the cluster do not exist.
"""
import contextlib
import socket
import struct
import threading

from .containers import proxy, run
from .control import Informer

DOMAIN = "cluster.local"


class Services:
    def __init__(self, api, network, extra):
        """`extra`: names outside of the cluster's domain, each that of a Service as (namespace, name): what public DNS and a load balancer do."""
        self.network, self.extra, self.open, self.lock = network, extra, {}, threading.Lock()
        self.slices = Informer(api, "/apis/discovery.k8s.io/v1/endpointslices")
        self.services = Informer(api, "/api/v1/services", self.changed)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((network.gateway, 53))
        threading.Thread(target=self.answer, daemon=True).start()

    # The proxy ------------------------------------------------------------------------------------------------------------------------
    def changed(self, kind, service):
        address = service["spec"].get("clusterIP")
        if address in (None, "", "None"):
            return
        with self.lock:
            wanted = {} if kind == "DELETED" else {(address, port["port"]): port for port in service["spec"].get("ports", []) if port.get("protocol") == "TCP"}
            have = [key for key in self.open if key[0] == address]
            if wanted and not have:
                with contextlib.suppress(RuntimeError):
                    self.network.address(address)
            for key in have:
                if key not in wanted:
                    listener = self.open.pop(key)
                    listener.shutdown(socket.SHUT_RDWR)
                    listener.close()
            for key, port in wanted.items():
                if key not in self.open:
                    self.open[key] = proxy(*key, lambda s=Informer.key(service), name=port.get("name"): self.backends(s, name))
            if not wanted and have:
                with contextlib.suppress(RuntimeError):
                    run("ip", "addr", "del", f"{address}/32", "dev", "pods")

    def endpoints(self, service):
        for piece in self.slices.all():
            if piece["metadata"]["namespace"] == service[0] and piece["metadata"].get("labels", {}).get("kubernetes.io/service-name") == service[1]:
                for endpoint in piece.get("endpoints") or []:
                    yield piece, endpoint

    def backends(self, service, port):
        """As kube-proxy: those that are ready, else those that stop and still serve."""
        ready, serving = [], []
        for piece, endpoint in self.endpoints(service):
            number = next((one["port"] for one in piece["ports"] if one.get("name", "") == (port or "")), None)
            conditions = endpoint.get("conditions", {})
            if number and conditions.get("ready", True):
                ready.append((endpoint["addresses"][0], number))
            elif number and conditions.get("serving") and conditions.get("terminating"):
                serving.append((endpoint["addresses"][0], number))
        return sorted(ready or serving)

    # Names ----------------------------------------------------------------------------------------------------------------------------
    def addresses(self, name):
        """The addresses of a name; None: there is no such name."""
        name = name.lower().rstrip(".")
        if name in self.extra:
            service = self.services.objects.get(self.extra[name])
            return [service["spec"]["clusterIP"]] if service else None
        parts = name.split(".")
        if parts[-3:] != ["svc", *DOMAIN.split(".")] or len(parts) not in (5, 6):
            return None
        key = (parts[-4], parts[-5])
        service = self.services.objects.get(key)
        if not service:
            return None
        if service["spec"].get("clusterIP") not in (None, "", "None"):
            return [service["spec"]["clusterIP"]] if len(parts) == 5 else None
        found = [one["addresses"][0] for _, one in self.endpoints(key)
                 if one.get("conditions", {}).get("ready", True) and (len(parts) == 5 or one.get("hostname") == parts[0])]
        return found or None

    def answer(self):
        while True:
            query, source = self.socket.recvfrom(512)
            with contextlib.suppress(IndexError, struct.error, UnicodeDecodeError, OSError):
                self.socket.sendto(self.reply(query), source)

    def reply(self, query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        kind, _ = struct.unpack(">HH", query[at + 1:at + 5])
        question = query[12:at + 5]
        found = self.addresses(".".join(labels))
        records = [b"\xc0\x0c" + struct.pack(">HHIH4s", 1, 1, 5, 4, socket.inet_aton(address)) for address in found or []] if kind == 1 else []
        # Authoritative, recursion available; 3: no such name.
        flags = 0x8580 | (3 if found is None else 0)
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)
