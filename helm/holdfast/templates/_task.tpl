{{/* What the pods of hooks and tests have in common. */}}
{{- define "holdfast.taskPod" -}}
restartPolicy: Never
serviceAccountName: {{ include "holdfast.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 .Values.podSecurity.uid }}
  runAsGroup: {{ int64 .Values.podSecurity.gid }}
  fsGroup: {{ int64 .Values.podSecurity.gid }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "holdfast.taskContainer" -}}
terminationMessagePolicy: FallbackToLogsOnError
resources:
  requests: {cpu: 50m, memory: 64Mi, ephemeral-storage: 16Mi}
  limits: {cpu: "1", memory: 256Mi, ephemeral-storage: 64Mi}
securityContext:
  {{- include "holdfast.containerSecurity" . | nindent 2 }}
{{- end }}

{{- define "holdfast.taskVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 16Mi}
{{- with include "holdfast.caSecret" . }}
- name: ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}
