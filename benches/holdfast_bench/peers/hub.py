"""The hub itself, as `holdfast dev` runs it: 4 partitions, default settings."""

import json
import os
from pathlib import Path

from ..machine import Trouble, command_output
from ..processes import Server


def binary(variable, advice):
    path = Path(os.environ.get(variable, ""))
    if not path.is_file():
        raise Trouble(advice)
    return str(path.resolve())


def program():
    return binary("HOLDFAST_BENCH_HUB", "the hub's release binary is missing: run `make build`")


def has_baseline():
    return bool(os.environ.get("HOLDFAST_BENCH_BASELINE"))


def version():
    return command_output(program(), "--version")


class Hub(Server):
    name = "holdfast"

    def program(self):
        return program()

    def connection_file(self):
        return self.folder / "connection.json"

    def connection(self):
        return json.loads(self.connection_file().read_text())

    def command(self):
        # The file of a killed hub would make this one look ready.
        self.connection_file().unlink(missing_ok=True)
        extra = os.environ.get("HOLDFAST_BENCH_HUB_ARGS", "").split()
        return [self.program(), "dev", "--data-dir", str(self.folder), "--host", "127.0.0.1", "--ports", "0", *extra]

    def is_ready(self):
        # Written when everything listens, under its final name at once.
        return self.connection_file().exists()

    def target(self):
        return ["--hub", str(self.connection_file())]


class Baseline(Hub):
    """An earlier hub, run beside this one, so that a change of cost is seen on one machine at one time."""

    name = "baseline"

    def program(self):
        return binary("HOLDFAST_BENCH_BASELINE", "HOLDFAST_BENCH_BASELINE is not a file")
