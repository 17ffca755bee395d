{{/* What the Ray pods of the head and of the groups have in common. */}}

{{/* The variables that Serve reads when it is imported; cluster/haproxy.py says why. */}}
{{- define "raydix.env" -}}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: {{ ternary "0" "1" (eq (dig "http" "proxy" "haproxy" .Values.config) "serve") | quote }}}
- {name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD, value: "0"}
- {name: RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP, value: "0"}
- {name: RAY_SERVE_USE_GRPC_BY_DEFAULT, value: "1"}
- {name: RAY_SERVE_FREEZE_GC_ON_STARTUP, value: "1"}
- {name: RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS, value: "1"}
- {name: RAY_SERVE_HAPROXY_RETRY_ON, value: conn-failure empty-response}
{{- include "raydix.hubEnv" . }}
{{- with .Values.ray.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "raydix.hubEnv" -}}
{{- if .Values.modelCache.enabled }}
- {name: HF_HOME, value: {{ .Values.modelCache.mountPath | quote }}}
{{- end }}
{{- if .Values.modelCache.offline }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- with .Values.modelCache.hfTokenSecret }}
{{- if .name }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "raydix.container" -}}
image: {{ include "raydix.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
{{- end -}}

{{- define "raydix.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch  # a model cache has many files
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "raydix.modelMount" -}}
{{- if .Values.modelCache.enabled }}
- {name: models, mountPath: {{ .Values.modelCache.mountPath | quote }}}
{{- end }}
{{- end -}}

{{- define "raydix.modelVolume" -}}
{{- if .Values.modelCache.enabled }}
- name: models
  persistentVolumeClaim: {claimName: {{ include "raydix.modelClaim" . | quote }}}
{{- end }}
{{- end -}}

{{/* The file of tenants, for the front doors. A directory, for Kubernetes does not renew a single mounted file. */}}
{{- define "raydix.keysPath" -}}/etc/raydix/keys{{- end -}}

{{- define "raydix.keysMount" -}}
{{- if .Values.api.keysSecret }}
- {name: keys, mountPath: {{ include "raydix.keysPath" . }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "raydix.keysVolume" -}}
{{- if .Values.api.keysSecret }}
- name: keys
  secret: {secretName: {{ .Values.api.keysSecret | quote }}}
{{- end }}
{{- end -}}

{{/* Of containers that ask the API themselves. */}}
{{- define "raydix.clientEnv" -}}
{{- with .Values.api.clientKeySecret }}
{{- if .name }}
env:
  - name: RAYDIX_API_KEY
    valueFrom: {secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where pods may run: of the head or of a group. */}}
{{- define "raydix.scheduling" -}}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with get $ $key }}
{{ $key }}: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- range $key := list "runtimeClassName" "priorityClassName" }}
{{- with get $ $key }}
{{ $key }}: {{ . }}
{{- end }}
{{- end }}
{{- end -}}
