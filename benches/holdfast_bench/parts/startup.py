"""Start to ready: an empty directory, and after SIGKILL under load with a full registry and log."""

import time

from .. import load
from ..machine import drop_page_cache
from ..peers import hub
from ..processes import wait_for
from ..report import Part, median, spread, thousands, verdict

EMPTY_TARGET_S, KILLED_TARGET_S = 2.0, 5.0
DEVICES, LOG_BYTES, PAYLOAD = 100_000, 2**30, 256
PUBLISHERS = 1000


def run(options):
    part = Part("startup", "From the start of the process until it is ready")
    part.header = ["what", "seconds", "target"]
    empty = []
    for _ in range(options.runs):
        running = hub.Hub()
        empty.append(running.start())
        running.discard()
    part.rows.append(["empty directory", spread(empty), verdict(median(empty), EMPTY_TARGET_S)])

    running = hub.Hub()
    running.start()
    try:
        devices, log_bytes = options.devices or DEVICES, options.log_bytes or LOG_BYTES
        load.finish(load.start("devices", [*running.target(), "-n", devices]), "devices")
        messages = max(1, log_bytes // PAYLOAD // PUBLISHERS)
        arguments = [*running.target(), "-n", PUBLISHERS, "-w", 64, "--devices-exist", "--messages", messages, "--quiet"]
        load.finish(load.start("publish", arguments), "publish")
        killed, cold = [], []
        for times, empties_cache in ((killed, False), (cold, True)):
            for _ in range(options.runs):
                kill_under_load(running)
                if empties_cache and not drop_page_cache():
                    break
                times.append(running.start())
        on_disk = sum(f.stat().st_size for f in running.folder.rglob("*") if f.is_file())
    finally:
        running.discard()
    what = f"after SIGKILL under load, {thousands(devices)} devices, {log_bytes / 2**30:.2g} GiB of payload in the log"
    part.rows.append([what, spread(killed), verdict(median(killed), KILLED_TARGET_S)])
    if cold:
        part.rows.append([what + ", page cache emptied", spread(cold), verdict(median(cold), KILLED_TARGET_S)])
    part.figures = {"empty": empty, "killed": killed, "killed_cold": cold, "bytes_on_disk": on_disk}
    part.remarks.append(f"{options.runs} starts each. Ready = every listener open and served. Data directory: {on_disk / 2**20:,.0f} MiB.")
    return part


def kill_under_load(server):
    """SIGKILL while a fleet publishes; the fleet is then ended, too."""
    arguments = [*server.target(), "-n", PUBLISHERS, "-w", 16, "--devices-exist", "--duration", 600, "--survive-disconnect"]
    publishing = load.start("publish", arguments)
    begun = time.monotonic()
    # The first progress line comes when all are connected and messages flow.
    wait_for(lambda: "acknowledged" in publishing.stderr.readline(), "the fleet to publish", lambda: publishing.poll() is None)
    assert time.monotonic() > begun
    server.kill()
    publishing.kill()
    publishing.communicate()
