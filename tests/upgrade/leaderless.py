"""How long partitions acknowledge nothing, and how long they have no leader: from the acknowledgements of devices, and from the hub's own histogram."""

import bisect
import itertools
import re
import struct
import urllib.request

MASK = (1 << 64) - 1
PRIMES = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
HISTOGRAM = "holdfast_consensus_leaderless_seconds"


def xxh64(data):
    """XXH64 with seed 0 of less than 32 bytes."""
    assert len(data) < 32
    rotate = lambda value, by: (value << by | value >> 64 - by) & MASK
    found, at = (PRIMES[4] + len(data)) & MASK, 0
    while len(data) - at >= 8:
        lane = rotate(int.from_bytes(data[at:at + 8], "little") * PRIMES[1] & MASK, 31) * PRIMES[0] & MASK
        found, at = (rotate(found ^ lane, 27) * PRIMES[0] + PRIMES[3]) & MASK, at + 8
    if len(data) - at >= 4:
        lane = int.from_bytes(data[at:at + 4], "little") * PRIMES[0] & MASK
        found, at = (rotate(found ^ lane, 23) * PRIMES[1] + PRIMES[2]) & MASK, at + 4
    for byte in data[at:]:
        found = rotate(found ^ byte * PRIMES[4] & MASK, 11) * PRIMES[0] & MASK
    found = (found ^ found >> 33) * PRIMES[1] & MASK
    found = (found ^ found >> 29) * PRIMES[2] & MASK
    return found ^ found >> 32


def partition_of(device, partitions):
    return xxh64(device.encode()) % partitions


# As crates/model/src/partition.rs has them.
assert [partition_of(device, 128) for device in ("a", "dev-1", "DEV-1", "device-000001", "urn:imei:490154203237518", "x$y'z(1)")] == [91, 120, 94, 61, 8, 51]


def even_prefix(devices, partitions, nodes, least):
    """A prefix of names with which each partition has `least` devices or more at each node; devices connect to the nodes in turn."""
    for number in itertools.count():
        prefix = f"roll-{number}-"
        cells = [0] * (partitions * nodes)
        for device in range(devices):
            cells[partition_of(f"{prefix}{device:07}", partitions) * nodes + device % nodes] += 1
        if min(cells) >= least:
            return prefix


def median(values):
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2 if values else 0.0


class Acknowledgements:
    """The times at which each partition has acknowledged, from the file of `swarm publish --acknowledgements`."""

    def __init__(self, file, prefix, partitions):
        self.times = [[] for _ in range(partitions)]
        partition = {}
        for at, device in struct.iter_unpack("<QI", file.read_bytes()):
            if device not in partition:
                partition[device] = partition_of(f"{prefix}{device:07}", partitions)
            self.times[partition[device]].append(at / 1e6)
        for times in self.times:
            times.sort()

    def longest(self, begin, end):
        """By partition, the longest time between two acknowledgements that begins within the two moments (seconds since 1970)."""
        found = []
        for times in self.times:
            first = max(bisect.bisect_left(times, begin) - 1, 0)
            last = bisect.bisect_left(times, end)
            found.append(max((after - before for before, after in zip(times[first:last], times[first + 1:last + 1])), default=0.0))
        return found


def histogram(text):
    """The hub's histogram of times without a leader, of partitions, from the text of /metrics: counts up to each bound, by cause."""
    found = {}
    for line in text.splitlines():
        labels = re.match(rf"{HISTOGRAM}_bucket{{(.*)}} (\S+)$", line)
        if labels:
            named = dict(re.findall(r'(\w+)="([^"]*)"', labels[1]))
            if named["kind"] == "partition":
                found.setdefault(named["cause"], {})[float(named["le"].replace("+Inf", "inf"))] = float(labels[2])
    return found


def read_histogram(address):
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
        return histogram(answer.read().decode())


def added(histograms):
    total = {}
    for one in histograms:
        for cause, counts in one.items():
            sums = total.setdefault(cause, {})
            for bound, count in counts.items():
                sums[bound] = sums.get(bound, 0) + count
    return total


def quantile(counts, q):
    """As Prometheus has it: linear within a bucket."""
    bounds = sorted(counts)
    if not bounds or not counts[bounds[-1]]:
        return 0.0
    rank, below, lower = q * counts[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= rank:
            return lower if bound == float("inf") else lower + (bound - lower) * (rank - below) / max(counts[bound] - below, 1e-9)
        below, lower = counts[bound], bound
    return lower


def of_both(histograms):
    """Whatever the cause."""
    return added({"both": counts} for one in histograms for counts in one.values()).get("both", {})


def median_of(histograms):
    return quantile(of_both(histograms), 0.5)


def described(histograms):
    """The times of several processes in a line, by cause and of both."""
    parts = []
    for cause, counts in [*sorted(added(histograms).items()), ("both", of_both(histograms))]:
        number = int(counts.get(float("inf"), 0))
        if number:
            most = min(bound for bound, count in counts.items() if count == number)
            parts.append(f"{cause}: {number}, median {quantile(counts, 0.5):.3f} s, none above {most:g} s")
    return "; ".join(parts) or "none"
