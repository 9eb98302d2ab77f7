"""Three nodes on this machine: CPU per durable message of all together, idle cost with 64 partitions."""

import os
import time

from .. import load
from ..peers import cluster, hub
from ..report import Part, median, spread, thousands, verdict

SHAPE = (1000, 16)
COST_TARGET = 3.5
IDLE_PARTITIONS, IDLE_TARGET_PERCENT = 64, 3.0
IDLE_SECONDS = 30
SETTLE_SECONDS = 3
# What one entry and one sync carried, over all replicas.
MESSAGES, ENTRIES, SYNCS = (
    "holdfast_partition_appended_messages_total",
    "holdfast_consensus_proposals_total",
    "holdfast_storage_syncs_total",
)


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(options):
    part = Part("cluster", "Three nodes, three replicas, TLS between nodes: CPU of all nodes together")
    part.header = ["what", "figure", "target", "messages/s", "messages per entry", "messages per sync of a node", "p99 ms"]
    costs(part, options)
    idle(part, options)
    return part


def costs(part, options):
    single, three = [], []
    carried = []
    for number in range(options.runs):
        with hub.Hub() as running:
            single.append(load.publish(running, *SHAPE, options.seconds, "--settle", SETTLE_SECONDS))
        with cluster.Cluster() as running:
            before = running.metrics()
            three.append(load.publish(running, *SHAPE, options.seconds, "--settle", SETTLE_SECONDS))
            after = running.metrics()
        change = {name: after.get(name, 0) - before.get(name, 0) for name in (MESSAGES, ENTRIES, SYNCS)}
        # Every replica counts a message when it applies it; only the leader proposes.
        messages = change[MESSAGES] / 3
        carried.append((messages / max(1, change[ENTRIES]), change[MESSAGES] / max(1, change[SYNCS])))
        print(f"bench: cluster, run {number + 1}: one node {cost(single[-1]):.2f} µs, three {cost(three[-1]):.2f} µs", flush=True)
    ratio = median([cost(b) / cost(a) for a, b in zip(single, three)])
    for name, reports in (("one node", single), ("three nodes", three)):
        entry, sync = (median([c[0] for c in carried]), median([c[1] for c in carried])) if name == "three nodes" else (None, None)
        part.rows.append([
            f"{SHAPE[0]} × {SHAPE[1]}, {name}, µs per message",
            spread([cost(r) for r in reports]),
            "–",
            thousands(median([r["rate"] for r in reports])),
            thousands(entry) if entry else "–",
            thousands(sync) if sync else "–",
            f"{median([r['latency_us']['p99'] for r in reports]) / 1000:.1f}",
        ])
    part.rows.append(["three nodes / one node", f"{ratio:.2f}", verdict(ratio, COST_TARGET), "–", "–", "–", "–"])
    part.figures["costs"] = {"single": single, "three": three, "carried": carried}
    part.remarks.append(f"{options.runs} alternating runs of {options.seconds} s; connections are spread evenly over the nodes.")


def cost(report):
    return report["server_cpu_us_per_message_settled"] or report["server"]["cpu_us_per_message"]


def idle(part, options):
    with cluster.Cluster(partitions=IDLE_PARTITIONS) as running:
        pids = running.pids()
        time.sleep(5)
        begun, before = time.monotonic(), [cpu_seconds(pid) for pid in pids]
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - begun
        percent = [100 * (cpu_seconds(pid) - was) / seconds for pid, was in zip(pids, before)]
    worst = max(percent)
    part.rows.append([
        f"idle, 3 nodes × {IDLE_PARTITIONS} partitions, % of a core, the busiest node",
        f"{worst:.2f}",
        verdict(worst, IDLE_TARGET_PERCENT),
        "–", "–", "–", "–",
    ])
    part.figures["idle_percent"] = percent
    part.remarks.append(f"Idle over {IDLE_SECONDS} s, each node: " + ", ".join(f"{p:.2f} %" for p in percent) + ", with the default timers.")
