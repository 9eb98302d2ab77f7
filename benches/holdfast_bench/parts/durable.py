"""The hub against brokers whose PUBACK is durable too, each with one durable subscriber that is away."""

from .. import load
from ..machine import Trouble
from ..peers import hub, nats, rabbitmq
from ..report import Part, median, spread, thousands, verdict

SHAPES = ((100, 16), (1000, 16))
CPU_TARGET, RATE_TARGET = 0.1, 5.0


def run(options):
    part = Part("durable", "Peers that are durable at PUBACK, one offline durable subscriber, QoS 1, 256 B, plain")
    part.header = ["server", "connections × window", "CPU µs", "hub ÷ it", "msg/s", "hub ÷ it", "p99 ms"]
    results = {}
    for shape in options.shapes or SHAPES:
        ours = measure(hub.Hub, shape, options, subscriber=False)
        results[f"holdfast {shape}"] = ours
        add_row(part, "holdfast", shape, ours, ours)
        for label, ensure, server in peers():
            try:
                ensure()
                theirs = measure(server, shape, options, subscriber=True)
            except Trouble as trouble:
                part.remarks.append(f"{label} could not be had or measured: {trouble}")
                continue
            results[f"{label} {shape}"] = theirs
            add_row(part, label, shape, theirs, ours)
    part.figures = results
    part.remarks += [
        f"Targets: the hub's CPU ≤ {CPU_TARGET:g} of theirs, its rate ≥ {RATE_TARGET:g} × theirs.",
        "The hub's log keeps every message whether or not a reader is there; so it has no subscriber here.",
        f"{options.durable_runs} runs of {options.seconds} s each, a fresh server for each.",
    ]
    return part


def peers():
    yield rabbitmq_label("classic"), rabbitmq.ensure, lambda: rabbitmq.RabbitMq("classic")
    yield rabbitmq_label("quorum"), rabbitmq.ensure, lambda: rabbitmq.RabbitMq("quorum")
    yield nats.version(), nats.ensure, nats.Nats


def rabbitmq_label(kind):
    return rabbitmq.version(kind)


def measure(server, shape, options, subscriber):
    reports = []
    for number in range(options.durable_runs):
        with server() as running:
            if subscriber:
                load.finish(load.start("subscribe", [*running.target(), "--prefix", "offline-"]), "subscribe")
            # A slow server takes long to acknowledge what is out at the end.
            reports.append(load.publish(running, *shape, options.seconds, "--drain", 60))
            cost, rate = reports[-1]["server"]["cpu_us_per_message"], reports[-1]["rate"]
            print(f"bench: {shape}, run {number + 1}: {running.name} {cost:.1f} µs, {rate:,.0f}/s", flush=True)
    return reports


def add_row(part, label, shape, theirs, ours):
    cpu = [[r["server"]["cpu_us_per_message"] for r in reports] for reports in (ours, theirs)]
    rate = [[r["rate"] for r in reports] for reports in (ours, theirs)]
    less, faster = median(cpu[0]) / median(cpu[1]), median(rate[0]) / median(rate[1])
    is_hub = theirs is ours
    part.rows.append([
        label,
        f"{shape[0]} × {shape[1]}",
        spread(cpu[1], "{:.1f}"),
        "–" if is_hub else f"{less:.3f} ({verdict(less, CPU_TARGET)})",
        thousands(median(rate[1])),
        "–" if is_hub else f"{faster:.1f} ({verdict(faster, RATE_TARGET, at_least=True)})",
        f"{median([r['latency_us']['p99'] for r in theirs]) / 1000:.1f}",
    ])
