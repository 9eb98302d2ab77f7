#!/usr/bin/env python3
"""Where artifacts come from, as an in-toto statement with SLSA provenance v1, unsigned: provenance.py FILE… > holdfast.intoto.json

Names each file by its SHA-256, and the commit that is checked out, the lock file and the toolchain; that the files were built from these it takes from you. Equal inputs give equal bytes. Sign it with the tool that signs
your images; `cosign attest-blob` and the like take it as it is.
"""
import hashlib
import json
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def digest(path):
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def git(*arguments):
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def main():
    files = [pathlib.Path(name) for name in sys.argv[1:]]
    if not files:
        sys.exit("provenance: provenance.py FILE…")
    toolchain = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    inputs = [{"name": name, "digest": digest(ROOT / name)} for name in ("Cargo.lock", "rust-toolchain.toml", "deploy/image/Dockerfile")]
    json.dump({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": file.name, "digest": digest(file)} for file in sorted(files, key=lambda file: file.name)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:holdfast:release.sh:1",
                "externalParameters": {"profile": "release", "toolchain": toolchain, "modified": bool(git("status", "--porcelain", "--untracked-files=no"))},
                "internalParameters": {},
                "resolvedDependencies": [{"name": "source", "digest": {"gitCommit": git("rev-parse", "HEAD")}}, *inputs]},
            "runDetails": {"builder": {"id": "urn:holdfast:local"}, "metadata": {"invocationId": git("rev-parse", "HEAD")}}}}, sys.stdout, indent=1)
    print()


main()
