#!/usr/bin/env bash
# Event Hubs processors of Python, Node, Java and Go beside three nodes of which one restarts every minute; see soak.py.
# HOLDFAST_BIN names the binary under test, as for tests/sdk/run.sh.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sdk=$here/../sdk
eval "$("$sdk/run.sh" folders)"
# Set by the line above.
: "${python:?}" "${node:?}" "${java:?}"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/classes"
javac -nowarn -Xlint:none -cp "$java/jars/*" -d "$work/classes" "$sdk"/java/src/*.java
programs="{\"python\": [\"$python/venv/bin/python\", \"$here/processor.py\"], \"node\": [\"node\", \"--experimental-global-webcrypto\", \"$here/processor.mjs\"]"
programs+=", \"java\": [\"java\", \"-Xmx256m\", \"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn\", \"-cp\", \"$java/jars/*:$work/classes\", \"ProcessorSoak\"]"
if command -v go >/dev/null; then
  (cd "$here/go" && go build -o "$work/soak-go" .)
  programs+=", \"go\": [\"$work/soak-go\"]"
elif [[ " $* " != *" --only "* ]]; then
  set -- "$@" --only python,node,java
fi
node_major=$(node -p 'process.versions.node.split(".")[0]')
[ "$node_major" -lt 19 ] || programs=${programs/\"--experimental-global-webcrypto\", /}
HOLDFAST_SOAK_PROGRAMS="$programs}" HOLDFAST_NODES=3 HOLDFAST_NODE_MODULES=$node "$python/venv/bin/python" "$here/soak.py" "$@"
