"""The way down: twins and direct methods of a hub of one node and of three, and telemetry beside twin patches."""

import tempfile
from pathlib import Path

from .. import load
from ..machine import Trouble
from ..peers import cluster
from ..processes import wait_for
from ..report import Part, median, spread, thousands, verdict

# By the number of nodes.
NOTIFIED_TARGET_MS = {1: 10, 3: 30}
LIGHT_DEVICES, LIGHT_WRITERS, LIGHT_RATE = 50, 4, 50
WRITERS, WRITES_NODES, WRITES_TARGET = 64, 3, 10_000
CALLS, CALLS_TARGET_MS = 1000, 50
# Of a device that does something before it answers: with it, as many calls are in flight without all cores at work.
ANSWER_AFTER_MS = 250
TELEMETRY_SHAPE, PATCH_RATE, TELEMETRY_TARGET = (1000, 16), 1000, 1.1
# What one entry and one sync carried, over all replicas.
ENTRIES, SYNCS = "holdfast_consensus_proposals_total", "holdfast_storage_syncs_total"
# The patches begin before the telemetry and must outlast it: its connections, its warm-up and its drain.
OUTLAST_SECONDS = 12


def run(options):
    part = Part("down", "Twins and direct methods: callers over HTTPS, devices over MQTT")
    part.header = ["nodes", "what", "figure", "target", "a second", "p50 ms", "server CPU µs each", "generator CPU µs each"]
    found = {nodes: [] for nodes in options.nodes}
    for number in range(options.runs):
        for nodes, runs in found.items():
            with cluster.Cluster(nodes=nodes) as running:
                runs.append(measure(running, options))
            shown = ", ".join(f"{name} {figures['rate']:,.0f}/s" for name, figures in runs[-1].items() if "rate" in figures)
            print(f"bench: down, {nodes} node(s), run {number + 1}: {shown}", flush=True)
    for nodes, runs in found.items():
        rows(part, nodes, runs, options)
    part.figures = {str(nodes): runs for nodes, runs in found.items()}
    part.remarks += [
        f"{options.runs} run(s) of {options.seconds} s for each line, a fresh hub with 4 partitions for each run; medians, with least and greatest.",
        f"From a patch to its device: {LIGHT_RATE} patches a second over {LIGHT_DEVICES} connected devices.",
        "All nodes and the generator share the same cores; the generator's own cost bounds rates where it is above the server's.",
        "Telemetry: CPU of the hub by message, with all that it spends on the patches, and less what the same patches cost alone.",
    ]
    return part


def measure(running, options):
    calls = options.connections or CALLS
    return {
        "notified": down(running, options, "twin-latency", "-n", LIGHT_DEVICES, "--callers", LIGHT_WRITERS, "--rate", LIGHT_RATE),
        "writes": counted(running, options, "twin-writes", "-n", WRITERS, "--callers", WRITERS),
        "reports": counted(running, options, "twin-reports", "-n", WRITERS),
        "methods": down(running, options, "methods", "-n", calls, "--callers", calls),
        "slow_methods": down(running, options, "methods", "-n", calls, "--callers", calls, "--answer-after", ANSWER_AFTER_MS),
        "patches": down(running, options, *patches()),
        "telemetry": telemetry(running, options),
    }


def patches():
    return ["twin-writes", "-n", WRITERS, "--callers", WRITERS, "--rate", PATCH_RATE]


def arguments(running, seconds, shape, *more):
    return [shape, *load.measured(running), "--prefix", "down-", "--duration", seconds, *more]


def down(running, options, *shape):
    return load.run("down", [*arguments(running, options.seconds, *shape), "--quiet"])


def counted(running, options, *shape):
    """With the entries and syncs of the run, warm-up included."""
    before = running.metrics()
    report = down(running, options, *shape)
    after = running.metrics()
    report["entries"], report["syncs"] = (after.get(name, 0) - before.get(name, 0) for name in (ENTRIES, SYNCS))
    return report


def telemetry(running, options):
    """The same fleet without and with patches beside it."""
    shape = (options.shapes or [TELEMETRY_SHAPE])[0]
    without = load.publish(running, *shape, options.seconds)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "patches.json"
        writing = load.start("down", arguments(running, options.seconds + OUTLAST_SECONDS, *patches()), report)
        try:
            wait_for(lambda: "measuring" in writing.stderr.readline(), "the patches to begin", lambda: writing.poll() is None)
            beside = load.publish(running, *shape, options.seconds, "--devices-exist")
            if writing.poll() is not None:
                raise Trouble("the patches ended before the telemetry")
            patched = load.finish(writing, "down", report)
        finally:
            writing.kill()
            writing.wait()
    return {"without": without, "beside": beside, "patches": patched}


def rows(part, nodes, runs, options):
    def of(name, *path):
        values = []
        for figures in runs:
            value = figures[name]
            for key in path:
                value = value[key]
            values.append(value)
        return values

    def ms(name, field, share):
        return [value / 1000 for value in of(name, field, share)]

    def row(name, what, figure, target, p50=None):
        part.rows.append([
            nodes,
            what,
            figure,
            target,
            thousands(median(of(name, "rate"))),
            f"{median(p50 or ms(name, 'latency_us', 'p50')):.1f}",
            f"{median(of(name, 'server', 'cpu_us_per_message')):.0f}",
            f"{median(of(name, 'generator', 'cpu_us_per_message')):.0f}",
        ])

    for field, end in (("notified_from_request_us", "its request"), ("notified_from_answer_us", "its answer")):
        p99 = ms("notified", field, "p99")
        target = verdict(median(p99), NOTIFIED_TARGET_MS[nodes])
        row("notified", f"twin patch at the device after {end}, p99 ms", spread(p99), target, ms("notified", field, "p50"))
    for name, what in (("writes", f"patches of desired properties a second, {WRITERS} writers"), ("reports", f"reports a second, {WRITERS} devices")):
        rate = of(name, "rate")
        target = verdict(median(rate), WRITES_TARGET, at_least=True) if nodes == WRITES_NODES else "–"
        row(name, what, spread(rate, "{:,.0f}"), target)
    for name, devices in (("methods", "answered at once"), ("slow_methods", f"answered after {ANSWER_AFTER_MS} ms, which do not count")):
        p99 = ms(name, "latency_us", "p99")
        what = f"direct methods, {options.connections or CALLS} in flight, {devices}, p99 ms"
        row(name, what, spread(p99), verdict(median(p99), CALLS_TARGET_MS))
    gross, net = zip(*(ratios(figures) for figures in runs))
    for what, ratio in (("with the patches' CPU", gross), ("less the patches alone", net)):
        message_rate = median([t["beside"]["rate"] for t in of("telemetry")])
        part.rows.append([
            nodes,
            f"telemetry CPU by message beside {PATCH_RATE} patches a second, {what}",
            spread(ratio),
            verdict(median(ratio), TELEMETRY_TARGET),
            thousands(message_rate),
            f"{median([t['beside']['latency_us']['p50'] for t in of('telemetry')]) / 1000:.1f}",
            f"{median([t['beside']['server']['cpu_us_per_message'] for t in of('telemetry')]):.2f}",
            f"{median([t['beside']['generator']['cpu_us_per_message'] for t in of('telemetry')]):.2f}",
        ])
    part.remarks.append(
        f"{nodes} node(s): patches a second beside the telemetry {thousands(median(of('telemetry', 'patches', 'rate')))}; at full rate, with the warm-up, "
        f"{thousands(median(of('writes', 'entries')))} entries and {thousands(median(of('writes', 'syncs')))} syncs for patches, "
        f"{thousands(median(of('reports', 'entries')))} and {thousands(median(of('reports', 'syncs')))} for reports."
    )
    refused = sum(sum(figures[name]["refused"].values()) for figures in runs for name in ("notified", "writes", "reports", "methods", "slow_methods", "patches"))
    if refused:
        part.remarks.append(f"{nodes} node(s): {thousands(refused)} requests were refused or failed; they are in results.json by reason.")


def ratios(figures):
    """The hub's CPU by message beside patches to that without: with all of it, and less the CPU of the same patches alone."""
    beside, without = figures["telemetry"]["beside"], figures["telemetry"]["without"]
    cost, alone = beside["server"]["cpu_us_per_message"], without["server"]["cpu_us_per_message"]
    patch_cost = figures["patches"]["server"]["cpu_us_per_message"]
    share = figures["telemetry"]["patches"]["rate"] * patch_cost / beside["rate"]
    return cost / alone, (cost - share) / alone
