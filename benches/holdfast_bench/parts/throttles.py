"""The cost of rates on the hot path: telemetry with the rates of a tier counted, and without any."""

from .. import load
from ..peers import hub
from ..report import Part, median, spread, thousands, verdict

# connections, window.
SHAPES = [(100, 1), (1000, 16)]
TARGET = 1.03
WITHOUT, WITH = "without", "with"
# S3 with 10 units has 60,000 messages a second, which this fleet would exceed: a shaped fleet costs less, because it does less.
# Then the rates of messages, of the hub and of each device, are so high that each message is counted and none is shaped.
RATES = ["throttles.profile=S3", "throttles.units=10", "throttles.connects=1000000/s", "throttles.d2c_sends=10000000/s", "throttles.device_d2c_sends=1000000/s"]


class Throttled(hub.Hub):
    def __init__(self, name, settings):
        self.name = f"holdfast-{name}"
        super().__init__()
        self.settings = settings

    def command(self):
        return [*super().command(), *(part for setting in self.settings for part in ("--set", setting))]


def run(options):
    part = Part("throttles", "CPU of the hub per QoS 1 message of 256 B: rates of a tier on, and off")
    part.header = ["connections × window", "on µs", "off µs", "on / off", "target", "on msg/s", "off msg/s"]
    settings = {WITHOUT: [], WITH: RATES}
    for shape in options.shapes or SHAPES:
        found = {name: [] for name in settings}
        for number in range(options.runs):
            # Each begins as often as the other: what drifts in a pair counts for both.
            names = [WITHOUT, WITH] if number % 2 == 0 else [WITH, WITHOUT]
            for name in names:
                with Throttled(name, settings[name]) as running:
                    found[name].append(load.publish(running, *shape, options.seconds))
                print(f"bench: throttles, {shape[0]} × {shape[1]}, run {number + 1}: {name} {cost(found[name][-1]):.2f} µs", flush=True)
        ratios = [cost(on) / cost(off) for on, off in zip(found[WITH], found[WITHOUT])]
        part.rows.append([
            f"{shape[0]} × {shape[1]}",
            spread([cost(report) for report in found[WITH]]),
            spread([cost(report) for report in found[WITHOUT]]),
            spread(ratios),
            verdict(median(ratios), TARGET),
            *(thousands(median([report["rate"] for report in found[name]])) for name in (WITH, WITHOUT)),
        ])
        part.figures[f"{shape[0]}x{shape[1]}"] = found
    part.remarks += [
        f"{options.runs} alternating runs of {options.seconds} s, a fresh hub for each; the ratio is the median of those of neighbouring runs.",
        f"On: {', '.join(RATES)}.",
    ]
    return part


def cost(report):
    return report["server"]["cpu_us_per_message"]
