{{/* The worker group of one pool. Takes {root, pool}: an item of raydix.pools. */}}
{{- define "raydix.group" -}}
{{- $root := .root -}}
{{- $group := .pool.group -}}
{{- $drain := dig "pools" "drain_timeout_s" 30 $root.Values.config -}}
- groupName: {{ .pool.name }}
  replicas: {{ .pool.min }}
  minReplicas: {{ .pool.min }}
  maxReplicas: {{ .pool.max }}
  labels: {pool: {{ .pool.name }}}  # of the Ray nodes, for the pool's label_selector
  rayStartParams:
    num-cpus: {{ $group.cpus | quote }}
    num-gpus: {{ $group.gpus | quote }}
  template:
    metadata:
      labels:
        {{- include "raydix.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .pool.name }}
      {{- with $group.annotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- with include "raydix.serviceAccount" $root }}
      serviceAccountName: {{ . }}
      {{- end }}
      automountServiceAccountToken: false
      {{- include "raydix.podSecurity" $root | nindent 6 }}
      {{- with include "raydix.scheduling" $group }}
      {{- . | trim | nindent 6 }}
      {{- end }}
      terminationGracePeriodSeconds: {{ add (ceil $drain | int) 30 }}  # longer than config.pools.drain_timeout_s
      containers:
        - name: ray-worker
          {{- include "raydix.container" $root | nindent 10 }}
          ports:
            - {name: serve, containerPort: {{ include "raydix.apiPort" $root }}}  # KubeRay probes the port of this name
            - {name: metrics, containerPort: 8080}
            {{- with include "raydix.grpcPort" $root }}
            - {name: grpc, containerPort: {{ . }}}
            {{- end }}
          env:
            {{- include "raydix.env" $root | nindent 12 }}
            {{- with $group.env }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          # Services stop sending requests here some seconds after a pod is told to go.
          lifecycle: {preStop: {exec: {command: [sh, -c, sleep 10]}}}
          resources:
            requests: {{- include "raydix.groupResources" $group | nindent 14 }}
            limits: {{- include "raydix.groupResources" $group | nindent 14 }}
          volumeMounts:
            - {name: shared-memory, mountPath: /dev/shm}
            {{- range list "raydix.modelMount" "raydix.keysMount" }}
            {{- with include . $root }}
            {{- . | trim | nindent 12 }}
            {{- end }}
            {{- end }}
      volumes:
        - name: shared-memory
          emptyDir: {medium: Memory, sizeLimit: {{ $group.sharedMemory }}}
        {{- range list "raydix.modelVolume" "raydix.keysVolume" }}
        {{- with include . $root }}
        {{- . | trim | nindent 8 }}
        {{- end }}
        {{- end }}
{{- end -}}

{{/* A pod gets exactly what its worker was told it has. */}}
{{- define "raydix.groupResources" -}}
cpu: {{ .cpus | quote }}
memory: {{ .memory }}
{{- if .gpus }}
{{ .gpuResource }}: {{ .gpus | quote }}
{{- end }}
{{- end -}}
