"""What a hub costs that does nothing: memory and CPU of one node and of three; one node with 1,000 idle TLS devices."""

import time

from .. import load
from ..machine import Trouble
from ..peers import cluster, hub
from ..report import Part, thousands, verdict
from .cluster import cpu_seconds

SETTLE_SECONDS, IDLE_SECONDS = 10, 30
DEVICES, HOLD_SECONDS = 1000, 20
# A hub with 1,000 devices fits a container of so many MiB.
CONTAINER_MIB = 128


def run(options):
    part = Part("footprint", "An idle hub, 4 partitions, default settings")
    part.header = ["what", "resident MiB a node", "of it anonymous", "peak", "CPU % of a core, a node", "target"]
    for nodes in options.nodes:
        server = hub.Hub() if nodes == 1 else cluster.Cluster(nodes=nodes)
        with server as running:
            time.sleep(SETTLE_SECONDS)
            percent = cpu_percent(running.pids(), IDLE_SECONDS)
            if not running.is_alive():
                raise Trouble(f"the hub has ended: {running.last_words()}")
            memory = [resident(pid) for pid in running.pids()]
        part.rows.append([f"{nodes} node{'s' if nodes > 1 else ''}, no devices", *columns(memory, percent), "–"])
        part.figures[f"{nodes} nodes"] = {"memory_mib": memory, "cpu_percent": percent}
    devices = options.connections or DEVICES
    with hub.Hub() as running:
        arguments = ["-n", devices, "--transport", "tls13", "--hold", HOLD_SECONDS, "--keep-alive", 600]
        load.run("idle", [*load.measured(running), *arguments])
        memory = [resident(pid) for pid in running.pids()]
    peak = max(found["VmHWM"] for found in memory)
    part.rows.append([f"1 node, {thousands(devices)} devices connected by TLS 1.3", *columns(memory, None), verdict(peak, CONTAINER_MIB)])
    part.figures["devices"] = {"memory_mib": memory, "devices": devices}
    part.remarks.append(f"After {SETTLE_SECONDS} s, over {IDLE_SECONDS} s. Anonymous: what cannot be read again from files. Peak: of the process since its start; the target is its.")
    return part


def cpu_percent(pids, seconds):
    begun, before = time.monotonic(), [cpu_seconds(pid) for pid in pids]
    time.sleep(seconds)
    passed = time.monotonic() - begun
    return [100 * (cpu_seconds(pid) - was) / passed for pid, was in zip(pids, before)]


def resident(pid):
    """MiB by kind."""
    kinds = ("VmRSS", "RssAnon", "VmHWM")
    lines = (line.split() for line in open(f"/proc/{pid}/status"))
    return {fields[0][:-1]: int(fields[1]) / 1024 for fields in lines if fields and fields[0][:-1] in kinds}


def columns(memory, percent):
    each = lambda kind: " / ".join(f"{found[kind]:.0f}" for found in memory)
    return [each("VmRSS"), each("RssAnon"), each("VmHWM"), " / ".join(f"{p:.2f}" for p in percent) if percent else "–"]
