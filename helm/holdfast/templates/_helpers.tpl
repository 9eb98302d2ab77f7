{{/*
Names, labels, and what is computed from values. Pods are called FULLNAME-n and FULLNAME-gateway-n, and nodes like their pods.
*/}}
{{- define "holdfast.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride -}}
{{- end }}

{{- define "holdfast.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* All pods of the release. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of pods: nothing that changes with the chart alone, so that a new chart with the same configuration restarts nothing. */}}
{{- define "holdfast.podLabels" -}}
{{ include "holdfast.selector" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The metadata of an object: (dict "root" $ "name" NAME "annotations" MAP). */}}
{{- define "holdfast.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "holdfast.labels" .root | nindent 2 }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) (default (dict) .root.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "holdfast.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "holdfast.serviceAccount" -}}
{{- default (ternary (include "holdfast.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end }}

{{/* The name of the Service inside the cluster; an alias of the hub. */}}
{{- define "holdfast.internalName" -}}
{{ include "holdfast.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Where the chart's own commands go: core nodes, since gateways cannot be asked before they have joined. Another alias. */}}
{{- define "holdfast.coreName" -}}
{{ include "holdfast.fullname" . }}-core.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "holdfast.peerService" -}}
{{ include "holdfast.fullname" . }}-peers
{{- end }}

{{/* The domain of the pods' own names. */}}
{{- define "holdfast.peerDomain" -}}
{{ include "holdfast.peerService" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "holdfast.tlsSecret" -}}
{{- if eq .Values.tls.mode "certManager" }}{{ include "holdfast.fullname" . }}-tls{{ else }}{{ .Values.tls.existingSecret }}{{ end -}}
{{- end }}

{{- define "holdfast.rsaSecret" -}}
{{- if and (eq .Values.tls.mode "certManager") .Values.tls.certManager.rsa }}{{ include "holdfast.fullname" . }}-tls-rsa{{ else }}{{ .Values.tls.rsaExistingSecret }}{{ end -}}
{{- end }}

{{/* The Secret whose ca.crt clients inside the cluster trust. */}}
{{- define "holdfast.caSecret" -}}
{{- $own := and (eq .Values.tls.mode "certManager") (not .Values.tls.certManager.issuerRef.name) -}}
{{- default (ternary (include "holdfast.tlsSecret" .) "" $own) .Values.tls.caSecret -}}
{{- end }}

{{/* The Secret with certificates for nodes: (dict "root" $ "role" ROLE). */}}
{{- define "holdfast.peerSecret" -}}
{{- $values := .root.Values.peerTls -}}
{{- if eq $values.mode "existingSecret" -}}
{{- if eq .role "gateway" }}{{ default $values.existingSecret $values.gatewayExistingSecret }}{{ else }}{{ $values.existingSecret }}{{ end -}}
{{- else -}}
{{ include "holdfast.fullname" .root }}-peer-{{ .role }}
{{- end -}}
{{- end }}

{{- define "holdfast.sealingSecret" -}}
{{- default (printf "%s-sealing-key" (include "holdfast.fullname" .)) .Values.sealingKey.existingSecret -}}
{{- end }}

{{- define "holdfast.foundingSecret" -}}
{{- default (printf "%s-join" (include "holdfast.fullname" .)) .Values.founding.tokensSecret -}}
{{- end }}

{{/* Whether the chart has a credential for administration. */}}
{{- define "holdfast.hasAdmin" -}}
{{- if or .Values.admin.existingSecret .Values.admin.serviceAccountToken.enabled }}true{{ end -}}
{{- end }}

{{/*
Seconds for closing sessions, a fifth more than sessions / rate, 20 at least: (dict "root" $ "sessions" N).
*/}}
{{- define "holdfast.drainSeconds" -}}
{{- $rate := int64 .root.Values.drain.rate -}}
{{- $seconds := div (add (mul (int64 .sessions) 12) (mul $rate 10) -1) (mul $rate 10) -}}
{{- max 20 $seconds -}}
{{- end }}

{{/*
How long a pod may take to stop (docs/runbook.md, "Rolling restart and upgrade"): twice the time for closing sessions, half a minute for
leaderships and the flush, and the wait before. (dict "root" $ "role" ROLE "values" ROLE_VALUES)
*/}}
{{- define "holdfast.graceSeconds" -}}
{{- $drain := include "holdfast.drainSeconds" (dict "root" .root "sessions" .values.sessions) | int64 -}}
{{- $needed := add (mul 2 $drain) 30 (int64 .root.Values.drain.preStopSeconds) -}}
{{- $given := .values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- $needed -}}
{{- else if lt (int64 $given) (int64 $needed) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds is %d, and closing %d sessions at drain.rate %d needs %d: leave it out, lower %s.sessions or raise drain.rate" .role (int64 $given) (int64 .values.sessions) (int64 .root.Values.drain.rate) (int64 $needed) .role) -}}
{{- else -}}
{{- int64 $given -}}
{{- end -}}
{{- end }}

{{/* Core runtimes of a pod: one per two CPUs of the limit, else of the request; 1 at least. */}}
{{- define "holdfast.cores" -}}
{{- $cpu := "1" -}}
{{- with .resources }}
{{- with .requests }}{{ with .cpu }}{{ $cpu = toString . }}{{ end }}{{ end -}}
{{- with .limits }}{{ with .cpu }}{{ $cpu = toString . }}{{ end }}{{ end -}}
{{- end -}}
{{- $milli := ternary (trimSuffix "m" $cpu | float64) (mulf (float64 $cpu) 1000.0) (hasSuffix "m" $cpu) -}}
{{- max 1 (ceil (divf $milli 2000.0) | int64) -}}
{{- end }}

{{/* As many core pods as may be away: a minority of the replicas. */}}
{{- define "holdfast.spare" -}}
{{- div (sub (int64 .Values.hub.replicationFactor) 1) 2 -}}
{{- end }}
