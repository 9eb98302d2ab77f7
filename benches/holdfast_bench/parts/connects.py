"""What a connect costs the hub, by kind of credential, against a bare TLS server; and the memory of a storm of handshakes."""

import contextlib
import os

from .. import load
from ..peers import hub
from ..peers.reference import Reference
from ..report import Part, median, spread, thousands, verdict

DEVICES, CLIENTS, GENERATOR_THREADS = 400, 50, 2
MANY_CAS = 1000
STORM_CLIENTS = 2000
CPU_TARGET, RATE_TARGET, CAS_TARGET = 1.05, 0.8, 1.05
# One address has some 28,000 ports.
SOURCES = "127.0.0.2,127.0.0.3,127.0.0.4,127.0.0.5"

# name: server, credential, CAs at the hub.
CASES = {
    "bare TLS": ("none", "bare-tls", 1),
    "bare mutual TLS": ("possession", "bare-mtls", 1),
    "bare mutual TLS with chain": ("issuer", "bare-mtls", 1),
    "hub, SAS": ("hub", "sas", 1),
    "hub, thumbprint": ("hub", "thumbprint", 1),
    "hub, CA": ("hub", "ca", 1),
    f"hub, CA of {MANY_CAS}": ("hub-many", "ca", MANY_CAS),
}
# what: hub, reference, target of CPU.
CPU_RATIOS = [
    ("SAS over bare TLS", "hub, SAS", "bare TLS", None),
    ("thumbprint over bare mutual TLS", "hub, thumbprint", "bare mutual TLS", None),
    ("CA over bare mutual TLS that checks the chain", "hub, CA", "bare mutual TLS with chain", None),
    ("CA over bare mutual TLS that does not", "hub, CA", "bare mutual TLS", None),
    (f"{MANY_CAS} CAs over 1 CA", f"hub, CA of {MANY_CAS}", "hub, CA", CAS_TARGET),
]
# what: hub, reference. The session, the record of the connection and the audit line of a connect are those of SAS; the HMAC that SAS needs
# in place of the certificate is 1 % of a connect, which these ratios are too low by.
AUTHENTICATION_RATIOS = [
    ("thumbprint, without the session, over bare mutual TLS", "hub, thumbprint", "bare mutual TLS"),
    ("CA, without the session, over bare mutual TLS that checks the chain", "hub, CA", "bare mutual TLS with chain"),
    # The hub verifies the path of a device's certificate at its first connect.
    ("CA, without the session, over bare mutual TLS that does not", "hub, CA", "bare mutual TLS"),
]
RATE_RATIOS = [
    ("TLS + SAS over bare TLS", "hub, SAS", "bare TLS"),
    ("TLS + thumbprint over bare mutual TLS", "hub, thumbprint", "bare mutual TLS"),
    ("TLS + CA over bare mutual TLS that checks the chain", "hub, CA", "bare mutual TLS with chain"),
]


class HubWithCas(hub.Hub):
    def __init__(self, name, cas):
        self.name = name
        super().__init__()
        self.cas = cas

    def command(self):
        # The clients resume nothing: a ticket for each would be a cost without its use, which the references do not have.
        return [*super().command(), "--set", f"registry.max_cas={max(self.cas, 25)}", "--set", "tls.resumption=off"]


def run(options):
    part = Part("connects", "CPU of the server per connect: TLS 1.3, CONNECT, CONNACK, DISCONNECT; nothing is resumed")
    part.header = ["what", "ratio", "target", "hub µs", "reference µs", "hub a second", "reference a second"]
    # As many acceptors as the hub has core runtimes: one per two CPUs.
    acceptors = -(-len(os.sched_getaffinity(0)) // 2)
    found = {name: [] for name in CASES}
    with contextlib.ExitStack() as stack:
        servers = {clients: stack.enter_context(Reference(clients, acceptors)) for clients in ("none", "possession", "issuer")}
        servers["hub"] = stack.enter_context(HubWithCas("holdfast", 1))
        servers["hub-many"] = stack.enter_context(HubWithCas("holdfast-many-cas", MANY_CAS))
        for number in range(options.runs):
            for name, (server, credential, cas) in CASES.items():
                report = connects(servers[server], credential, cas, options.seconds)
                found[name].append(report)
                print(f"bench: connects, run {number + 1}: {name} {cost(report):.1f} µs, {report['rate']:,.0f}/s", flush=True)
    for what, ours, theirs, target in CPU_RATIOS:
        row(part, found, f"CPU: {what}", ours, theirs, cost, lambda ratio: verdict(ratio, target) if target else "–")
    for what, ours, theirs in AUTHENTICATION_RATIOS:
        authentication(part, found, f"CPU: {what}", ours, theirs)
    for what, ours, theirs in RATE_RATIOS:
        row(part, found, f"connects a second: {what}", ours, theirs, rate, lambda ratio: verdict(ratio, RATE_TARGET, at_least=True))
    refused = sum(sum(report["refused"].values()) for reports in found.values() for report in reports)
    part.remarks += [
        f"{options.runs} run(s) of {options.seconds} s for each, one after the other; the ratio is the median of those of neighbouring runs.",
        f"{DEVICES} devices, {CLIENTS} clients with one connection at a time; the generator's {GENERATOR_THREADS} threads share the cores with the server.",
        f"References: rustls with the hub's provider, suites and P-256 key, {acceptors} acceptor(s), as many as the hub has core runtimes.",
        f"The hub runs with tls.resumption=off, as the references do. Refused connections: {refused}.",
    ]
    part.figures = {"connects": found, "storm": storms(part, options, acceptors)}
    return part


def arguments(credential, cas, devices):
    return ["--credential", credential, "--authorities", cas, "-n", devices, "--transport", "tls13", "--source", SOURCES]


def connects(server, credential, cas, seconds):
    shape = ["-c", CLIENTS, "--threads", GENERATOR_THREADS, "--duration", seconds, "--warmup", 1]
    return load.run("connects", [*load.measured(server), *arguments(credential, cas, DEVICES), *shape])


def cost(report):
    return report["server"]["cpu_us_per_connect"]


def rate(report):
    return report["rate"]


def row(part, found, what, ours, theirs, value, judge):
    ratios = [value(a) / value(b) for a, b in zip(found[ours], found[theirs])]
    figures = [median([figure(report) for report in found[name]]) for figure in (cost, rate) for name in (ours, theirs)]
    shown = [f"{figures[0]:.0f}", f"{figures[1]:.0f}", thousands(figures[2]), thousands(figures[3])]
    part.rows.append([what, spread(ratios), judge(median(ratios)), *shown])


def authentication(part, found, what, ours, theirs):
    """What a certificate costs more than a signature at the hub, against what it costs more than none at the bare server."""
    runs = zip(found[ours], found["hub, SAS"], found[theirs], found["bare TLS"])
    ratios = [(cost(hub) - cost(sas) + cost(bare)) / cost(mutual) for hub, sas, mutual, bare in runs]
    part.rows.append([what, spread(ratios), verdict(median(ratios), CPU_TARGET), "–", "–", "–", "–"])


def storms(part, options, acceptors):
    """Fresh servers: what an allocator keeps from an earlier storm would hide what this one takes."""
    clients, figures = options.connections or STORM_CLIENTS, {}
    kinds = {
        "hub": (lambda: HubWithCas("holdfast", 1), "thumbprint"),
        "reference": (lambda: Reference("possession", acceptors), "bare-mtls"),
    }
    for name, (server, credential) in kinds.items():
        with server() as running:
            report = load.run("storm", [*load.measured(running), *arguments(credential, 1, clients)])
        figures[name] = report
        part.remarks.append(
            f"Storm of {clients} mutual TLS handshakes at once, {name}: {thousands(report['in_flight'])} in flight after "
            f"{report['begin_seconds']:.1f} s, {thousands(report['accepted'])} accepted {report['finish_seconds']:.1f} s later; resident memory "
            f"{thousands(report['bytes_per_handshake'])} bytes a handshake in flight, {thousands(report['peak_bytes_per_client'])} a client at the "
            f"peak, {thousands(report['bytes_per_accepted'])} an accepted connection."
        )
    return figures
