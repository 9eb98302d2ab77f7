#!/usr/bin/env python3
"""The bill of materials of the hub as CycloneDX 1.5: sbom.py [--target TRIPLE] > holdfast.cdx.json

All crates that the binary `holdfast` is built from (not those of tests), with version, licence, checksum of Cargo.lock and who depends on whom;
RocksDB, which one of them bundles, as a component of its own. Compiles nothing, and needs no network once the crates are downloaded.
Equal inputs give equal bytes: the time is SOURCE_DATE_EPOCH, the serial number follows from the content.
"""
import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]


def metadata(target):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target, "--manifest-path", str(ROOT / "Cargo.toml")]
    for offline in (["--offline"], []):
        done = subprocess.run(command + offline, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
    sys.exit(done.stderr)


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    made = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"], "purl": purl(package), "scope": "required"}
    if package["license"]:
        # Older manifests separate alternatives by a slash.
        made["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    if checksum := checksums.get((package["name"], package["version"])):
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        made["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return made


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--target", default="x86_64-unknown-linux-gnu")
    target = arguments.parse_args().target
    facts = metadata(target)
    packages = {package["id"]: package for package in facts["packages"]}
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}
    # What is linked or runs in the build; dependencies of tests alone are not in the binary.
    edges = {node["id"]: sorted(dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])) for node in facts["resolve"]["nodes"]}
    [root] = [key for key, package in packages.items() if package["name"] == "holdfast" and key in facts["workspace_members"]]
    reached, open_ends = {root}, [root]
    while open_ends:
        for child in edges[open_ends.pop()]:
            if child not in reached:
                reached.add(child)
                open_ends.append(child)
    ordered = sorted(reached - {root}, key=lambda key: purl(packages[key]))
    components = [component(packages[key], checksums) for key in ordered]
    dependencies = [{"ref": purl(packages[key]), "dependsOn": sorted({purl(packages[child]) for child in edges[key]})} for key in [root, *ordered]]
    for made in [made for made in components if made["name"] == "librocksdb-sys" and "+" in made["version"]]:
        version = made["version"].split("+", 1)[1]
        bundled = f"pkg:github/facebook/rocksdb@v{version}"
        components.append({"type": "library", "bom-ref": bundled, "name": "rocksdb", "version": version, "purl": bundled, "scope": "required",
                           "licenses": [{"expression": "Apache-2.0 OR GPL-2.0-only"}]})
        next(entry for entry in dependencies if entry["ref"] == made["bom-ref"])["dependsOn"].append(bundled)
        dependencies.append({"ref": bundled, "dependsOn": []})
    when = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", 0)), datetime.timezone.utc)
    hub = component(packages[root], checksums) | {"type": "application"}
    del hub["scope"]
    bill = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"timestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "component": hub,
                     "properties": [{"name": "holdfast:target", "value": target}]},
        "components": components, "dependencies": dependencies,
    }
    content = json.dumps(bill, sort_keys=True)
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    json.dump(bill, sys.stdout, indent=1)
    print()


main()
