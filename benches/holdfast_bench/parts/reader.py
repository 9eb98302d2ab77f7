"""One partition read through the Event-Hubs-compatible endpoint: cold, from the page cache, at the tail, and live."""

import tempfile
from pathlib import Path

from .. import load
from ..machine import drop_page_cache
from ..peers import hub
from ..report import Part, thousands, verdict

CPU_TARGET_US, RATE_TARGET = 2.0, 300_000
DEVICES = 1000
# What the hub still holds in memory of a partition's newest events.
TAIL_EVENTS, TAIL_REPEATS = 20_000, 50


def run(options):
    part = Part("reader", "Reading one partition over AMQP, events of 256 B")
    part.header = ["what", "transport", "events", "events/s", "target", "server CPU µs an event", "target", "reader CPU µs"]
    running = hub.Hub()
    running.start()
    try:
        fill = options.fill_events or 6_000_000
        messages = max(1, fill // DEVICES)
        load.publish(running, DEVICES, 64, 0, "--messages", messages)
        add(part, "tail (newest events, again and again)", "plain", running, "--newest", TAIL_EVENTS, "--repeat", TAIL_REPEATS)
        running.stop()
        if not drop_page_cache():
            part.remarks.append("The page cache could not be emptied: `cold` was read from it.")
        running.start()
        add(part, "cold, from the beginning", "plain", running)
        add(part, "from the page cache", "plain", running)
        add(part, "from the page cache", "tls13", running)
        live(part, running, options)
    finally:
        running.discard()
    part.remarks += [
        f"{thousands(fill)} events of {DEVICES} devices over 4 partitions; partition 0 is read, alone on its connection.",
        "The reader runs on the same cores. Live: what the fleet publishes meanwhile is in the server's CPU, not in its rate.",
    ]
    return part


def add(part, what, transport, server, *more):
    arguments = ["--hub", server.connection_file(), "--pid", server.pids()[0], "--transport", transport, *more]
    report = load.run("read", arguments)
    part.figures[f"{what}, {transport}"] = report
    cost, rate = report["server"]["cpu_us_per_message"], report["rate"]
    part.rows.append([
        what,
        transport,
        thousands(report["events"]),
        thousands(rate),
        verdict(rate, RATE_TARGET, at_least=True),
        f"{cost:.2f}",
        verdict(cost, CPU_TARGET_US),
        f"{report['generator']['cpu_us_per_message']:.2f}",
    ])


def live(part, server, options):
    """A reader that keeps up with a publishing fleet."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = options.seconds
        published, read = Path(folder) / "publish.json", Path(folder) / "read.json"
        arguments = [*load.measured(server), "-n", DEVICES, "-w", 16, "--refill", 16, "--duration", seconds + 4, "--quiet"]
        publishing = load.start("publish", arguments, published)
        reading = load.start("read", ["--hub", server.connection_file(), "--live", seconds], read)
        events = load.finish(reading, "read", read)
        messages = load.finish(publishing, "publish", published)
    part.figures["live"] = {"read": events, "publish": messages}
    part.remarks.append(
        f"Live: {thousands(messages['rate'])} messages/s published over all partitions while one reader of partition 0 took "
        f"{thousands(events['rate'])} events/s; server CPU {messages['server']['cpu_us_per_message']:.2f} µs a message published."
    )
