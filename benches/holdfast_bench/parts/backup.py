"""A backup of a running hub with many devices and a long log: its rate, and what devices see of it; checked, and restored."""

import hashlib
import json
import mmap
import os
import shutil
import struct
import subprocess
import time

from .. import load
from ..machine import Trouble, drop_page_cache
from ..peers import hub
from ..processes import Server, fresh_folder
from ..report import Part, thousands, verdict

DEVICES, LOG_BYTES, PAYLOAD = 1_000_000, 10 * 2**30, 4096
FILLERS, FILL_WINDOW = 200, 16
# What devices do meanwhile, and the same without a backup.
PUBLISHERS, WINDOW, SECONDS = 100, 1, 30
RATE_TARGET_MB, P99_TARGET = 200, 2
# Free space that stays, beside twice the log: hub, backup, restored hub share the log's bytes three times.
SPARE_BYTES = 4 * 2**30
MIB = 2**20
# The form of objects: crates/backup/src/object.rs. Members, the cluster, placements, join tokens, removed nodes; the use of the quota counts on.
OBJECT_HEADER_BYTES, OF_CLUSTER = 9, b"nkpjru"


def run(options):
    devices, log_bytes = options.devices or DEVICES, options.log_bytes or LOG_BYTES
    part = Part("backup", f"A backup of {thousands(devices)} devices and {log_bytes / 2**30:.2g} GiB of payload in the log")
    part.header = ["what", "seconds", "MB/s", "target"]
    folder = fresh_folder("backup")
    free = shutil.disk_usage(folder).free
    if free < 3 * log_bytes + SPARE_BYTES:
        raise Trouble(f"{(3 * log_bytes + SPARE_BYTES) / 2**30:.0f} GiB of free disk are needed and {free / 2**30:.0f} are there: use --log-bytes")
    running = hub.Hub()
    running.start()
    try:
        measure(part, options, running, folder, devices, log_bytes)
    finally:
        running.discard()
        shutil.rmtree(folder, ignore_errors=True)
    return part


def measure(part, options, running, folder, devices, log_bytes):
    load.finish(load.start("devices", [*running.target(), "-n", devices]), "devices")
    messages = max(1, log_bytes // PAYLOAD // FILLERS)
    fill = [*running.target(), "-n", FILLERS, "-w", FILL_WINDOW, "--devices-exist", "--messages", messages, "--payload", PAYLOAD, "--quiet"]
    load.finish(load.start("publish", fill), "publish")
    disk = write_rate(folder)
    calm = p99(load.run("publish", publish(running, SECONDS)))

    # Devices publish for as long as the backup takes.
    target = folder / "backups"
    report = folder / "report.json"
    drop_page_cache()
    publishing = load.start("publish", publish(running, 24 * 3600), None)
    time.sleep(2)
    seconds, said = timed(running, "backup", "create", "--to", target, "--with-log")
    publishing.kill()
    publishing.communicate()
    size = bytes_in(target)
    rate = size / seconds / 1e6
    part.rows.append([f"the first backup, {size / MIB:,.0f} MiB, devices publish", f"{seconds:.1f}", f"{rate:.0f}", verdict(rate, min(RATE_TARGET_MB, disk), at_least=True)])

    # The same again with a fixed time of publishing, for the percentile: a full backup runs all of it.
    again = folder / "again"
    publishing = load.start("publish", publish(running, max(10, seconds * 0.8)), report)
    time.sleep(1)
    timed(running, "backup", "create", "--to", again, "--with-log")
    busy = p99(load.finish(publishing, "publish", report))
    shutil.rmtree(again)
    part.rows.append([f"PUBACK p99 {busy:.1f} ms during a backup, {calm:.1f} ms without", "–", "–", verdict(busy / calm, P99_TARGET)])

    seconds, _ = timed(running, "backup", "create", "--to", target, "--with-log")
    part.rows.append(["a second backup of the same hub", f"{seconds:.1f}", "–", "–"])
    seconds, said = timed(running, "backup", "verify", target, login=False)
    part.rows.append(["verify the newest", f"{seconds:.1f}", f"{size / seconds / 1e6:.0f}", "–"])

    before = records(running, folder / "before")
    key = (running.folder / "sealing.key").read_bytes()
    running.stop()
    shutil.rmtree(running.folder / "db", ignore_errors=True)
    restored = Restored(folder / "restored")
    restored.folder.mkdir(mode=0o700)
    (restored.folder / "sealing.key").write_bytes(key)
    (restored.folder / "sealing.key").chmod(0o600)
    seconds, _ = timed(running, "restore", "--from", target, "--data-dir", restored.folder, "--set", "storage.min_free_percent=0", login=False)
    part.rows.append(["restore", f"{seconds:.1f}", f"{size / seconds / 1e6:.0f}", "–"])
    with restored:
        after = records(restored, folder / "after")
    same = before == after
    outcome = "identical: met" if same else f"identical: MISSED ({len(before ^ after)} differ)"
    part.rows.append([f"registry of the restored hub, {thousands(len(before))} records compared", "–", "–", outcome])
    part.figures = {"bytes": size, "rate_mb": rate, "disk_mb": disk, "p99_ms": {"calm": calm, "busy": busy}, "identical": same}
    part.remarks += [
        f"{PUBLISHERS} devices publish one message at a time meanwhile. The disk takes {disk:.0f} MB/s written directly in order, synced at the end; hub and backup share it.",
    ]


class Restored(hub.Hub):
    """The hub that the backup became."""

    name = "restored"

    def __init__(self, folder):
        Server.__init__(self, folder)


def publish(running, seconds):
    return [*running.target(), "-n", PUBLISHERS, "-w", WINDOW, "--devices-exist", "--duration", seconds, "--survive-disconnect", "--quiet"]


def p99(report):
    """Milliseconds."""
    return report["latency_us"]["p99"] / 1000


def timed(running, *arguments, login=True):
    command = [running.program(), *map(str, arguments)]
    if login:
        command += ["--connection-file", str(running.connection_file())]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise Trouble(f"holdfast {arguments[0]} failed: {done.stderr.strip()[-600:]}")
    return time.monotonic() - begun, done.stdout


def records(running, folder):
    """The registry's records, by key and digest, in a fresh backup without the log; without those of the cluster."""
    timed(running, "backup", "create", "--to", folder)
    [manifest] = (folder / "backups").iterdir()
    found = set()
    for reference in json.loads(manifest.read_text())["registry"]["objects"]:
        name = reference["sha256"]
        content = (folder / "objects" / name[:2] / name).read_bytes()
        at = OBJECT_HEADER_BYTES
        while at < len(content):
            key_bytes, value_bytes = struct.unpack_from(">HI", content, at)
            key = content[at + 6 : at + 6 + key_bytes]
            value = content[at + 6 + key_bytes : at + 6 + key_bytes + value_bytes]
            if key[0] not in OF_CLUSTER:
                found.add((key, hashlib.sha256(value).digest()))
            at += 6 + key_bytes + value_bytes
    shutil.rmtree(folder)
    return found


def bytes_in(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def write_rate(folder):
    """MB/s of the disk, for one writer past the page cache: behind it, the rate is that of getting memory."""
    file, block = folder / "rate", mmap.mmap(-1, 8 * MIB)
    block.write(os.urandom(8 * MIB))
    begun = time.monotonic()
    out = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    try:
        for _ in range(128):
            os.write(out, block)
        os.fsync(out)
    finally:
        os.close(out)
    seconds = time.monotonic() - begun
    file.unlink()
    return 128 * len(block) / seconds / 1e6
