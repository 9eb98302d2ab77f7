"""Command line: which parts, how long, how often."""

import argparse
import sys
import traceback

from . import load, machine
from .machine import Trouble
from .parts import backup, cluster, compare, connects, down, durable, footprint, memory, protocols, provisioning, reader, replace, startup, throttles
from .peers import hub
from .report import Part, Report

PARTS = {module.__name__.rsplit(".", 1)[1]: module for module in (compare, durable, memory, reader, startup, cluster, replace, down, connects, throttles, protocols, provisioning, footprint, backup)}
BUSY_LOAD = 0.5


def shape(text):
    connections, _, window = text.partition("x")
    return int(connections), int(window)


def options():
    parser = argparse.ArgumentParser(prog="benches/run.sh", description="Measures the hub and its peers with one generator.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS) + "; all by default")
    parser.add_argument("--runs", type=int, default=5, help="alternating runs, and starts")
    parser.add_argument("--durable-runs", type=int, default=3, help="runs of each durable peer")
    parser.add_argument("--seconds", type=float, default=8, help="measured time of a run")
    parser.add_argument("--shapes", type=shape, nargs="+", metavar="CxW", help="connections x window, instead of the usual ones")
    parser.add_argument("--connections", type=int, help="idle connections, instead of 18,000; method calls in flight, instead of 1,000; handshakes of a storm, instead of 2,000")
    parser.add_argument("--fill-events", type=int, help="events to read, instead of 6,000,000")
    parser.add_argument("--devices", type=int, help="devices at the start after SIGKILL, and to be onboarded, instead of 100,000")
    parser.add_argument("--groups", type=int, help="enrollment groups, instead of 10,000")
    parser.add_argument("--registrations", type=int, help="registrations before the measured ones, instead of 1,000,000")
    parser.add_argument("--log-bytes", type=int, help="log at the start after SIGKILL and of a replaced node, instead of 1 GiB")
    parser.add_argument("--nodes", type=int, nargs="+", choices=(1, 3), default=(1, 3), help="nodes of the hub in `down` and `footprint`")
    return parser.parse_args()


def main():
    chosen = options()
    data = machine.cache() / "data"
    data.mkdir(exist_ok=True)
    machine.require_real_disk(data)
    machine.keep_to_cores()
    facts = machine.facts(data)
    if facts["load_before"] > BUSY_LOAD:
        print(f"bench: the machine is busy (load {facts['load_before']:.1f}); figures will say more about that", flush=True)
    report = Report(facts, {"hub": hub.version(), "generator": load.version()})
    failed = False
    for name in chosen.parts or PARTS:
        try:
            part = PARTS[name].run(chosen)
        except Exception as error:  # One part's trouble must not cost the others' results.
            if not isinstance(error, Trouble):
                traceback.print_exc()
            part = Part(name, name)
            part.remarks.append(f"NOT MEASURED: {error}")
            failed = True
        report.add(part)
    print(f"bench: written to {report.folder}/results.md and results.json", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        sys.exit(f"bench: {trouble}")
