#!/usr/bin/env python3
"""The dashboards as pictures, without Grafana: draw.py FOLDER OUT

Reads the dashboards' JSON (helm/holdfast/files/dashboards), evaluates each panel's queries by a real Prometheus over a recording
(recorded.py), and draws the panels where the grid has them, with their titles, units and legends: OUT/dashboard-NAME.png. Names panels without data.
Needs matplotlib; Prometheus is started over FOLDER/prometheus unless the recording still runs.
"""
import argparse
import datetime
import json
import math
import pathlib
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as dates
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter
from PIL import Image

import hubs
import recorded

DASHBOARDS = recorded.ROOT / "helm/holdfast/files/dashboards"
# Which hubs of the recording a picture shows, as the variables at its top would choose them.
JOBS = {"overview": "nodes", "cluster": "nodes", "security": "network|clients"}
STEP_SECONDS = 30
# As Grafana counts it: four scrapes.
RATE_INTERVAL = f"{4 * recorded.SCRAPE_SECONDS}s"
LEGEND_ENTRIES = 8
INK, GRID, BACK, PANEL = "#24292e", "#e3e5e8", "#f4f5f5", "#ffffff"


def scaled(value, steps, base):
    power = 0
    while abs(value) >= base and power < len(steps) - 1:
        value, power = value / base, power + 1
    return f"{value:.3g}{steps[power]}" if abs(value) < 1000 else f"{value:.0f}{steps[power]}"


def seconds(value):
    size = abs(value)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if size >= 2 * length:
            return f"{value / length:.3g} {unit}"
    return f"{value * 1000:.3g} ms" if 0 < size < 1 else f"{value:.3g} s"


def shown(value, unit):
    """A number in the unit, as Grafana writes it."""
    if value is None or math.isnan(value):
        return "–"
    if unit == "s":
        return seconds(value)
    if unit == "bytes":
        return scaled(value, [" B", " KiB", " MiB", " GiB", " TiB"], 1024)
    if unit == "Bps":
        return scaled(value, [" B/s", " kB/s", " MB/s", " GB/s"], 1000)
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    suffix = {"short": "", "msg/s": " msg/s", "ops": "/s", "reqps": " req/s"}[unit]
    return scaled(value, ["", " k", " M"], 1000) + suffix


def legend(labels, pattern):
    if pattern == "__auto":
        return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "value"
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern).strip()


def series(panel, job, begin, end):
    """Legend, times and values of each line of a panel."""
    lines = []
    for target in panel["targets"]:
        query = target["expr"].replace("$job", job).replace("$instance", ".*").replace("$__rate_interval", RATE_INTERVAL)
        for one in recorded.ask("query_range", query=query, start=begin, end=end, step=STEP_SECONDS):
            by_time = {float(at): float(value) for at, value in one["values"]}
            # Holes stay holes.
            times = [begin + at * STEP_SECONDS for at in range(int((end - begin) / STEP_SECONDS) + 1)]
            lines.append((legend(one["metric"], target["legendFormat"]), times, [by_time.get(at, math.nan) for at in times]))
    return sorted(lines)


def last(values):
    known = [value for value in values if not math.isnan(value)]
    return known[-1] if known else math.nan


def color(panel, value):
    reached = [step["color"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if step["value"] is None or value >= step["value"]]
    return {"green": "#1a7f37", "red": "#cf222e"}[reached[-1]]


def draw_stat(axes, panel, lines):
    axes.axis("off")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for at, (name, _, values) in enumerate(lines):
        x = (at + 0.5) / len(lines)
        several = len(lines) > 1
        axes.text(x, 0.55 if several else 0.45, shown(last(values), unit), ha="center", va="center", fontsize=11 if several else 17, weight="bold",
                  color=color(panel, last(values)))
        if several or name != "value":
            axes.text(x, 0.12, name, ha="center", va="center", fontsize=6.5, color=INK)


def draw_lines(axes, panel, lines, span):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for name, times, values in lines[:40]:
        axes.plot([datetime.datetime.fromtimestamp(at, datetime.timezone.utc) for at in times], values, linewidth=1.1, marker="." if sum(not math.isnan(value) for value in values) < 5 else None, label=f"{name}  {shown(values[-1], unit)}")
    axes.set_xlim(*(datetime.datetime.fromtimestamp(at, datetime.timezone.utc) for at in span))
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] <= 0 or all(math.isnan(value) or value == 0 for _, _, values in lines for value in values):
        axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(labelsize=6.5, colors=INK, length=2)
    axes.grid(color=GRID, linewidth=0.6)
    for side in axes.spines.values():
        side.set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > LEGEND_ENTRIES:
        handles, names = handles[:LEGEND_ENTRIES], [*names[:LEGEND_ENTRIES - 1], f"and {len(names) - LEGEND_ENTRIES + 1} more"]
    axes.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=min(max(1, len(names)), 4 if max(map(len, names), default=0) < 32 else 2), fontsize=6.2, frameon=False, handlelength=1.2,
                columnspacing=1.2, borderaxespad=0.2)


def draw(name, begin, end, out):
    """Returns the titles of panels without data."""
    board = json.loads((DASHBOARDS / f"{name}.json").read_text())
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 2
    figure = plt.figure(figsize=(24 * 0.48, height * 0.25), dpi=100, facecolor=BACK)
    figure.text(0.01, 1 - 0.9 / height, board["title"], fontsize=13, color=INK, weight="bold", va="center")
    figure.text(0.99, 1 - 0.9 / height, f"job: {JOBS[name].replace('|', ' + ')}   times in UTC", fontsize=7.5, color=INK, va="center", ha="right")
    empty = []
    for panel in board["panels"]:
        place = panel["gridPos"]
        left, top, width, tall = place["x"] / 24, 1 - (place["y"] + 2) / height, place["w"] / 24, place["h"] / height
        if panel["type"] == "row":
            figure.text(left + 0.01, top - tall / 2, f"▾ {panel['title']}", fontsize=9, color=INK, va="center", weight="bold")
            continue
        unit_x, unit_y = 1 / 24, 1 / height
        figure.patches.append(matplotlib.patches.Rectangle((left + 0.06 * unit_x, top - tall + 0.1 * unit_y), width - 0.12 * unit_x, tall - 0.2 * unit_y, facecolor=PANEL,
                                                           edgecolor=GRID, transform=figure.transFigure, zorder=-1))
        figure.text(left + 0.25 * unit_x, top - 0.75 * unit_y, panel["title"], fontsize=7.5 if panel["type"] == "stat" else 8.5, color=INK, va="center")
        lines = series(panel, JOBS[name], begin, end)
        stat = panel["type"] == "stat"
        space = (0.2, 0.3, 0.2, 1.5) if stat else (1.3, 2.4, 0.3, 1.5)
        axes = figure.add_axes((left + space[0] * unit_x, top - tall + space[1] * unit_y, width - (space[0] + space[2]) * unit_x, tall - (space[1] + space[3]) * unit_y))
        axes.set_facecolor("none")
        if not lines:
            empty.append(panel["title"])
            axes.axis("off")
            axes.text(0.5, 0.5, panel["fieldConfig"]["defaults"]["noValue"], ha="center", va="center", color="#8a8f94", fontsize=10)
        elif stat:
            draw_stat(axes, panel, lines)
        else:
            draw_lines(axes, panel, lines, (begin, end))
    file = out / f"dashboard-{name}.png"
    figure.savefig(file, dpi=100, facecolor=BACK)
    plt.close(figure)
    # A third of the bytes, and looks the same.
    Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)
    return empty


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("out", type=pathlib.Path)
    arguments.add_argument("--minutes", type=float, default=44)
    options = arguments.parse_args()
    folder = options.folder.resolve()
    programs = None
    if not recorded.is_up(f"http://{recorded.PROMETHEUS}/-/ready"):
        programs = hubs.Programs("", "", folder)
        recorded.serve(programs, folder)
    try:
        begin = int((folder / "begun").read_text())
        for name in JOBS:
            empty = draw(name, begin, begin + int(60 * options.minutes), options.out)
            print(f"{name}: " + (f"without data: {', '.join(empty)}" if empty else "each panel has data"))
    finally:
        if programs:
            programs.end()


main()
