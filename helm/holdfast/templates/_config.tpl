{{/*
A map as TOML: scalars first, then a table per nested map. Helm's own toToml writes whole numbers as floats, which the hub refuses.
(dict "map" MAP "path" "")
*/}}
{{- define "holdfast.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .map -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ include "holdfast.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .map -}}
{{- if kindIs "map" $value -}}
{{- $inner := ternary (printf "%s.%s" $path $key) $key (ne $path "") }}

[{{ $inner }}]
{{- include "holdfast.toml" (dict "map" $value "path" $inner) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "holdfast.tomlValue" -}}
{{- if or (kindIs "float64" .) (kindIs "int64" .) (kindIs "int" .) -}}
{{- int64 . -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end }}

{{/* The keys that all nodes of a role share: (dict "root" $ "role" ROLE "values" ROLE_VALUES). */}}
{{- define "holdfast.sharedConfig" -}}
{{- $v := .root.Values -}}
{{- $any := include "holdfast.anyAddress" .root -}}
{{- $own := dict
  "hub" (dict
    "host" $v.hub.host
    "aliases" (concat $v.hub.aliases (list (include "holdfast.internalName" .root) (include "holdfast.coreName" .root)) | uniq)
    "data_dir" "/var/lib/holdfast/data"
    "partitions" $v.hub.partitions
    "cores" (include "holdfast.cores" .values | int64))
  "listen" (dict "mqtts" (list (printf "%s:8883" $any)) "amqps" (list (printf "%s:5671" $any)) "https" (list (printf "%s:8443" $any)))
  "tls" (dict "certificate_file" "/etc/holdfast/tls/tls.crt" "key_file" "/etc/holdfast/tls/tls.key")
  "ops" (dict "listen" (printf "%s:9600" $any) "drain_timeout" (printf "%ss" (include "holdfast.drainSeconds" (dict "root" .root "sessions" .values.sessions))))
  "device_hub" (dict "drain_rate" $v.drain.rate)
-}}
{{- if include "holdfast.rsaSecret" .root -}}
{{- $_ := set $own.tls "rsa_certificate_file" "/etc/holdfast/tls-rsa/tls.crt" -}}
{{- $_ := set $own.tls "rsa_key_file" "/etc/holdfast/tls-rsa/tls.key" -}}
{{- end -}}
{{- if include "holdfast.caSecret" .root -}}
{{- $_ := set $own.tls "ca_file" "/etc/holdfast/ca/ca.crt" -}}
{{- end -}}
{{- if $v.sealingKey.command -}}
{{- $_ := set $own "secrets" (dict "key_command" $v.sealingKey.command) -}}
{{- else -}}
{{- $_ := set $own "secrets" (dict "key_file" "/etc/holdfast/sealing/sealing.key") -}}
{{- end -}}
{{- if and (eq .role "core") $v.admin.connectionFile -}}
{{- $_ := set $own.hub "connection_file" "/run/holdfast/connection.json" -}}
{{- end -}}
{{- if $v.cluster.enabled -}}
{{- $cluster := dict
  "listen" (list (printf "%s:9700" $any))
  "role" .role
  "replication_factor" $v.hub.replicationFactor
  "certificate_file" "/etc/holdfast/peer/tls.crt"
  "key_file" "/etc/holdfast/peer/tls.key"
  "ca_file" "/etc/holdfast/peer/ca.crt"
  "join_token_file" "/run/holdfast/join-token" -}}
{{- if and (eq .role "gateway") $v.gateway.leaveOnStop -}}
{{- $_ := set $cluster "leave_on_stop" true -}}
{{- end -}}
{{- $_ := set $own "cluster" $cluster -}}
{{- end -}}
{{- mustMergeOverwrite (deepCopy $v.config) $own | toJson -}}
{{- end }}

{{/* What a node listens on: IPv4, or both families, or IPv6 where there is nothing else. */}}
{{- define "holdfast.anyAddress" -}}
{{- ternary "[::]" "0.0.0.0" .Values.ipv6 -}}
{{- end }}

{{/* Changes when a running pod must be restarted to get its configuration. */}}
{{- define "holdfast.configChecksum" -}}
{{- include "holdfast.sharedConfig" . | sha256sum -}}
{{- end }}

{{/* The addresses of core nodes but one: (dict "root" $ "but" ORDINAL). */}}
{{- define "holdfast.coreAddresses" -}}
{{- $root := .root -}}
{{- $but := int .but -}}
{{- $all := list -}}
{{- range $i := until (int .root.Values.core.replicas) -}}
{{- if ne $i $but -}}
{{- $all = append $all (printf "%s-%d.%s:9700" (include "holdfast.fullname" $root) $i (include "holdfast.peerDomain" $root)) -}}
{{- end -}}
{{- end -}}
{{- dict "all" $all | toJson -}}
{{- end }}

{{/* The file of one core node: (dict "root" $ "ordinal" N). */}}
{{- define "holdfast.coreConfig" -}}
{{- $v := .root.Values -}}
{{- $config := include "holdfast.sharedConfig" (dict "root" .root "role" "core" "values" $v.core) | fromJson -}}
{{- if $v.cluster.enabled -}}
{{- $name := printf "%s-%d" (include "holdfast.fullname" .root) (int .ordinal) -}}
{{- $_ := set $config.cluster "node_name" $name -}}
{{- $_ := set $config.cluster "advertise" (printf "%s.%s:9700" $name (include "holdfast.peerDomain" .root)) -}}
{{- $join := (include "holdfast.coreAddresses" (dict "root" .root "but" .ordinal) | fromJson).all -}}
{{- if $join -}}
{{- $_ := set $config.cluster "join" $join -}}
{{- end -}}
{{- if and (eq (int .ordinal) 0) $v.founding.enabled -}}
{{- $_ := set $config.cluster "bootstrap" true -}}
{{- if gt (int $v.core.replicas) 1 -}}
{{- $_ := set $config.cluster "initial_tokens_file" "/run/holdfast/initial-tokens" -}}
{{- $_ := set $config.cluster "bootstrap_with_all" true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq (int .ordinal) 0) $v.founding.enabled $v.founding.policiesSecret -}}
{{- $_ := set $config.hub "initial_policies_file" "/etc/holdfast/policies/policies" -}}
{{- end -}}
{{- include "holdfast.toml" (dict "map" $config "path" "") -}}
{{- end }}
