"""Devices that register: the rate, what groups and registrations cost, and whether each is at one hub after crashes."""

import contextlib
import subprocess
import time
from pathlib import Path

from .. import load
from ..machine import Trouble
from ..peers import cluster, hub
from ..peers.reference import Reference
from ..processes import wait_for
from ..report import Part, median, spread, thousands, verdict
from .cluster import cpu_seconds
from .connects import SOURCES, connects
from .replace import healthy, status

CLIENTS, DEVICES_A_RUN = 50, 5_000
KEPT_TARGET, ANEW_TARGET, FILLED_TARGET = 1_000, 0.8, 1.1
GROUPS, REGISTRATIONS = 10_000, 1_000_000
# Registrations of one client, one after the other, and with ids that say nothing.
ONE_BY_ONE, SCATTERED = 3_000, 500
# Each client waits some seconds between two looks at its operation.
ONBOARDED, ONBOARDING_CLIENTS = 100_000, 1_000
WEIGHTS, SHARE_TARGET = (1, 1, 2), 0.01
LEADER_KILLS = 2


class At:
    """On an address of its own, so that a restarted hub is where it was."""

    address = "127.77.5.1"

    def command(self):
        command = super().command()
        at = command.index("--host")
        command[at + 1] = self.address
        ports = command.index("--ports")
        del command[ports : ports + 2]
        return command


class Single(At, hub.Hub):
    def __init__(self, name, address):
        self.name, self.address = name, address
        super().__init__()

    def command(self):
        # The devices resume nothing, nor do the reference's clients.
        return [*super().command(), "--set", "tls.resumption=off"]


class Service(At, cluster.Cluster):
    name, address = "holdfast-service", "127.77.6.1"


def run(options):
    part = Part("provisioning", "Registrations of devices with group keys over HTTPS, TLS 1.3")
    part.header = ["what", "figure", "target", "hub µs", "p50 ms", "p99 ms"]
    rates(part, options)
    groups(part, options)
    crash(part, options)
    onboarding(part, options)
    part.remarks.append(
        f"{CLIENTS} clients with one registration at a time, {DEVICES_A_RUN:,} new devices a run; the generator shares the cores with the hub."
    )
    return part


class Fleet:
    """New devices of one hub, by number."""

    def __init__(self, server, *more):
        self.server, self.more, self.first = server, more, 0

    def register(self, count, connecting="kept", clients=CLIENTS, *more):
        shape = ["-n", count, "--first", self.first, "--connecting", connecting, "-c", clients, "--source", SOURCES]
        self.first += count
        return load.run("provision", [*load.measured(self.server), *shape, *self.more, *more])


def row(part, what, figure, target, reports):
    cost = [report["server"]["cpu_us_per_connect"] for report in reports]
    times = [[report["latency_us"][at] / 1000 for report in reports] for at in ("p50", "p99")]
    part.rows.append([what, figure, target, f"{median(cost):.0f}", *(f"{median(time):.1f}" for time in times)])


def rates(part, options):
    found = {"bare": [], "kept": [], "anew": []}
    with Reference("none", 1) as bare, Single("holdfast", "127.77.5.1") as server:
        fleet = Fleet(server)
        for number in range(options.runs):
            found["bare"].append(connects(bare, "bare-tls", 1, options.seconds))
            found["anew"].append(fleet.register(DEVICES_A_RUN, "anew"))
            found["kept"].append(fleet.register(DEVICES_A_RUN, "kept"))
            now = {name: reports[-1]["rate"] for name, reports in found.items()}
            print(f"bench: provisioning, run {number + 1}: {now}", flush=True)
    kept = [report["rate"] for report in found["kept"]]
    row(part, "kept connections, a second", spread(kept, "{:,.0f}"), verdict(median(kept), KEPT_TARGET, at_least=True), found["kept"])
    ratios = [ours["rate"] / theirs["rate"] for ours, theirs in zip(found["anew"], found["bare"])]
    what = f"a connection each, over bare TLS connects ({thousands(median([report['rate'] for report in found['bare']]))} a second)"
    row(part, what, spread(ratios), verdict(median(ratios), ANEW_TARGET, at_least=True), found["anew"])
    part.figures["rates"] = found


def groups(part, options):
    """One hub with one group and few registrations beside one with many of both, by turns."""
    many, registrations = options.groups or GROUPS, options.registrations or REGISTRATIONS
    found = {name: [] for name in ("few", "many, ids alike", "many, ids that say nothing")}
    alone = {"few": [], "many": []}
    with contextlib.ExitStack() as stack:
        few = Fleet(stack.enter_context(Single("holdfast", "127.77.5.1")))
        filled = stack.enter_context(Single("holdfast-filled", "127.77.5.2"))
        command(filled, "settings", "update", "--max-identities", str(2 * registrations + 1_000_000))
        alike = Fleet(filled, "--groups", many)
        begun = time.monotonic()
        while alike.first < registrations:
            alike.register(min(50_000, registrations - alike.first))
            print(f"bench: provisioning, {alike.first:,} of {registrations:,} registered", flush=True)
        fill = time.monotonic() - begun
        wait_for(lambda: is_idle(filled), "the end of compaction", seconds=600)
        scattered = Fleet(filled, "--groups", many, "--naming", "scattered", "--groups-exist")
        # The same groups; numbers behind those of the others.
        scattered.first = 2 * registrations
        for _ in range(options.runs):
            found["few"].append(few.register(DEVICES_A_RUN))
            found["many, ids alike"].append(alike.register(DEVICES_A_RUN))
            alone["few"].append(few.register(ONE_BY_ONE, clients=1))
            alone["many"].append(alike.register(ONE_BY_ONE, clients=1))
            found["many, ids that say nothing"].append(scattered.register(SCATTERED))
    ratios = [many["latency_us"]["p50"] / few["latency_us"]["p50"] for many, few in zip(alone["many"], alone["few"])]
    what = f"time of a registration with {many:,} groups and {registrations:,} registrations, one client, over one group and few"
    row(part, what, spread(ratios), verdict(median(ratios), FILLED_TARGET), alone["many"])
    base = found["few"]
    row(part, "kept connections, one group", "1", "–", base)
    cost = lambda report: report["server"]["cpu_us_per_connect"]
    for name in list(found)[1:]:
        ratios = [cost(report) / cost(few) for report, few in zip(found[name], base)]
        target = verdict(median(ratios), FILLED_TARGET) if "alike" in name else "–"
        row(part, f"CPU with {many:,} groups and {registrations:,} registrations, {name}", spread(ratios), target, found[name])
    part.remarks.append(f"{registrations:,} devices of {many:,} groups had registered before, in {fill:.0f} s over the wire.")
    part.figures["groups"] = {"clients": found, "one client": alone}


def crash(part, options):
    """SIGKILL of the only node in the middle of a run."""
    count = min(options.devices or ONBOARDED, 20_000)
    with Single("holdfast-crash", "127.77.5.3") as server:
        ledger, report = server.folder.parent / "crash.ledger", server.folder.parent / "crash.json"
        ledger.unlink(missing_ok=True)
        shape = ["-n", count, "-c", CLIENTS, "--ledger", ledger]
        running = load.start("provision", [*server.target(), *shape], report)
        wait_for(lambda: lines(ledger) > count / 3, "registrations", lambda: running.poll() is None, seconds=600, step=0.05)
        server.kill()
        server.start()
        whole = load.finish(running, "provision", report)
        verified = verify(server, ledger, count, [], 1)
    result(part, f"{count:,} devices, SIGKILL of the node meanwhile", whole, verified)


def onboarding(part, options):
    count = options.devices or ONBOARDED
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(Service(nodes=3))
        sites = [stack.enter_context(Single(f"holdfast-site-{at}", f"127.77.7.{at}")) for at in range(1, 1 + len(WEIGHTS))]
        own = service.connection()["hostName"].split(":")[0]
        command(service, "provisioning", "hub", "update", own, "--enabled", "false")
        for site, weight in zip(sites, WEIGHTS):
            facts = site.connection()
            more = ["--endpoint", f"{site.address}:{facts['ports']['https']}", "--ca", str(site.folder / facts["caFile"])]
            more += ["--allocation-weight", str(weight), "--connection-string", facts["owner"]]
            command(service, "provisioning", "hub", "add", facts["hostName"].split(":")[0], *more)
        ledger, report = service.folder.parent / "onboarding.ledger", service.folder.parent / "onboarding.json"
        ledger.unlink(missing_ok=True)
        shape = ["-n", count, "-c", ONBOARDING_CLIENTS, "--ledger", ledger]
        begun = time.monotonic()
        running = load.start("provision", [*service.target(), *shape], report)
        nodes = {}
        try:
            for kill in range(LEADER_KILLS):
                share = (1 + kill) / (1 + LEADER_KILLS)
                wait_for(lambda: lines(ledger) > share * count, "registrations", lambda: running.poll() is None, seconds=3600, step=0.5)
                kill_leader(service, nodes)
                print(f"bench: provisioning, the leader was killed after {lines(ledger):,} devices", flush=True)
            whole = load.finish(running, "provision", report)
            verified = verify(service, ledger, count, sites, max(1, count // 10_000))
        finally:
            for node in nodes.values():
                node.kill()
                node.wait()
    print(f"bench: provisioning, {count:,} devices in {time.monotonic() - begun:.0f} s", flush=True)
    result(part, f"{count:,} devices to {len(sites)} linked hubs, {LEADER_KILLS} leaders killed meanwhile", whole, verified)
    counts = {site.address: verified["hubs"][site.address] for site in sites}
    off = max(abs(counts[site.address] / count - weight / sum(WEIGHTS)) for site, weight in zip(sites, WEIGHTS))
    part.rows.append(["furthest share of a hub from its weight", f"{100 * off:.2f} %", verdict(off, SHARE_TARGET), "–", "–", "–"])
    part.remarks.append(f"Devices by hub of weights {WEIGHTS}: {counts}; {whole['rate']:.0f} a second, polls included.")


def verify(server, ledger, count, sites, every):
    linked = [argument for site in sites for argument in ("--linked", site.connection_file())]
    return load.run("verify-assigned", [*server.target(), "-n", count, "--ledger", ledger, "--connect-every", every, *linked])


def result(part, what, whole, verified):
    lost, twice = len(verified["missing"]) + whole["lost"], len(verified["twice"])
    refused = sum(verified["refused"].values())
    met = not lost and not twice and not refused and whole["registered"] == whole["devices"]
    figure = f"{lost} missing, {twice} twice, {refused} of {verified['connected'] + refused} refused at their hub"
    part.rows.append([what, figure, "0: met" if met else "0: MISSED", "–", "–", "–"])
    part.figures[what] = {"provision": whole, "verify": verified}


def is_idle(server):
    """Whether a server uses less than a twentieth of a core for two seconds."""
    before = sum(map(cpu_seconds, server.pids()))
    time.sleep(2)
    return sum(map(cpu_seconds, server.pids())) - before < 0.1


def command(server, *arguments):
    line = [hub.program(), *arguments, "--connection-file", str(server.connection_file())]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise Trouble(f"holdfast {' '.join(arguments[:3])}: {done.stderr.strip()[-400:]}")


def lines(path):
    return Path(path).read_bytes().count(b"\n") if Path(path).exists() else 0


def kill_leader(service, restarted):
    """Kills the leader of the registry's group and starts it again; waits until the cluster is whole.

    `restarted`: the nodes that an earlier call has started, by name.
    """
    known = wait_for(lambda: status(service.connection_file()), "the state of the cluster", seconds=60, step=0.5)
    group = next(group for group in known["groups"] if group["name"] == "registry")
    leader = next(node["name"] for node in known["nodes"] if node["id"] == group["leader"])
    at = next(at for at, node in enumerate(service.connection()["nodes"]) if node["name"] == leader)
    before = restarted.get(leader)
    pid = before.pid if before else service.connection()["pids"][at]
    start = [hub.program(), "start", "--config", service.connection()["nodes"][at]["configFile"]]
    subprocess.run(["kill", "-9", str(pid)], check=True)
    ended = before.poll if before else lambda: None if Path(f"/proc/{pid}").exists() else 0
    wait_for(lambda: ended() is not None, "the end of the leader", seconds=60, step=0.1)
    with open(service.folder.parent / "restarted.log", "ab") as log:
        node = subprocess.Popen(start, stdout=log, stderr=log, cwd=service.folder)
    wait_for(lambda: healthy(service.connection_file()), "a whole cluster", lambda: node.poll() is None, seconds=120, step=0.5)
    restarted[leader] = node
