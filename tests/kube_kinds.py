"""What the API server of the tests serves: its kinds, as discovery and OpenAPI tell them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of object and where it is served."""

    group_version: str
    plural: str
    name: str
    namespaced: bool = True

    @property
    def base(self) -> str:
        """Path of its API group and version."""
        return f"/api/{self.group_version}" if self.group_version == "v1" else f"/apis/{self.group_version}"


KINDS = [
    Kind("v1", "namespaces", "Namespace", namespaced=False),
    Kind("v1", "secrets", "Secret"),
    Kind("v1", "configmaps", "ConfigMap"),
    Kind("v1", "pods", "Pod"),
    Kind("v1", "services", "Service"),
    Kind("v1", "serviceaccounts", "ServiceAccount"),
    Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Kind("batch/v1", "jobs", "Job"),
    Kind("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Kind("networking.k8s.io/v1", "ingresses", "Ingress"),
    Kind("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    Kind("ray.io/v1", "rayservices", "RayService"),
    Kind("ray.io/v1", "rayjobs", "RayJob"),
    Kind("monitoring.coreos.com/v1", "podmonitors", "PodMonitor"),
    Kind("monitoring.coreos.com/v1", "prometheusrules", "PrometheusRule"),
    Kind("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute"),
]
VERBS = ["get", "list", "watch", "create", "update", "patch", "delete"]


def document(path: str) -> dict[str, Any] | None:
    """What there is at a path of discovery or OpenAPI, or None."""
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups()}
    if path == "/openapi/v3":
        roots = {kind.base for kind in KINDS}
        return {"paths": {root[1:]: {"serverRelativeURL": f"/openapi/v3{root}"} for root in roots}}
    base = path.removeprefix("/openapi/v3")
    kinds = [kind for kind in KINDS if kind.base == base]
    if not kinds:
        return None
    return resource_list(kinds) if base == path else open_api(kinds)


def groups() -> list[dict[str, Any]]:
    """The API groups, without the core one."""
    versions = dict.fromkeys(kind.group_version for kind in KINDS if "/" in kind.group_version)
    told = {name: {"groupVersion": name, "version": name.partition("/")[2]} for name in versions}
    return [{"name": n.partition("/")[0], "versions": [v], "preferredVersion": v} for n, v in told.items()]


def resource_list(kinds: list[Kind]) -> dict[str, Any]:
    """Discovery of one group and version."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].group_version,
        "resources": [
            {"name": k.plural, "singularName": "", "namespaced": k.namespaced, "kind": k.name, "verbs": VERBS}
            for k in kinds
        ],
    }


def open_api(kinds: list[Kind]) -> dict[str, Any]:
    """As much OpenAPI as tells a client that the server checks fields itself."""
    paths = {}
    for kind in kinds:
        group, _, version = kind.group_version.rpartition("/")
        path = f"{kind.base}/namespaces/{{namespace}}/{kind.plural}/{{name}}"
        patch = {
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind.name},
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {"200": {"description": "OK"}},
        }
        paths[path] = {"patch": patch}
    info = {"title": "tests", "version": "v1.32.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}
