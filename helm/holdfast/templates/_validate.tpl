{{/*
What no schema can say: values that contradict each other. Each failure names the value and the remedy.
*/}}
{{- define "holdfast.validate" -}}
{{- $v := .Values -}}
{{- $core := int64 $v.core.replicas -}}
{{- $factor := int64 $v.hub.replicationFactor -}}
{{- $full := include "holdfast.fullname" . -}}
{{- if not $v.hub.host -}}
{{- fail "hub.host is not set: give the host name that devices and back ends use, such as hub.example.com" -}}
{{- end -}}
{{- if gt $factor $core -}}
{{- fail (printf "hub.replicationFactor is %d, and core.replicas only %d: each replica needs a core node of its own; raise core.replicas, or set hub.replicationFactor to 1 for a trial" $factor $core) -}}
{{- end -}}
{{- if gt (len $full) 40 -}}
{{- fail (printf "the name %q has %d characters: set fullnameOverride to at most 40, since nodes are called like their pods" $full (len $full)) -}}
{{- end -}}
{{- if not $v.cluster.enabled -}}
{{- if gt $core 1 -}}
{{- fail (printf "cluster.enabled is false, and core.replicas is %d: several nodes need each other's certificates; leave cluster.enabled true" $core) -}}
{{- end -}}
{{- if $v.gateway.enabled -}}
{{- fail "cluster.enabled is false, and gateway.enabled is true: gateways join a cluster; leave cluster.enabled true" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.tls.mode "existingSecret") (not $v.tls.existingSecret) -}}
{{- fail "tls.existingSecret is not set, and tls.mode is existingSecret: name a Secret with tls.crt and tls.key" -}}
{{- end -}}
{{- if and $v.cluster.enabled (eq $v.peerTls.mode "existingSecret") (not $v.peerTls.existingSecret) -}}
{{- fail "peerTls.existingSecret is not set, and peerTls.mode is existingSecret: name a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if and $v.gateway.enabled (not (include "holdfast.hasAdmin" .)) -}}
{{- fail "gateway.enabled is true without a credential: set admin.existingSecret or admin.serviceAccountToken.enabled, by which gateways get their join tokens" -}}
{{- end -}}
{{- if and $v.admin.existingSecret $v.admin.serviceAccountToken.enabled -}}
{{- fail "admin.existingSecret and admin.serviceAccountToken.enabled are both set: use one" -}}
{{- end -}}
{{- $auth := default dict $v.config.auth -}}
{{- $oidc := default dict $auth.oidc -}}
{{- if and $v.admin.serviceAccountToken.enabled (not $oidc.issuer) -}}
{{- fail "admin.serviceAccountToken.enabled is true, and config.auth.oidc.issuer is not set: the hub must know this cluster's issuer" -}}
{{- end -}}
{{- if $v.gateway.autoscaling.enabled -}}
{{- if lt (int64 $v.gateway.autoscaling.maxReplicas) (int64 $v.gateway.autoscaling.minReplicas) -}}
{{- fail "gateway.autoscaling.maxReplicas is less than gateway.autoscaling.minReplicas" -}}
{{- end -}}
{{- if not $v.gateway.enabled -}}
{{- fail "gateway.autoscaling.enabled is true, and gateway.enabled is false" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.service.backends "gateway") (not $v.gateway.enabled) -}}
{{- fail "service.backends is gateway, and gateway.enabled is false: there would be no backend" -}}
{{- end -}}
{{- if and (eq $v.zone.source "value") (not $v.zone.value) -}}
{{- fail "zone.value is not set, and zone.source is value" -}}
{{- end -}}
{{- if and $v.metrics.prometheusRule.enabled (not $v.metrics.prometheusRule.runbookUrl) -}}
{{- fail "metrics.prometheusRule.runbookUrl is not set: give the address of docs/runbook.md that alerts link to" -}}
{{- end -}}
{{- if and $v.gatewayApi.enabled (not $v.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.parentRefs is empty: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- $nodes := add $core (ternary (ternary (int64 $v.gateway.autoscaling.maxReplicas) (int64 $v.gateway.replicas) $v.gateway.autoscaling.enabled) 0 $v.gateway.enabled) -}}
{{- if gt $nodes 128 -}}
{{- fail (printf "core.replicas and gateways are %d nodes together: a hub has at most 128" $nodes) -}}
{{- end -}}
{{- /* Only a live cluster knows how many there are; without one nothing is found. */ -}}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace $full -}}
{{- if $live -}}
{{- $owner := get (default dict $live.metadata.annotations) "meta.helm.sh/release-name" -}}
{{- if and $owner (ne $owner .Release.Name) -}}
{{- fail (printf "the StatefulSet %s belongs to the release %q: two hubs of one namespace need different names; choose another release name or fullnameOverride" $full $owner) -}}
{{- end -}}
{{- $before := int64 $live.spec.replicas -}}
{{- $hook := and $v.scaleIn.hook (include "holdfast.hasAdmin" .) -}}
{{- if and (lt $core $before) (not $hook) (not $v.scaleIn.removedByHand) -}}
{{- fail (printf "core.replicas goes from %d to %d: set admin.existingSecret, so that the members are drained and removed first; or do it by hand (docs/kubernetes.md, \"Fewer core nodes\") and set scaleIn.removedByHand to true" $before $core) -}}
{{- end -}}
{{- end -}}
{{- end }}
