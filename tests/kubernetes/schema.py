#!/usr/bin/env python3
"""The part `config` of the chart's values.schema.json, from docs/configuration.md: schema.py [--write]

docs/configuration.md is generated from the sections of the code, so a key that the hub does not know, or that has another kind, is refused
by `helm` with its name before anything reaches a cluster. Keys that the chart sets itself are left out: a value for them would be a
second opinion. Without --write it only compares; exit code 1: the schema is not up to date.
"""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/configuration.md"
SCHEMA = ROOT / "helm/holdfast/values.schema.json"

# Set by the chart from other values, or by the kubelet.
OWN = {
    "hub": {"host", "aliases", "data_dir", "connection_file", "initial_policies_file", "partitions"},
    "listen": None,
    "tls": {"certificate_file", "key_file", "rsa_certificate_file", "rsa_key_file", "ca_file"},
    "secrets": None,
    "cluster": {"node_name", "listen", "advertise", "zone", "role", "certificate_file", "key_file", "ca_file", "bootstrap", "bootstrap_with_all",
                "leave_on_stop", "join",
                "join_token_file", "initial_tokens_file", "replication_factor"},
    "ops": None,
}
OWN_KEYS = {("device_hub", "drain_rate")}

KINDS = {
    "text": {"type": "string"},
    "path": {"type": "string"},
    "address": {"type": "string"},
    "rate": {"type": "string"},
    "ratio": {"type": "number", "minimum": 0, "maximum": 1},
    "integer": {"type": "integer", "minimum": 0},
    "boolean": {"type": "boolean"},
    "duration": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"},
    "size": {"type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$"},
}


def kind(text):
    if text.startswith("list of "):
        return {"type": "array", "items": {"type": "string"}}
    return KINDS[text]


def sections(page):
    """Section, key and kind of each row."""
    section = None
    for line in page.splitlines():
        if heading := re.match(r"## `\[(.+)\]`$", line):
            section = heading[1]
        elif row := re.match(r"\| `(\w+)`<br>`HOLDFAST_\w+` \| ([^|]+) \|", line):
            yield section, row[1], row[2].strip()


def config_schema(page):
    whole = {"type": "object", "additionalProperties": False, "properties": {}}
    for section, key, kind_name in sections(page):
        own = OWN.get(section, set())
        if own is None or key in own or (section, key) in OWN_KEYS:
            continue
        node = whole
        for part in section.split("."):
            empty = {"type": "object", "additionalProperties": False, "properties": {}}
            node = node["properties"].setdefault(part, empty)
        node["properties"][key] = kind(kind_name)
    return whole


def main():
    schema = json.loads(SCHEMA.read_text())
    wanted = config_schema(PAGE.read_text())
    if len(wanted["properties"]) < 10:
        sys.exit(f"schema: {PAGE} has another form than this script reads")
    if schema["properties"]["config"] == wanted:
        return
    if "--write" not in sys.argv[1:]:
        sys.exit("schema: values.schema.json does not follow docs/configuration.md; run tests/kubernetes/schema.py --write")
    schema["properties"]["config"] = wanted
    SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


main()
