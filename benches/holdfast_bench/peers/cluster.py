"""The hub as a cluster of several nodes on this machine, as `holdfast dev --nodes N` runs it."""

import re
import urllib.request
from pathlib import Path

from . import hub


class Cluster(hub.Hub):
    name = "holdfast-cluster"

    def __init__(self, folder=None, nodes=3, partitions=4, extra=()):
        super().__init__(folder)
        self.count, self.partitions, self.extra = nodes, partitions, list(extra)

    def command(self):
        more = ["--nodes", str(self.count), "--set", f"hub.partitions={self.partitions}", *self.extra]
        return [*super().command(), *more]

    def pids(self):
        """The nodes; the process that started them only waits."""
        return self.connection()["pids"]

    def node_logs(self):
        return [Path(node["dataDir"]) / "node.log" for node in self.connection()["nodes"]]

    def metrics(self):
        """Every counter and gauge, added up over all nodes and labels."""
        total = {}
        for node in self.connection()["nodes"]:
            with urllib.request.urlopen(node["metrics"], timeout=10) as answer:
                for line in answer.read().decode().splitlines():
                    found = re.match(r"^(holdfast_[a-z_]+)(?:\{[^}]*\})? ([-0-9.e+]+)$", line)
                    if found:
                        total[found[1]] = total.get(found[1], 0.0) + float(found[2])
        return total
