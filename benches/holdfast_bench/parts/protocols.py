"""What a durable message costs over AMQP and HTTPS beside MQTT in the same run, and what an idle AMQP connection holds."""

from .. import load
from ..peers import hub
from ..report import Part, median, spread, thousands, verdict
from .memory import CONNECT_RATE, CONNECTIONS, HOLD_SECONDS, SOURCES

# Devices, window; what is compared: name, the arguments of swarm, the target over MQTT of the same transport.
PLAIN = [(1000, 16), (100, 16)]
TLS = [(1000, 1)]
AMQP = ["--protocol", "amqp"]
SHARED = [*AMQP, "--devices-a-connection", 50]
AMQP_TARGET = 1.3
HTTPS_TARGET_US = 60
IDLE_TARGET = 12 * 1024


def run(options):
    part = Part("protocols", "CPU of the hub per durable message of 256 B: AMQP and HTTPS beside MQTT; idle AMQP connections")
    part.header = ["what", "µs", "MQTT µs", "ratio", "target", "msg/s", "p99 ms"]
    for shape in options.shapes or PLAIN:
        compare(part, options, shape, "plain", [("AMQP", AMQP), ("AMQP, 50 devices a connection", SHARED)])
    for shape in options.shapes or TLS:
        compare(part, options, shape, "tls13", [("AMQP", AMQP), ("HTTPS", ["--protocol", "https"])])
    for transport in ("plain", "tls13"):
        idle(part, options, transport)
    part.remarks += [
        f"{options.runs} alternating runs of {options.seconds} s, a fresh hub for each; the ratio is the median of those of neighbouring runs.",
        "A device over HTTPS has one message in flight on its kept connection, so it is compared at window 1, with TLS 1.3 like MQTT beside it.",
    ]
    return part


def compare(part, options, shape, transport, others):
    kinds = [("MQTT", []), *others]
    found = {name: [] for name, _ in kinds}
    for number in range(options.runs):
        # Each begins as often as the others: what drifts counts for all.
        for name, arguments in kinds[number % len(kinds):] + kinds[:number % len(kinds)]:
            with hub.Hub() as running:
                more = ["--transport", transport, *arguments]
                found[name].append(load.publish(running, *shape, options.seconds, *more))
            print(f"bench: protocols, {shape[0]} × {shape[1]} {transport}, run {number + 1}: {name} {cost(found[name][-1]):.2f} µs", flush=True)
    for name, _ in others:
        ratios = [cost(one) / cost(mqtt) for one, mqtt in zip(found[name], found["MQTT"])]
        costs = [cost(report) for report in found[name]]
        target = verdict(median(costs), HTTPS_TARGET_US) if name == "HTTPS" else verdict(median(ratios), AMQP_TARGET)
        part.rows.append([
            f"{name}, {shape[0]} × {shape[1]}, {transport}",
            spread(costs),
            spread([cost(report) for report in found["MQTT"]]),
            spread(ratios),
            target,
            thousands(median([report["rate"] for report in found[name]])),
            f"{median([report['latency_us']['p99'] for report in found[name]]) / 1000:.1f}",
        ])
    part.figures[f"{shape[0]}x{shape[1]} {transport}"] = found


def idle(part, options, transport):
    count = options.connections or CONNECTIONS
    with hub.Hub() as running:
        arguments = ["-n", count, "--transport", transport, "--connect-rate", CONNECT_RATE, "--hold", HOLD_SECONDS, *AMQP]
        report = load.run("idle", [*load.measured(running), *arguments, "--source", SOURCES])
    resident = report["server_bytes_per_connection"]
    part.figures[f"idle {transport}"] = report
    part.remarks.append(
        f"{thousands(report['up'])} of {thousands(count)} idle AMQP connections, {transport}, each with `$cbs` and the link for telemetry: "
        f"{thousands(resident)} bytes resident ({verdict(resident, IDLE_TARGET)}), {report['connect']['server_cpu_us_per_connection']:.0f} µs of CPU a connect.")


def cost(report):
    return report["server"]["cpu_us_per_message"]
