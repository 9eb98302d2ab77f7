"""The machine that is measured on, and what would make its figures worthless."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORES = 2
# Not kept on a disk, or not with the costs of one.
WRONG_FILE_SYSTEMS = {"tmpfs", "ramfs", "overlay", "fuse", "9p"}


class Trouble(Exception):
    """Something that a person has to see to."""


def cache():
    """Where peers and data directories go."""
    base = os.environ.get("HOLDFAST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdfast"
    path = Path(os.environ.get("HOLDFAST_BENCH_DIR") or Path(base) / "bench")
    path.mkdir(parents=True, exist_ok=True)
    return path


def file_system(path):
    """The type of the file system that `path` is on."""
    path = Path(path).resolve()
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind = line.split()[:3]
        if (path == Path(mount) or Path(mount) in path.parents) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def require_real_disk(path):
    """Durability costs nothing in memory: figures from there would be a lie."""
    kind = file_system(path)
    if kind in WRONG_FILE_SYSTEMS:
        raise Trouble(f"{path} is on {kind}, not on a disk: set HOLDFAST_BENCH_DIR to a folder that is")
    return kind


def keep_to_cores():
    """Binds this process, and so all that it starts, to the same two cores."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    return cores


def sync_cost_us(path, count=300):
    """The median time of one fdatasync after an append of 4 KiB, microseconds."""
    import time

    file = Path(path) / "sync-probe"
    times = []
    handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for _ in range(count):
            os.write(handle, b"x" * 4096)
            start = time.perf_counter()
            os.fdatasync(handle)
            times.append(time.perf_counter() - start)
    finally:
        os.close(handle)
        file.unlink()
    return sorted(times)[len(times) // 2] * 1e6


def command_output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def facts(data_dir):
    """What a reader must know to compare the figures with others."""
    cpu = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "unknown")
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    dirty = command_output("git", "status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.toml", "Cargo.lock")
    return {
        "commit": command_output("git", "rev-parse", "--short=12", "HEAD") + (" with changes" if dirty else ""),
        "cpu": cpu,
        "cores_used": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "file_system": file_system(data_dir),
        "fdatasync_us": round(sync_cost_us(data_dir)),
        "load_before": os.getloadavg()[0],
    }


def drop_page_cache():
    """Empties the page cache; says whether it could."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
        return True
    except OSError:
        return False


def install(*packages):
    """Installs Debian packages without letting their services start."""
    missing = [p for p in packages if "install ok installed" not in command_output("dpkg-query", "-W", "-f=${Status}", p)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Trouble(f"install {' '.join(missing)} first")
    print(f"bench: installing {' '.join(missing)}", flush=True)
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for command in (["apt-get", "install", "-y", "-qq"], ["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq"]):
            done = subprocess.run([*command, *(missing if "install" in command else [])], env=env, capture_output=True, text=True)
            if done.returncode == 0 and "install" in command:
                return
        raise Trouble(f"cannot install {' '.join(missing)}: {done.stderr.strip()[-300:]}")
    finally:
        if ours:
            policy.unlink()
