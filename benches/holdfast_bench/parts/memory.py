"""Resident memory of the server per idle connection, plain and TLS 1.3."""

from .. import load
from ..peers import hub, mosquitto
from ..report import Part, thousands, verdict

CONNECTIONS = 18_000
# Bytes; a process here may have 20,000 files, so one client process holds them all.
TARGETS = {"plain": 2048, "tls13": 14 * 1024}
CONNECT_RATE = 3000
HOLD_SECONDS = 8
# One address has some 28,000 ports, and the kernel searches long for the last of them.
SOURCES = "127.0.0.2,127.0.0.3,127.0.0.4,127.0.0.5"


def run(options):
    mosquitto.ensure()
    count = options.connections or CONNECTIONS
    part = Part("memory", f"{thousands(count)} idle MQTT connections")
    part.header = ["server", "transport", "bytes a connection", "target", "connect CPU µs", "connected in s", "resident MiB"]
    for transport, target in TARGETS.items():
        servers = [("holdfast", hub.Hub), ("mosquitto", lambda: mosquitto.Mosquitto(tls=transport != "plain"))]
        for name, server in servers:
            with server() as running:
                report = idle(running, transport, count)
                resident = report["server_bytes_per_connection"]
                part.figures[f"{name} {transport}"] = report
                part.rows.append([
                    name,
                    transport,
                    thousands(resident),
                    verdict(resident, target) if name == "holdfast" else "–",
                    f"{report['connect']['server_cpu_us_per_connection']:.0f}",
                    f"{report['connect']['seconds']:.1f}",
                    f"{resident_mib(running):.0f}",
                ])
                lost = report["connect"]["connections"] - report["up"]
                if lost:
                    part.remarks.append(f"{name} {transport}: {lost} connections were lost: {report['failures']}")
    part.remarks.append("Growth of anonymous resident memory from before the first connection until all have been idle for "
                        f"{HOLD_SECONDS} s, divided by the connections; the hub's devices exist before. Kernel memory is not in it.")
    return part


def idle(server, transport, count):
    arguments = ["-n", count, "--transport", transport, "--connect-rate", CONNECT_RATE, "--hold", HOLD_SECONDS]
    return load.run("idle", [*load.measured(server), *arguments, "--keep-alive", 600, "--source", SOURCES])


def resident_mib(server):
    total = 0
    for pid in server.pids():
        for line in open(f"/proc/{pid}/status"):
            if line.startswith("VmRSS"):
                total += int(line.split()[1]) / 1024
    return total
