{{/* The release's objects are called this. KubeRay appends up to 20 characters, and names of Services have 63. */}}
{{- define "raydix.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "raydix.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "raydix.selector" . }}
{{- end -}}

{{/* What pods are found by. Not app.kubernetes.io/name: on Ray's pods that is KubeRay's. */}}
{{- define "raydix.selector" -}}
app.kubernetes.io/part-of: raydix
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "raydix.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "raydix.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "raydix.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "raydix.tokenSecret" -}}
{{ .Values.ray.auth.existingSecret | default (printf "%s-ray-token" (include "raydix.fullname" .)) }}
{{- end -}}

{{- define "raydix.modelClaim" -}}
{{ .Values.modelCache.existingClaim | default (printf "%s-models" (include "raydix.fullname" .)) }}
{{- end -}}

{{/* Where the API is, inside the cluster. KubeRay makes this Service, for proxies on workers only. */}}
{{- define "raydix.apiService" -}}
{{ include "raydix.fullname" . }}-serve-svc
{{- end -}}

{{- define "raydix.apiPort" -}}
{{ int (dig "http" "port" 8000 .Values.config) }}
{{- end -}}

{{/* What else listens in a pod: Ray as KubeRay starts it, HAProxy's statistics and metrics, Serve's fallback. */}}
{{- define "raydix.checkPorts" -}}
{{- range $key, $port := dict "http" (include "raydix.apiPort" .) "grpc" (include "raydix.grpcPort" .) -}}
{{- if has (int $port) (list 6379 8080 8265 8404 8500 9101 10001 52365) -}}
{{- fail (printf "config.%s.port is %s, where Ray or HAProxy listens in the same pods: take another" $key $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The port of the gRPC API; empty where there is none. */}}
{{- define "raydix.grpcPort" -}}
{{- with dig "grpc" "port" "" .Values.config -}}{{ int . }}{{- end -}}
{{- end -}}

{{- define "raydix.apiUrl" -}}
http://{{ include "raydix.apiService" . }}:{{ include "raydix.apiPort" . }}
{{- end -}}

{{/* The port of a URL, said or not. */}}
{{- define "raydix.urlPort" -}}
{{- $url := urlParse . -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}

{{/* "yes" where kinds that Kubernetes itself does not have are to be rendered. Takes a list: root, value, API version. */}}
{{- define "raydix.has" -}}
{{- $root := index . 0 -}}
{{- $wanted := index . 1 -}}
{{- if or (eq $wanted "yes") (and (eq $wanted "auto") ($root.Capabilities.APIVersions.Has (index . 2))) -}}yes{{- end -}}
{{- end -}}

{{/* A list of words as a shell reads it. */}}
{{- define "raydix.shell" -}}
{{- range $place, $word := . -}}
{{- if $place }} {{ end -}}
{{- ternary $word (printf "'%s'" (replace "'" "'\\''" $word)) (regexMatch "^[A-Za-z0-9_./:=,-]+$" $word) -}}
{{- end -}}
{{- end -}}
