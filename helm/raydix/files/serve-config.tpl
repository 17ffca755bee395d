{{/*
The one place that builds Serve's configuration. `args` is what `raydix serve --config` reads.
*/}}
proxy_location: EveryNode
http_options:
  host: 0.0.0.0
  port: {{ include "raydix.apiPort" . }}
  # Later than the application's own limit, so that a client is told by an error of the API.
  request_timeout_s: {{ addf (dig "http" "request_timeout_s" 600 .Values.config) 5 }}
# Of Serve's own processes; replicas have the same from `args`.
logging_config:
  encoding: {{ dig "logs" "encoding" "text" .Values.config | upper }}
  log_level: {{ dig "logs" "level" "WARNING" .Values.config }}
  enable_access_log: false
applications:
  - name: raydix
    route_prefix: /
    import_path: cluster.app:build_app_from_args
    deployments: {{- include "raydix.deployments" . | nindent 6 }}
    args: {{- include "raydix.config" . | nindent 6 }}
