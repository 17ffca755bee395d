"""Kubernetes objects held against their schemas, strictly: unknown fields are errors, as for an API server told so.

Kinds of Kubernetes itself by `kubernetes_validate`, KubeRay's by their CRDs, which are not part of this repository:
they are looked for in RAYDIX_KUBERAY_CRDS, else beside it.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

KUBERNETES = "1.32"
CRDS = Path(
    os.environ.get("RAYDIX_KUBERAY_CRDS", Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "kuberay")
)
FILES = {"RayService": "ray.io_rayservices.yaml", "RayJob": "ray.io_rayjobs.yaml"}
ELSEWHERE = {"PodMonitor", "PrometheusRule", "HTTPRoute"}  # other projects' kinds, of which no schema is at hand

needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason="KubeRay's CRDs are not there (RAYDIX_KUBERAY_CRDS)")


class WrongObjectError(ValueError):
    """The object is none that an API server would take."""


def check(item: dict[str, Any]) -> None:
    """Raise WrongObjectError where `item` breaks the schema of its kind; a kind without one passes."""
    try:
        if item["kind"] in FILES:
            if CRDS.is_dir():
                jsonschema.Draft202012Validator(custom_schema(item["kind"])).validate(item)
        elif item["kind"] not in ELSEWHERE:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        raise WrongObjectError(f"{item['kind']} {item['metadata']['name']}: {where}: {error.message}") from error


@cache
def custom_schema(kind: str) -> dict[str, Any]:
    """The v1 schema of one of KubeRay's kinds as plain, strict JSON Schema."""
    definition = yaml.load((CRDS / FILES[kind]).read_text("utf-8"), yaml.CSafeLoader)
    (version,) = [item for item in definition["spec"]["versions"] if item["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # an API server knows it, the CRD leaves it open
    return schema


def strict(node: dict[str, Any]) -> dict[str, Any]:
    """A structural schema whose Kubernetes extensions are said in JSON Schema."""
    new = {key: value for key, value in node.items() if not key.startswith("x-kubernetes") and key != "format"}
    if "properties" in node:
        new["properties"] = {name: strict(value) for name, value in node["properties"].items()}
        defaulted = {name for name, value in node["properties"].items() if "default" in value}
        new["required"] = [name for name in node.get("required", []) if name not in defaulted]
        if "additionalProperties" not in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            new["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            new[key] = strict(node[key])
    if node.get("x-kubernetes-int-or-string"):
        new["type"] = ["integer", "string"]
        new.pop("anyOf", None)
    if node.get("nullable"):
        new["type"] = [new["type"], "null"]
    return new
