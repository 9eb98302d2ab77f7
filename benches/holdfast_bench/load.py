"""Calls of swarm; each gives back the report that swarm wrote."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from .machine import Trouble, command_output


def program():
    path = Path(os.environ.get("HOLDFAST_BENCH_SWARM", ""))
    if not path.is_file():
        raise Trouble("swarm's release binary is missing: start with benches/run.sh")
    return str(path.resolve())


def version():
    return command_output(program(), "--version")


def start(subcommand, arguments, report=None):
    """Starts swarm and gives the process back; `report` is where it writes its figures."""
    command = [program(), subcommand, *map(str, arguments)]
    if report:
        command += ["--json", str(report)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, what, report=None):
    """Waits for a started swarm."""
    out, err = process.communicate()
    if process.returncode:
        raise Trouble(f"swarm {what} failed: {err.strip()[:600]} {out.strip()[-300:]}")
    return json.loads(Path(report).read_text()) if report else out


def run(subcommand, arguments):
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        return finish(start(subcommand, arguments, report), subcommand, report)


def measured(server):
    """How swarm finds a server and the processes to measure."""
    return [*server.target(), "--pid", ",".join(map(str, server.pids()))]


def publish(server, connections, window, seconds, *more):
    """Whole windows at a time, as in the tables of earlier measurements, unless `more` says otherwise."""
    arguments = ["-n", connections, "-w", window, "--refill", window, "--duration", seconds, "--quiet"]
    return run("publish", [*measured(server), *arguments, *more])
