#!/usr/bin/env bash
# Makes certificates, the sealing key, join tokens and a configuration for each node of compose.yaml, in files/: prepare.sh [HOST]
# Run it once; what is there stays. As root with GROUP=10001, the files are readable by that group, which the user of the image of
# deploy/image is in; compose.yaml runs the nodes as root, which needs none.
set -euo pipefail
cd "$(dirname "$0")"
host=${1:-localhost}
umask 077
mkdir -p files && cd files

authority() { # name subject
  [ -e "$1.pem" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=$2" \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
certificate() { # ca file subject-alternative-names usage
  [ -e "$2.pem" ] && return
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$(basename "$2")" -keyout "$2.key" -out "$2.csr" 2>/dev/null
  openssl x509 -req -in "$2.csr" -CA "$1.pem" -CAkey "$1.key" -CAcreateserial -days 397 -out "$2.pem" \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=%s\nkeyUsage=critical,digitalSignature\n' "$3" "$4") 2>/dev/null
  rm -f "$2.csr"
}

authority ca "Holdfast compose CA"
authority peer-ca "Holdfast compose nodes"
certificate ca server "DNS:$host,DNS:localhost,IP:127.0.0.1" serverAuth
[ -e sealing.key ] || openssl rand -hex 32 > sealing.key
[ -e join-tokens ] || { openssl rand -hex 32; openssl rand -hex 32; } > join-tokens

for i in 1 2 3; do
  node=node-$i
  mkdir -p "$node"
  certificate peer-ca "$node/peer" "DNS:peer.holdfast,DNS:$node.peer.holdfast,DNS:$node" serverAuth,clientAuth
  cp server.pem server.key peer-ca.pem sealing.key "$node/"
  cp ca.pem "$node/ca.pem"
  join=$(for j in 1 2 3; do [ "$j" = "$i" ] || printf '"node-%s:9700", ' "$j"; done)
  if [ "$i" = 1 ]; then
    cp join-tokens "$node/join-tokens"
    first=$'bootstrap = true\nbootstrap_with_all = true\ninitial_tokens_file = "/etc/holdfast/join-tokens"'
  else
    sed -n "$((i - 1))p" join-tokens > "$node/join-token"
    first='join_token_file = "/etc/holdfast/join-token"'
  fi
  cat > "$node/holdfast.toml" <<TOML
[hub]
host = "$host"
aliases = ["localhost"]
data_dir = "/var/lib/holdfast"
connection_file = "/var/lib/holdfast/connection.json"

[tls]
certificate_file = "/etc/holdfast/server.pem"
key_file = "/etc/holdfast/server.key"
ca_file = "/etc/holdfast/ca.pem"

[secrets]
key_file = "/etc/holdfast/sealing.key"

[cluster]
node_name = "$node"
listen = ["0.0.0.0:9700"]
advertise = "$node:9700"
certificate_file = "/etc/holdfast/peer.pem"
key_file = "/etc/holdfast/peer.key"
ca_file = "/etc/holdfast/peer-ca.pem"
join = [${join%, }]
$first

[ops]
listen = "0.0.0.0:9600"
drain_timeout = "60s"
TOML
done
if [ -n "${GROUP:-}" ]; then
  chgrp -R "$GROUP" node-*
  chmod -R g+rX node-*
fi
echo "files/ is ready; devices trust deploy/compose/files/ca.pem"
