{{/*
What core and gateway pods have in common: (dict "root" $ "role" ROLE "values" ROLE_VALUES). Restricted by Pod Security's standard; no
volume has a subPath, so that renewed certificates arrive.
*/}}
{{- define "holdfast.podSpec" -}}
{{- $root := .root -}}
{{- $v := .root.Values -}}
{{- $values := .values -}}
{{- $role := .role -}}
{{- $full := include "holdfast.fullname" .root -}}
serviceAccountName: {{ include "holdfast.serviceAccount" .root }}
automountServiceAccountToken: false
# The hub refuses variables of its own prefix that it does not know; Kubernetes makes some of each Service's name.
enableServiceLinks: false
{{- with $v.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ include "holdfast.graceSeconds" . }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 $v.podSecurity.uid }}
  runAsGroup: {{ int64 $v.podSecurity.gid }}
  fsGroup: {{ int64 $v.podSecurity.gid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  podAntiAffinity:
    {{- if eq $values.hostSpread "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- include "holdfast.selector" $root | nindent 12 }}
            app.kubernetes.io/component: {{ $role }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "holdfast.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ $role }}
    {{- end }}
  {{- with $values.affinity }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: {{ $values.zoneSpread }}
    labelSelector:
      matchLabels:
        {{- include "holdfast.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $role }}
{{- if $v.cluster.enabled }}
initContainers:
  - name: prepare
    image: {{ include "holdfast.image" $root }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    command: ["/bin/sh", "/etc/holdfast/scripts/prepare.sh"]
    env:
      - name: NODE
        valueFrom: {fieldRef: {fieldPath: metadata.name}}
      - name: ROLE
        value: {{ $role }}
      {{- if eq $role "core" }}
      - name: FOUNDING
        valueFrom: {configMapKeyRef: {name: {{ $full }}, key: founding}}
      - name: OTHERS
        valueFrom: {configMapKeyRef: {name: {{ $full }}, key: others}}
      {{- end }}
      - name: FOUNDING_SECRET
        value: {{ include "holdfast.foundingSecret" $root }}
      - name: GATEWAYS
        value: {{ $full }}-gateway-
      {{- with include "holdfast.adminEnv" $root | trim }}{{ . | nindent 6 }}{{ end }}
    # The message of a refusal is shown by `kubectl describe pod`.
    terminationMessagePolicy: FallbackToLogsOnError
    resources:
      {{- toYaml $values.resources | nindent 6 }}
    securityContext:
      {{- include "holdfast.containerSecurity" $root | nindent 6 }}
    volumeMounts:
      - {name: data, mountPath: /var/lib/holdfast, readOnly: true}
      - {name: run, mountPath: /run/holdfast}
      - {name: join, mountPath: /etc/holdfast/join, readOnly: true}
      - {name: scripts, mountPath: /etc/holdfast/scripts, readOnly: true}
      {{- with include "holdfast.adminMounts" $root | trim }}{{ . | nindent 6 }}{{ end }}
{{- end }}
containers:
  - name: holdfast
    image: {{ include "holdfast.image" $root }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    {{- if eq $role "core" }}
    args: ["start", "--config", "/etc/holdfast/config/$(POD_NAME).toml"]
    {{- else }}
    args: ["start", "--config", "/etc/holdfast/config/gateway.toml"]
    {{- end }}
    env:
      - name: POD_NAME
        valueFrom: {fieldRef: {fieldPath: metadata.name}}
      {{- if eq $role "gateway" }}
      - name: HOLDFAST_CLUSTER_NODE_NAME
        value: $(POD_NAME)
      - name: HOLDFAST_CLUSTER_ADVERTISE
        value: $(POD_NAME).{{ include "holdfast.peerDomain" $root }}:9700
      {{- end }}
      {{- if eq $v.zone.source "podLabel" }}
      - name: HOLDFAST_CLUSTER_ZONE
        valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
      {{- else if eq $v.zone.source "value" }}
      - name: HOLDFAST_CLUSTER_ZONE
        value: {{ $v.zone.value | quote }}
      {{- end }}
      {{- if and (eq $role "core") $v.admin.connectionFile }}
      # For commands inside of the pod.
      - name: HOLDFAST_CONNECTION_FILE
        value: /run/holdfast/connection.json
      {{- end }}
      {{- with $values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - {name: mqtts, containerPort: 8883}
      - {name: amqps, containerPort: 5671}
      - {name: https, containerPort: 8443}
      - {name: peer, containerPort: 9700}
      - {name: ops, containerPort: 9600}
    startupProbe:
      httpGet: {path: /livez, port: ops}
      periodSeconds: 5
      timeoutSeconds: 3
      failureThreshold: {{ div (add (int64 $v.probes.startupSeconds) 4) 5 }}
    livenessProbe:
      httpGet: {path: /livez, port: ops}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: ops}
      periodSeconds: 5
      timeoutSeconds: 3
      failureThreshold: 2
    lifecycle:
      preStop:
        # Endpoints and load balancers notice meanwhile; then SIGTERM hands leaders over and closes sessions at drain.rate.
        sleep: {seconds: {{ int64 $v.drain.preStopSeconds }}}
    terminationMessagePolicy: FallbackToLogsOnError
    resources:
      {{- toYaml $values.resources | nindent 6 }}
    securityContext:
      {{- include "holdfast.containerSecurity" $root | nindent 6 }}
    volumeMounts:
      - {name: data, mountPath: /var/lib/holdfast}
      - {name: config, mountPath: /etc/holdfast/config, readOnly: true}
      - {name: tls, mountPath: /etc/holdfast/tls, readOnly: true}
      {{- if include "holdfast.rsaSecret" $root }}
      - {name: tls-rsa, mountPath: /etc/holdfast/tls-rsa, readOnly: true}
      {{- end }}
      {{- if include "holdfast.caSecret" $root }}
      - {name: ca, mountPath: /etc/holdfast/ca, readOnly: true}
      {{- end }}
      {{- if not $v.sealingKey.command }}
      - {name: sealing, mountPath: /etc/holdfast/sealing, readOnly: true}
      {{- end }}
      {{- if $v.cluster.enabled }}
      - {name: peer, mountPath: /etc/holdfast/peer, readOnly: true}
      {{- end }}
      {{- if and (eq $role "core") $v.founding.policiesSecret }}
      - {name: policies, mountPath: /etc/holdfast/policies, readOnly: true}
      {{- end }}
      - {name: run, mountPath: /run/holdfast}
      - {name: tmp, mountPath: /tmp}
      {{- with $values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: config
    configMap: {name: {{ $full }}}
  - name: scripts
    configMap: {name: {{ $full }}-scripts}
  - name: tls
    secret: {secretName: {{ include "holdfast.tlsSecret" $root }}, defaultMode: 0440}
  {{- with include "holdfast.rsaSecret" $root }}
  - name: tls-rsa
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
  {{- with include "holdfast.caSecret" $root }}
  - name: ca
    secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
  {{- end }}
  {{- if not $v.sealingKey.command }}
  - name: sealing
    secret: {secretName: {{ include "holdfast.sealingSecret" $root }}, defaultMode: 0440, items: [{key: {{ $v.sealingKey.key }}, path: sealing.key}]}
  {{- end }}
  {{- if and (eq $role "core") $v.founding.policiesSecret }}
  - name: policies
    # Only the creation of the hub needs it.
    secret: {secretName: {{ $v.founding.policiesSecret }}, defaultMode: 0440, optional: {{ not $v.founding.enabled }}, items: [{key: policies, path: policies}]}
  {{- end }}
  {{- if $v.cluster.enabled }}
  - name: peer
    {{- if eq $v.peerTls.mode "csi" }}
    csi:
      driver: csi.cert-manager.io
      readOnly: true
      volumeAttributes:
        csi.cert-manager.io/issuer-name: {{ default (printf "%s-peer-ca" $full) $v.peerTls.certManager.issuerRef.name }}
        csi.cert-manager.io/issuer-kind: {{ $v.peerTls.certManager.issuerRef.kind }}
        csi.cert-manager.io/issuer-group: {{ $v.peerTls.certManager.issuerRef.group }}
        csi.cert-manager.io/dns-names: peer.holdfast,${POD_NAME}.peer.holdfast
        csi.cert-manager.io/duration: {{ $v.peerTls.certManager.duration }}
        csi.cert-manager.io/renew-before: {{ $v.peerTls.certManager.renewBefore }}
        csi.cert-manager.io/key-usages: digital signature,server auth,client auth
        csi.cert-manager.io/key-encoding: PKCS8
        csi.cert-manager.io/fs-group: {{ $v.podSecurity.gid | int64 | quote }}
    {{- else }}
    secret: {secretName: {{ include "holdfast.peerSecret" (dict "root" $root "role" $role) }}, defaultMode: 0440}
    {{- end }}
  - name: join
    # Only the creation of the hub needs it.
    secret: {secretName: {{ include "holdfast.foundingSecret" $root }}, defaultMode: 0440, optional: true}
  {{- end }}
  # Join tokens and the connection file never reach a disk.
  - name: run
    emptyDir: {medium: Memory, sizeLimit: 1Mi}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  {{- if $v.cluster.enabled }}
  # Core pods can do without, while the hub is created.
  {{- with include "holdfast.adminVolumes" (dict "root" $root "optional" (eq $role "core")) | trim }}{{ . | nindent 2 }}{{ end }}
  {{- end }}
  {{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "holdfast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* How the command line logs in, in the pods that do: variables, mounts, volumes (dict "root" $ "optional" BOOL). */}}
{{- define "holdfast.adminEnv" -}}
{{- $v := .Values -}}
{{- if $v.admin.serviceAccountToken.enabled }}
- name: HOLDFAST_TOKEN_FILE
  value: /var/run/secrets/holdfast/token
- name: HOLDFAST_HUB
  value: {{ include "holdfast.coreName" . }}
{{- end }}
{{- if and (include "holdfast.hasAdmin" .) (include "holdfast.caSecret" .) }}
- name: HOLDFAST_CA_FILE
  value: /etc/holdfast/ca/ca.crt
{{- end }}
{{- end }}

{{- define "holdfast.adminMounts" -}}
{{- if .Values.admin.existingSecret }}
- {name: admin, mountPath: /etc/holdfast/admin, readOnly: true}
{{- else if .Values.admin.serviceAccountToken.enabled }}
- {name: admin, mountPath: /var/run/secrets/holdfast, readOnly: true}
{{- end }}
{{- if and (include "holdfast.hasAdmin" .) (include "holdfast.caSecret" .) }}
- {name: ca, mountPath: /etc/holdfast/ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "holdfast.adminVolumes" -}}
{{- $admin := .root.Values.admin -}}
{{- if $admin.existingSecret }}
- name: admin
  secret: {secretName: {{ $admin.existingSecret }}, defaultMode: 0440, optional: {{ .optional }}, items: [{key: {{ $admin.key }}, path: login}]}
{{- else if $admin.serviceAccountToken.enabled }}
- name: admin
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {audience: {{ $admin.serviceAccountToken.audience }}, expirationSeconds: 3600, path: token}
{{- end }}
{{- end }}
