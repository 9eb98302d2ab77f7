#!/usr/bin/env python3
"""Alerts on recorded data: recorded.py record HOLDFAST SWARM FOLDER [--minutes N] | recorded.py extract FOLDER

`record` runs hubs and what befalls them (faults.py), in real time, under a real Prometheus with the chart's rules, and checks that each alert
that must fire has fired for its hub, and no other; a healthy hub has none. As root (file systems of memory, limits of processes), with
prometheus and promtool (Debian: prometheus), faketime, openssl and a C compiler; 44 minutes, half a core, 3 GiB. FOLDER/prometheus keeps the recording.
`extract` writes recording.yaml, a rules test of promtool with the recorded series, from there.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import faults
import hubs

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ALERTS = ROOT / "helm/holdfast/files/alerts.yaml"
PROMETHEUS = "127.0.0.1:19090"
SCRAPE_SECONDS = 15


def rules():
    return ALERTS.read_text().replace("RUNBOOK", "https://example.com/runbook")


def start_prometheus(programs, recording):
    folder = programs.folder
    (folder / "alerts.yaml").write_text(rules())
    jobs = [{"job_name": hub.name, "static_configs": [{"targets": hub.targets()}]} for hub in recording]
    # JSON is YAML.
    (folder / "prometheus.yaml").write_text(json.dumps({
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}, "rule_files": ["alerts.yaml"], "scrape_configs": jobs}))
    serve(programs, folder)


def serve(programs, folder):
    """Prometheus over the data in the folder."""
    programs.start("prometheus", "prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/prometheus",
                   f"--web.listen-address={PROMETHEUS}", "--storage.tsdb.retention.time=10y")
    hubs.wait_for("Prometheus is ready", lambda: is_up(f"http://{PROMETHEUS}/-/ready"))


def is_up(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def ask(path, **parameters):
    with urllib.request.urlopen(f"http://{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=60) as answer:
        return json.load(answer)["data"]["result"]


def fired(seconds, until=None):
    """Alerts by job, of the time until now or until then."""
    found = {}
    for one in ask("query", time=until or time.time(), query=f'count by (alertname, job) (count_over_time(ALERTS{{alertstate="firing"}}[{int(seconds)}s]))'):
        found.setdefault(one["metric"].get("job", ""), set()).add(one["metric"]["alertname"])
    return found


def judge(seconds):
    """What is wrong with the alerts so far."""
    found, wrong = fired(seconds), []
    for job, (must, may) in faults.EXPECTED.items():
        here = found.pop(job, set())
        wrong += [f"{job}: {name} has not fired" for name in must if name not in here]
        wrong += [f"{job}: {name} has fired" for name in sorted(here - set(must) - set(may))]
    return wrong + [f"{job or 'no job'}: {names}" for job, names in found.items()]


def all_are_named():
    """Each alert is one that a fault causes, or one that is said not to be recorded."""
    named = faults.NOT_RECORDED.union(*(must for must, _ in faults.EXPECTED.values()))
    known = set(re.findall(r" alert: (\w+)", ALERTS.read_text()))
    if named != known:
        sys.exit(f"faults.py and alerts.yaml differ: {sorted(named ^ known)}")


def record(options):
    all_are_named()
    folder = options.folder.resolve()
    folder.mkdir(parents=True)
    programs = hubs.Programs(options.holdfast.resolve(), options.swarm.resolve(), folder)
    try:
        run_of = faults.Recording(programs)
        try:
            run_of.begin()
            start_prometheus(programs, run_of.all)
            begun = time.monotonic()
            (folder / "begun").write_text(f"{int(time.time())}\n")
            for minute, what, do in [*run_of.timeline(), (options.minutes, "the end", lambda: None)]:
                time.sleep(max(0, begun + 60 * min(minute, options.minutes) - time.monotonic()))
                print(f"{time.strftime('%H:%M:%S')} minute {minute}: {what}", flush=True)
                if minute <= options.minutes:
                    try:
                        do()
                    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
                        print(f"         {error}", flush=True)
            wrong = judge(time.monotonic() - begun)
            shown = sorted({name for must, _ in faults.EXPECTED.values() for name in must})
            print(f"{len(shown)} alerts in question: {' '.join(shown)}")
        finally:
            run_of.end()
    finally:
        programs.end()
    if wrong:
        sys.exit("\n".join(wrong))
    print("each has fired for its hub, and no other; the healthy hub had none")


# The recording as a test ----------------------------------------------------------------------------------------------------------------
SAMPLE_SECONDS = 60
# Where histograms are needed; elsewhere they would be most of the file.
HISTOGRAMS_OF = "healthy|slow"


def written(values):
    """Values as promtool takes them, runs shortened; None: no sample."""
    parts, at = [], 0
    while at < len(values):
        run = 1
        while at + run < len(values) and values[at + run] == values[at]:
            run += 1
        text = "_" if values[at] is None else f"{values[at]:.10g}"
        parts.append(f"{text}x{run - 1 + (text == '_')}" if run > 1 else text)
        at += run
    return " ".join(parts)


def series(names, begin, end):
    """The recorded series of these metrics, with times from 0 on, as the test counts them."""
    count = int((end - begin) / SAMPLE_SECONDS) + 1
    for name in names:
        job = f'{{job=~"{HISTOGRAMS_OF}"}}' if name.endswith("_bucket") else ""
        for one in ask("query_range", query=name + job, start=begin, end=begin + (count - 1) * SAMPLE_SECONDS, step=SAMPLE_SECONDS):
            at = {round((float(when) - begin) / SAMPLE_SECONDS): float(value) for when, value in one["values"]}
            values = [at.get(index) for index in range(count)]
            if name.endswith(("_expiry_seconds", "_timestamp_seconds")):
                values = [value - begin if value else value for value in values]
            if name.endswith("_total") and not any(values):
                continue
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(one["metric"].items()) if key != "__name__")
            yield f"{name}{{{labels}}}", written(values)


def extract(options):
    all_are_named()
    folder = options.folder.resolve()
    programs = hubs.Programs("", "", folder)
    if not is_up(f"http://{PROMETHEUS}/-/ready"):
        serve(programs, folder)
    try:
        begin = int((folder / "begun").read_text())
        names = ["up", *sorted(set(re.findall(r"\bholdfast_[a-z0-9_]+", ALERTS.read_text())))]
        lines = [f"      - {{series: '{name}', values: '{values}'}}" for name, values in series(names, begin, begin + 60 * options.minutes)]
        found = fired(60 * options.minutes, begin + 60 * options.minutes)
    finally:
        programs.end()
    samples = [f"          - {{labels: '{{alertname=\"{name}\", job=\"{job}\"}}', value: 1}}" for job, names in sorted(found.items()) for name in sorted(names)]
    (HERE / "recording.yaml").write_text("\n".join([
        "# Written by recorded.py from a recording of real hubs (README.md): what their alerts read, a sample a minute, times from 0 on.",
        "rule_files: [alerts.yaml]", "evaluation_interval: 1m", "", "tests:", "  - name: the alerts that have fired in the recording, and no other",
        "    interval: 1m", "    input_series:", *lines, "    promql_expr_test:",
        '      - expr: group by (alertname, job) (count_over_time(ALERTS{alertstate="firing"}[2h]))', f"        eval_time: {options.minutes}m",
        "        exp_samples:", *samples]) + "\n")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = arguments.add_subparsers(required=True)
    recording = commands.add_parser("record")
    for name in ("holdfast", "swarm", "folder"):
        recording.add_argument(name, type=pathlib.Path)
    recording.add_argument("--minutes", type=int, default=44)
    recording.set_defaults(do=record)
    extracting = commands.add_parser("extract")
    extracting.add_argument("folder", type=pathlib.Path)
    extracting.add_argument("--minutes", type=int, default=44)
    extracting.set_defaults(do=extract)
    options = arguments.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
