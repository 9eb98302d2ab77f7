#!/usr/bin/env python3
"""Schemas of Kubernetes for kubeconform, from the Python package kubernetes-validate: schemas.py PACKAGE_FOLDER VERSION TARGET

The package has them under addresses of their own (`$id`), which a program would try to fetch. Here each refers to the file beside it.
"""
import json
import pathlib
import sys


def local(node):
    if isinstance(node, dict):
        made = {key: local(value) for key, value in node.items() if not (key == "$id" and isinstance(value, str))}
        if isinstance(made.get("$ref"), str) and "_definitions.json" in made["$ref"]:
            made["$ref"] = "_definitions.json" + made["$ref"].split("_definitions.json", 1)[1]
        return made
    return [local(item) for item in node] if isinstance(node, list) else node


source = pathlib.Path(sys.argv[1]) / f"v{sys.argv[2]}-local-strict"
target = pathlib.Path(sys.argv[3])
target.mkdir(parents=True, exist_ok=True)
for file in source.glob("*.json"):
    (target / file.name).write_text(json.dumps(local(json.loads(file.read_text()))))
