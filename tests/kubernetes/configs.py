#!/usr/bin/env python3
"""Shows each configuration of a rendered chart to `holdfast config check`: configs.py RENDERED HOLDFAST

Of the YAML it needs only the block texts of the ConfigMap, so it needs no library.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

text, holdfast = pathlib.Path(sys.argv[1]).read_text(), sys.argv[2]
found = re.findall(r"^  (\S+\.toml): \|\n((?:    .*\n|\n)+)", text, re.M)
if not found:
    sys.exit("no configuration in the chart")
for name, block in found:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(re.sub(r"^    ", "", block, flags=re.M))
        file.flush()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
        if name == "gateway.toml":
            # From the pod's environment.
            environment |= {"HOLDFAST_CLUSTER_NODE_NAME": "hub-gateway-0", "HOLDFAST_CLUSTER_ADVERTISE": "hub-gateway-0.peers:9700"}
        checked = subprocess.run([holdfast, "config", "check", "--config", file.name], capture_output=True, text=True, env=environment)
        print(name, checked.stdout.strip())
        if checked.returncode:
            sys.exit(f"{name}: {checked.stderr}")
