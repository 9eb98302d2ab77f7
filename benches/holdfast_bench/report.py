"""What parts hand back, and how it is written down."""

import json
import time

from .machine import ROOT


class Part:
    """One part's result: a table, remarks, and all figures."""

    def __init__(self, name, title):
        self.name, self.title = name, title
        self.header, self.rows, self.remarks, self.figures = [], [], [], {}

    def markdown(self):
        lines = [f"## {self.title}", ""]
        if self.rows:
            lines += ["| " + " | ".join(self.header) + " |", "|" + " --- |" * len(self.header)]
            lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in self.rows]
            lines.append("")
        lines += [f"- {remark}" for remark in self.remarks]
        return "\n".join(lines) + "\n"


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(values, form="{:.2f}"):
    """The median, and the least and greatest beside it."""
    return f"{form.format(median(values))} ({form.format(min(values))}–{form.format(max(values))})"


def verdict(value, limit, at_least=False):
    """A figure against its target."""
    met = value >= limit if at_least else value <= limit
    return f"{'≥' if at_least else '≤'} {limit:g}: {'met' if met else 'MISSED'}"


def thousands(value):
    return f"{value:,.0f}"


class Report:
    """Collects parts and rewrites the files after each, so that an interrupted run leaves what it has."""

    def __init__(self, facts, versions):
        self.facts, self.versions, self.parts = facts, versions, []
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self.folder = ROOT / "bench-results" / f"{stamp}-{facts['commit'].split()[0]}"
        self.folder.mkdir(parents=True)

    def add(self, part):
        self.parts.append(part)
        self.write()
        print("\n" + part.markdown(), flush=True)

    def markdown(self):
        lines = ["# Bench", ""]
        lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in self.facts.items()]
        lines += [f"- {key}: {value}" for key, value in self.versions.items()]
        lines += ["", "CPU is user and system time of the server's processes, from /proc. Medians, with least and greatest.", ""]
        return "\n".join(lines) + "\n" + "\n".join(part.markdown() for part in self.parts)

    def write(self):
        (self.folder / "results.md").write_text(self.markdown())
        figures = {part.name: part.figures for part in self.parts}
        document = {"facts": self.facts, "versions": self.versions, "parts": figures}
        (self.folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
