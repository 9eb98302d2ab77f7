#!/usr/bin/env bash
# Runs a command with the build's variables: deploy/build/with-env.sh cargo test -p holdfast-auth
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
source deploy/build/env.sh
exec "$@"
