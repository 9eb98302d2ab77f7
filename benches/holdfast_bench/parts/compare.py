"""CPU per acknowledged message and rate: the hub, durable at PUBACK, against mosquitto, which is not."""

from .. import load
from ..peers import hub, mosquitto
from ..report import Part, median, spread, thousands, verdict

# connections, window: the greatest allowed ratio of the hub's CPU per message to mosquitto's.
SHAPES = {(100, 1): 1.4, (100, 16): 0.4, (1000, 1): 1.15, (1000, 16): 0.3}
RATE_SHAPE, RATE_TARGET = (1000, 16), 2.0
SETTLE_SECONDS = 3


def run(options):
    mosquitto.ensure()
    part = Part("compare", "CPU per QoS 1 message of 256 B, plain, no subscriber: hub (durable) and mosquitto (not durable)")
    part.header = [
        "connections × window",
        "hub µs",
        "mosquitto µs",
        "ratio",
        "target",
        "hub msg/s",
        "mosquitto msg/s",
        "hub syncs/s",
        "generator µs (hub / mosquitto)",
        "hub p99 ms",
    ]
    servers = {"hub": hub.Hub, "mosquitto": mosquitto.Mosquitto}
    if hub.has_baseline():
        servers["baseline"] = hub.Baseline
        part.header += ["baseline µs", "hub / baseline"]
    shapes = {shape: {name: [] for name in servers} for shape in options.shapes or SHAPES}
    for shape, found in shapes.items():
        for number in range(options.runs):
            for name, server in servers.items():
                with server() as running:
                    report = load.publish(running, *shape, options.seconds, "--settle", SETTLE_SECONDS)
                found[name].append(report)
                cost, rate = report["server"]["cpu_us_per_message"], report["rate"]
                print(f"bench: {shape[0]} × {shape[1]}, run {number + 1}: {name} {cost:.2f} µs, {rate:,.0f}/s", flush=True)
        row(part, shape, found)
    part.figures = {f"{c}x{w}": found for (c, w), found in shapes.items()}
    part.remarks += [
        f"{options.runs} alternating runs of {options.seconds} s each, a fresh server and data directory for each run.",
        "A device writes a whole window at once and the next when all of it is acknowledged.",
        f"The hub's figure has its share of what the hub did in the {SETTLE_SECONDS} s after the last message.",
        "The generator runs on the same cores: where its own cost is above the server's, it is what bounds the rate.",
    ]
    return part


def costs(reports):
    """Per message, with what was put off until after the run."""
    return [r["server_cpu_us_per_message_settled"] or r["server"]["cpu_us_per_message"] for r in reports]


def row(part, shape, found):
    ours, theirs = costs(found["hub"]), costs(found["mosquitto"])
    # Each of our runs against the one of theirs beside it: what disturbs the machine disturbs both.
    ratio = median([a / b for a, b in zip(ours, theirs)])
    rates = {name: median([r["rate"] for r in reports]) for name, reports in found.items()}
    syncs = [r["syncs"] / r["seconds"] for r in found["hub"] if r["syncs"] is not None]
    own = [median([r["generator"]["cpu_us_per_message"] for r in found[name]]) for name in ("hub", "mosquitto")]
    target = verdict(ratio, SHAPES[shape]) if shape in SHAPES else "–"
    slow = median([r["latency_us"]["p99"] for r in found["hub"]]) / 1000
    part.rows.append([
        f"{shape[0]} × {shape[1]}",
        spread(ours),
        spread(theirs),
        f"{ratio:.2f}",
        target,
        thousands(rates["hub"]),
        thousands(rates["mosquitto"]),
        thousands(median(syncs)) if syncs else "–",
        f"{own[0]:.1f} / {own[1]:.1f}",
        f"{slow:.1f}",
    ])
    if "baseline" in found:
        before = costs(found["baseline"])
        part.rows[-1] += [spread(before), f"{median([a / b for a, b in zip(ours, before)]):.2f}"]
    if shape == RATE_SHAPE:
        times = rates["hub"] / rates["mosquitto"]
        part.remarks.append(f"Rate at 1000 × 16: {times:.2f} × mosquitto's ({verdict(times, RATE_TARGET, at_least=True)}).")
