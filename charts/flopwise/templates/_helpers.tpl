{{- define "flopwise.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Ten characters are left for what follows it: a Service's name has 63. */ -}}
{{- define "flopwise.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Cluster-scoped names hold the namespace: two releases of one name may stand in two. */ -}}
{{- define "flopwise.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "flopwise.fullname" .) }}
{{- end }}

{{- define "flopwise.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flopwise.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "flopwise.labels" -}}
{{ include "flopwise.selectorLabels" . }}
{{ include "flopwise.releaseLabels" . }}
{{- end }}

{{- define "flopwise.collectorSelectorLabels" -}}
app.kubernetes.io/name: {{ include "flopwise.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: collector
{{- end }}

{{- define "flopwise.collectorLabels" -}}
{{ include "flopwise.collectorSelectorLabels" . }}
{{ include "flopwise.releaseLabels" . }}
{{- end }}

{{- define "flopwise.releaseLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: flopwise
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "flopwise.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "flopwise.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "flopwise.image" -}}
{{- include "flopwise.imageOf" (list . .Values.image) }}
{{- end }}

{{- /* Of (the chart, the image's values). */ -}}
{{- define "flopwise.imageOf" -}}
{{- $chart := (index . 0).Chart }}
{{- with index . 1 }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "flopwise.subject" -}}
kind: ServiceAccount
name: {{ include "flopwise.serviceAccountName" . }}
namespace: {{ .Release.Namespace }}
{{- end }}
