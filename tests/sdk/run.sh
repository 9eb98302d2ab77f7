#!/usr/bin/env bash
# Runs the SDK tests against a hub that is started for them: tests/sdk/run.sh [python|node|java] [arguments of the runner]
# tests/sdk/run.sh folders only installs the SDKs, and prints where they are.
#
# The SDKs are installed once per list of versions, into a cache outside the clone: HOLDFAST_CACHE, else
# ~/.cache/holdfast. HOLDFAST_BIN names the binary under test; without it cargo's debug build counts. Several calls may run
# side by side: each hub has its own loopback address, and only the installation takes turns.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}/sdk
mkdir -p "$cache"
source "$here/../../deploy/build/progress.sh"

say() { printf 'sdk tests: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# once NAME FOLDER COMMAND…: runs COMMAND… unless it has succeeded for this folder before; one at a time.
once() {
  local name=$1 folder=$2
  shift 2
  exec 9>"$folder.lock"
  flock 9
  if [ ! -e "$folder/.complete" ]; then
    rm -rf "$folder"
    mkdir -p "$folder"
    PROGRESS_LOG=$folder.log progress "installing the $name SDKs (once per machine)" 60 0 - true "$@" "$folder" ||
      die "cannot install the SDKs, see $folder.log"
    touch "$folder/.complete"
  fi
  exec 9>&-
}

install_python() {
  python3 -m venv "$1/venv"
  "$1/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
}

install_node() {
  cp "$here/node/package.json" "$here/node/package-lock.json" "$1/"
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund)
}

digest() { cat "$@" | sha256sum | cut -c1-12; }

python_folder() { echo "$cache/python-$(digest "$here/python/requirements.txt")"; }
node_folder() { echo "$cache/node-$(digest "$here/node/package.json" "$here/node/package-lock.json")"; }
java_folder() { echo "$cache/java-$(digest "$here/java/pom.xml")"; }

run_python() {
  command -v python3 >/dev/null || die "python3 is missing (Debian: apt install python3 python3-venv)"
  local folder
  folder=$(python_folder)
  once Python "$folder" install_python
  say "Python: $("$folder/venv/bin/pip" list 2>/dev/null | awk '/^azure-(iot-device|iot-hub|eventhub) /{printf "%s %s  ", $1, $2}')"
  (cd "$here/python" && PYTHONDONTWRITEBYTECODE=1 "$folder/venv/bin/python" -m pytest -p no:cacheprovider "$@")
}

run_node() {
  command -v npm >/dev/null || die "node and npm are missing (Debian: apt install nodejs npm)"
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 18 ] || die "Node $major is too old (18 or newer)"
  # Debian 12 has Node 18. The Event Hubs SDK takes `crypto` for a global, which it is from Node 19 on.
  [ "$major" -ge 19 ] || export NODE_OPTIONS="${NODE_OPTIONS:-} --experimental-global-webcrypto"
  local folder
  folder=$(node_folder)
  once Node "$folder" install_node
  say "Node: $(cd "$folder" && node -p 'Object.entries(require("./package.json").dependencies).map(([n, v]) => n + " " + v).join("  ")')"
  export HOLDFAST_NODE_MODULES=$folder
  local failed=0
  (cd "$here/node" && python3 "$here/harness.py" node --test --test-reporter=spec "$@" ./*.test.mjs) || failed=$?
  # A hub that runs already has no issuer of ours.
  [ -n "${HOLDFAST_CONNECTION_FILE:-}" ] ||
    (cd "$here/node" && python3 "$here/harness.py" --issuer node --test --test-reporter=spec "$@" ./bearer/*.test.mjs) || failed=$?
  return $failed
}

install_java() {
  cp "$here/java/pom.xml" "$1/"
  (cd "$1" && mvn --batch-mode --quiet -Dmaven.repo.local="$1/repository" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies -DoutputDirectory="$1/jars") &&
    rm -rf "$1/repository"
}

run_java() {
  command -v mvn >/dev/null && command -v javac >/dev/null ||
    die "a JDK and Maven are missing (Debian: apt install default-jdk-headless maven)"
  local folder
  folder=$(java_folder)
  once Java "$folder" install_java
  say "Java: $(cd "$folder/jars" && printf '%s  ' iot-device-client-* iot-service-client-* azure-messaging-eventhubs-*)"
  local classes code=0
  classes=$(mktemp -d)
  javac -nowarn -Xlint:none -cp "$folder/jars/*" -d "$classes" "$here"/java/src/*.java &&
    python3 "$here/harness.py" java -Dorg.slf4j.simpleLogger.defaultLogLevel=off \
      -cp "$folder/jars/*:$classes" org.junit.platform.console.ConsoleLauncher \
      execute --disable-banner --disable-ansi-colors --details=tree --scan-classpath "$classes" "$@" || code=$?
  rm -rf "$classes"
  return $code
}

# Installs all SDKs, and prints the folder of each: for other programs that use them.
folders() {
  once Python "$(python_folder)" install_python >&2
  once Node "$(node_folder)" install_node >&2
  once Java "$(java_folder)" install_java >&2
  printf 'python=%s\nnode=%s\njava=%s\n' "$(python_folder)" "$(node_folder)" "$(java_folder)"
}

if [ "${1:-}" = folders ]; then folders; exit; fi

which=${1:-all}
shift || true
code=0
case $which in
  python) run_python "$@" || code=$? ;;
  node) run_node "$@" || code=$? ;;
  java) run_java "$@" || code=$? ;;
  all)
    run_python || code=$?
    run_node || code=$?
    run_java || code=$?
    ;;
  *) die "unknown suite $which (python, node or java)" ;;
esac
if [ $code -eq 0 ]; then say "all passed"; else say "FAILED"; fi
exit $code
