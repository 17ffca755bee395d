{{/*
The pools of `config`, as JSON: a list of {name, pool, group, min, max}. `pool` is what `config` says of it, `group` what
the values say of its pods, `min` and `max` how many of those there are.
*/}}
{{- define "raydix.pools" -}}
{{- $pools := .Values.config.pools | default dict -}}
{{- $found := list -}}
{{- range $name := ternary (list "unified") (list "prefill" "decode") (kindIs "map" $pools.unified) -}}
{{- $pool := get $pools $name | default dict -}}
{{- $scaling := $pool.autoscaling | default dict -}}
{{- $min := ternary ($scaling.min_replicas | default 1) ($pool.replicas | default 1) (not (empty $scaling)) -}}
{{- $max := ternary $scaling.max_replicas $min (not (empty $scaling)) -}}
{{- $found = append $found (dict "name" $name "pool" $pool "group" (get $.Values.groups $name) "min" $min "max" $max) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* "yes" where a pool scales. */}}
{{- define "raydix.scales" -}}
{{- range include "raydix.pools" . | fromJsonArray -}}{{- if .pool.autoscaling -}}yes{{- end -}}{{- end -}}
{{- end -}}

{{/*
`config` with what only the chart knows, and without numbers of replicas (raydix.deployments). What a user has said stays
as it is, zeros too: so no `merge`, which takes them for nothing.
*/}}
{{- define "raydix.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $pools := $config.pools | default dict -}}
{{- $names := list -}}
{{- range include "raydix.pools" . | fromJsonArray -}}
{{- include "raydix.checkPool" . -}}
{{- $names = append $names .name -}}
{{- $known := dict "num_cpus" .group.cpus "num_gpus" .group.gpus "label_selector" (dict "pool" .name) -}}
{{- $_ := set $pools .name (omit (include "raydix.filled" (list .pool $known) | fromJson) "replicas") -}}
{{- end -}}
{{- $_ := set $config "pools" $pools -}}
{{- $doors := dict "label_selector" (dict "pool" (printf "in(%s)" (join "," $names))) -}}
{{- if .Values.api.keysSecret -}}
{{- if $config.auth }}{{ fail "api.keysSecret fills config.auth: leave one of them out" }}{{ end -}}
{{- $_ := set $config "auth" (dict "keys_file" (printf "%s/keys.yaml" (include "raydix.keysPath" .))) -}}
{{- else if not $config.auth -}}
{{- fail "nobody has said who may ask the API: name api.keysSecret, or set config.auth.allow_anonymous to true" -}}
{{- end -}}
{{- $ingress := include "raydix.filled" (list ($config.ingress | default dict) $doors) | fromJson -}}
{{- $_ := set $config "ingress" (omit $ingress "replicas") -}}
{{- if include "raydix.grpcPort" . -}}
{{- $_ := set $config "grpc" (include "raydix.filled" (list $config.grpc (dict "host" "0.0.0.0")) | fromJson) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
Fixed numbers of replicas, as Serve's own options of deployments: a change of them starts or ends replicas, where a change
of `args` would replace them all.
*/}}
{{- define "raydix.deployments" -}}
- {name: ingress, num_replicas: {{ int (dig "ingress" "replicas" 1 .Values.config) }}}
{{- range include "raydix.pools" . | fromJsonArray }}
{{- if not .pool.autoscaling }}
- {name: {{ .name }}, num_replicas: {{ int .min }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* JSON of the first mapping with the keys of the second that it lacks. */}}
{{- define "raydix.filled" -}}
{{- $filled := deepCopy (index . 0) -}}
{{- range $key, $value := index . 1 -}}
{{- if not (hasKey $filled $key) -}}{{- $_ := set $filled $key $value -}}{{- end -}}
{{- end -}}
{{- toJson $filled -}}
{{- end -}}

{{/* A worker that asks for more than its pod has would wait for ever; and the parser would not see `replicas`. */}}
{{- define "raydix.checkPool" -}}
{{- if and .pool.autoscaling (hasKey .pool "replicas") -}}
{{- fail (printf "config.pools.%s: autoscaling decides on the number of replicas: leave replicas out, or autoscaling" .name) -}}
{{- end -}}
{{- range $asked, $has := dict "num_cpus" "cpus" "num_gpus" "gpus" -}}
{{- if gt (get $.pool $asked | default 0 | float64) (get $.group $has | float64) -}}
{{- fail (printf "config.pools.%s.%s is %v, more than groups.%s.%s, which is %v" $.name $asked (get $.pool $asked) $.name $has (get $.group $has)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
