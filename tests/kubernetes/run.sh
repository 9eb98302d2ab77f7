#!/usr/bin/env bash
# The chart: run.sh [fast|all|pods|cluster] (default all). HOLDFAST_REWRITE=1 rewrites the golden files and the schema.
#
#   fast   helm lint, golden files of `helm template`, wrong values and their messages, the schema and the dashboards against their
#          sources, the scripts of pods, alerts (where promtool is)
#   pods   its pods as processes, with a real hub: install, gateways, 3 to 5 to 3 nodes, a rolling restart, a lost disk, an outage (pods.py; as
#          root, HOLDFAST_BIN=target/quick/holdfast; some three minutes)
#   cluster [SCENARIO…]
#          a real control plane, compiled from Go modules (once per machine: a quarter of an hour), helm, kubectl, and the pods as
#          processes (cluster.py; as root, HOLDFAST_BIN=…, HOLDFAST_OLD_BIN=… for an older version; some twenty-five minutes). Not part of `make test`
#   all    fast, and kubeconform with the schemas of Kubernetes, a strict decoding of every object into the types of its API, kube-score, checkov
#
# helm, kubeconform and kube-score are compiled once per machine from Go modules, the others installed from the Python index, into the
# cache outside the clone. Exit code 3: something cannot be had here; a line says what was not checked.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root" || exit 2
source deploy/build/progress.sh
mode=${1:-all}
case $mode in fast | all | pods | cluster) ;; *) echo "kubernetes: unknown mode $mode" >&2; exit 2 ;; esac

helm_version=v3.22.0
kubeconform_version=v0.8.0
kube_score_version=v1.20.0
checkov_version=3.3.30
kubernetes_validate_version=1.37.0
# Of the objects' schemas: the oldest that the chart supports, and the newest.
kubernetes_versions="1.30.0 1.37.0"
# Modules that carry custom resource definitions, as MODULE@VERSION:FOLDER; only their files are taken.
crd_folders="github.com/cert-manager/cert-manager@v1.21.2:deploy/crds
  github.com/prometheus-operator/prometheus-operator@v0.85.0:example/prometheus-operator-crd
  sigs.k8s.io/gateway-api@v1.6.3:config/crd/standard"

cache=${HOLDFAST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}/tools/kubernetes
chart=helm/holdfast
here=tests/kubernetes
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache/bin"
passed=0
failed=0
skipped=0

pass() { passed=$((passed + 1)); echo "ok      $*"; }
fail() { failed=$((failed + 1)); echo "FAILED  $*"; }
skip() { skipped=$((skipped + 1)); echo "skipped $*"; }
# Passes or fails by a command, whose output is shown if it fails.
check() {
  local what=$1
  shift
  if "$@" >"$work/output" 2>&1; then pass "$what"; else fail "$what"; sed 's/^/        /' "$work/output" | head -40; fi
}

# A Go program of a fixed version, in the cache under its name: go_tool NAME PACKAGE VERSION. One compilation at a time, so that other work
# on the machine goes on.
go_tool() {
  local at="$cache/bin/$1-$3"
  [ -x "$at" ] && return
  command -v go >/dev/null || return 1
  local bin="$cache/bin/new-$1"
  GOBIN=$bin GOFLAGS="-p=1 ${GOFLAGS:-}" progress "compiling $1 $3 (once per machine)" 120 0 - true nice -n 10 go install "$2@$3" || return 1
  mv "$bin/$1" "$at" && rmdir "$bin"
}
# A Python package in an environment of its own: python_tool NAME VERSION
python_tool() {
  local at="$cache/$1-$2"
  [ -e "$at/.complete" ] && return
  rm -rf "$at"
  python3 -m venv "$at" >/dev/null 2>&1 && progress "installing $1 $2 (once per machine)" 60 0 - true "$at/bin/pip" -q install "$1==$2" && touch "$at/.complete"
}

# A module's files, downloaded if they are not here: module_folder MODULE@VERSION
module_folder() { go mod download -json "$1" | sed -n 's/^\t*"Dir": "\(.*\)",*$/\1/p' | grep .; }
# etcd, the parts of Kubernetes and kubectl, of the versions of cluster/go.mod, with helm, into a folder of their own.
control_plane() {
  command -v go >/dev/null || return 1
  local kubernetes etcd name package flags="-s -w"
  kubernetes=$(cd $here/cluster && go list -m -f '{{.Version}}' k8s.io/kubernetes) && etcd=$(cd $here/cluster && go list -m -f '{{.Version}}' go.etcd.io/etcd/server/v3) || return 1
  plane=$cache/control-plane-$kubernetes-etcd-$etcd
  mkdir -p "$plane"
  # The version that the API server names, by which helm and the chart know what it can.
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags="$flags -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$kubernetes")"
  done
  for package in go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubectl}; do
    name=${package##*/}
    if [ "$name" = v3 ]; then name=etcd; fi
    [ -x "$plane/$name" ] || (cd $here/cluster && export CGO_ENABLED=0 &&
      progress "compiling $name (once per machine)" 600 0 - true nice -n 10 go build -p 2 -trimpath -ldflags "$flags" -o "$plane/new-$name" "$package" && mv "$plane/new-$name" "$plane/$name") || return 1
  done
  ln -sf "$helm" "$plane/helm"
  # cert-manager's controllers, once per state of their sources, since Go's own cache is emptied at times; without them a scenario is skipped.
  rm -f "$plane/certificates"
  if [ -d $here/certificates ]; then
    name=certificates-$(cat $here/certificates/* | sha256sum | cut -c1-12)
    [ -x "$plane/$name" ] || (cd $here/certificates && export CGO_ENABLED=0 &&
      progress "compiling cert-manager (once per machine)" 600 0 - true nice -n 10 go build -p 2 -trimpath -ldflags "-s -w" -o "$plane/new-certificates" . && mv "$plane/new-certificates" "$plane/$name")
    [ -x "$plane/$name" ] && ln -sf "$name" "$plane/certificates"
  fi
  return 0
}

values() { ls $chart/ci/*-values.yaml; }
name_of() { basename "$1" -values.yaml; }
# The chart as a cluster of version $2 would get it. Dashboards are data, and large; they are compared with their source instead.
render() { "$helm" template fleet $chart --namespace iot --kube-version "$2" --values "$1" --set metrics.dashboards.enabled=false; }

go_tool helm helm.sh/helm/v3/cmd/helm $helm_version || { echo "kubernetes: helm cannot be had here (it needs a current Go); the chart is NOT checked" >&2; exit 3; }
helm=$cache/bin/helm-$helm_version

if [ "$mode" = pods ] || [ "$mode" = cluster ]; then
  if [ "$(id -u)" != 0 ] || [ -z "${HOLDFAST_BIN:-}" ] || ! command -v ip unshare setpriv openssl >/dev/null; then
    echo "kubernetes: $mode needs root, HOLDFAST_BIN, ip, unshare, setpriv and openssl; NOT tried" >&2
    exit 3
  fi
  # For its YAML.
  python_tool kubernetes-validate $kubernetes_validate_version || { echo "kubernetes: PyYAML cannot be had here; pods are NOT tried" >&2; exit 3; }
  export PYTHONDONTWRITEBYTECODE=1
  python="$cache/kubernetes-validate-$kubernetes_validate_version/bin/python"
  if [ "$mode" = pods ]; then exec "$python" $here/pods.py "$helm" "$HOLDFAST_BIN"; fi

  shift
  control_plane || { echo "kubernetes: the control plane cannot be compiled here (it needs a current Go); the chart is NOT run on it" >&2; exit 3; }
  crds=()
  for where in $crd_folders; do
    folder=$(module_folder "${where%%:*}") && crds+=(--crds "$folder/${where#*:}") || echo "kubernetes: ${where%%:*} cannot be had; its kinds are not applied" >&2
  done
  exec "$python" $here/cluster.py --tools "$plane" --holdfast "$HOLDFAST_BIN" ${HOLDFAST_OLD_BIN:+--old "$HOLDFAST_OLD_BIN"} "${crds[@]}" "$@"
fi

if [ -n "${HOLDFAST_REWRITE:-}" ]; then python3 $here/schema.py --write; fi
check "the schema follows docs/configuration.md" python3 $here/schema.py
check "dashboards follow their source, metrics and sections of alerts exist" python3 deploy/monitoring/dashboards.py
check "scripts of pods" sh $here/scripts_test.sh

for file in $(values); do
  name=$(name_of "$file")
  check "helm lint $name" "$helm" lint --strict --quiet $chart --values "$file" --kube-version 1.35.0
  if ! render "$file" 1.35.0 >"$work/$name.yaml" 2>"$work/error"; then
    fail "helm template $name: $(cat "$work/error")"
    continue
  fi
  if [ -n "${HOLDFAST_REWRITE:-}" ]; then cp "$work/$name.yaml" "$here/golden/$name.yaml"; fi
  check "golden file $name (HOLDFAST_REWRITE=1 rewrites it)" diff -u "$here/golden/$name.yaml" "$work/$name.yaml"
done

check "all alerts are in the PrometheusRule" [ "$(grep -c ' alert: ' "$work/three-nodes.yaml")" = "$(grep -c ' alert: ' $chart/files/alerts.yaml)" ]

# Wrong values: options of helm, a tab, a part of the message.
while IFS=$'\t' read -r options message; do
  case $options in '' | '#'*) continue ;; esac
  # shellcheck disable=SC2086
  if output=$("$helm" template fleet $chart --kube-version 1.35.0 --set hub.host=hub.example.com $options 2>&1 >/dev/null); then
    fail "accepted: $options"
  elif grep -qF -- "$message" <<<"$output"; then
    pass "refused: $options"
  else
    fail "refused without \"$message\": $options: $output"
  fi
done <$here/wrong-values.tsv

if command -v promtool >/dev/null; then
  cp $chart/files/alerts.yaml $here/alerts_test.yaml "$work/"
  check "alerts" bash -c "cd '$work' && promtool check rules --lint-fatal alerts.yaml && promtool test rules alerts_test.yaml"
  cp tests/observability/recording.yaml "$work/"
  check "alerts on recorded data" bash -c "cd '$work' && promtool test rules recording.yaml"
  check "queries of dashboards" bash -c "python3 deploy/monitoring/dashboards.py --rules >'$work/dashboards.yaml' && promtool check rules '$work/dashboards.yaml'"
else
  skip "alerts: promtool (Debian: prometheus) is not installed"
fi
# A hub's own opinion of the configurations, where there is one: HOLDFAST_BIN=target/quick/holdfast
if [ -n "${HOLDFAST_BIN:-}" ]; then
  for file in $(values); do
    check "holdfast config check $(name_of "$file")" python3 $here/configs.py "$work/$(name_of "$file").yaml" "$HOLDFAST_BIN"
  done
else
  skip "configurations are not shown to a hub: HOLDFAST_BIN is not set"
fi

if [ "$mode" = all ]; then
  for version in $kubernetes_versions; do
    for file in $(values); do render "$file" "$version" >"$work/$(name_of "$file")-$version.yaml"; done
  done
  if go_tool kubeconform github.com/yannh/kubeconform/cmd/kubeconform $kubeconform_version && python_tool kubernetes-validate $kubernetes_validate_version; then
    # The package carries the schemas of each version of Kubernetes; those of other groups (cert-manager, …) are decoded below.
    schemas=$(echo "$cache"/kubernetes-validate-$kubernetes_validate_version/lib/python3*/site-packages/kubernetes_validate/kubernetes-json-schema)
    for version in $kubernetes_versions; do
      python3 $here/schemas.py "$schemas" "$version" "$work/schemas-$version"
      for file in $(values); do
        name=$(name_of "$file")
        check "kubeconform $name, Kubernetes $version" "$cache/bin/kubeconform-$kubeconform_version" -strict -summary -kubernetes-version "$version" \
          -schema-location "$work/schemas-$version/{{.ResourceKind}}{{.KindSuffix}}.json" \
          -skip Certificate,Issuer,ServiceMonitor,PrometheusRule,TLSRoute "$work/$name-$version.yaml"
      done
    done
  else
    skip "kubeconform or its schemas cannot be had here"
  fi
  if command -v go >/dev/null && (cd $here/decode && GOFLAGS="-p=1 ${GOFLAGS:-}" progress "compiling the decoder (once per machine)" 120 0 - true nice -n 10 go build -o "$cache/bin/decode" .); then
    for file in $(values); do
      check "strict decoding $(name_of "$file")" "$cache/bin/decode" "$work/$(name_of "$file").yaml"
    done
  else
    skip "the decoder cannot be compiled here: objects of cert-manager, Prometheus and the Gateway API are NOT checked"
  fi
  # Without a CPU limit on purpose: waived.txt, CKV_K8S_11.
  if go_tool kube-score github.com/zegl/kube-score/cmd/kube-score $kube_score_version; then
    ignored=$(sed -n 's/^kube-score \([^ ]*\) .*/--ignore-test \1/p' $here/waived.txt | tr '\n' ' ')
    for file in $(values); do
      # shellcheck disable=SC2086
      check "kube-score $(name_of "$file")" "$cache/bin/kube-score-$kube_score_version" score --kubernetes-version v1.35 --ignore-container-cpu-limit --output-format ci $ignored "$work/$(name_of "$file").yaml"
    done
  else
    skip "kube-score cannot be had here"
  fi
  if python_tool checkov $checkov_version; then
    ignored=$(sed -n 's/^checkov \([^ ]*\) .*/\1/p' $here/waived.txt | paste -sd, -)
    for file in $(values); do
      check "checkov $(name_of "$file")" "$cache/checkov-$checkov_version/bin/checkov" --quiet --compact --framework kubernetes --skip-download \
        --skip-check "$ignored" --file "$work/$(name_of "$file").yaml"
    done
  else
    skip "checkov cannot be had here"
  fi
fi

echo "kubernetes: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
