"""The chart of helm/raydix as tests see it: its value sets, rendered, as objects."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "raydix"
VALUE_SETS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
RELEASE, NAMESPACE = "demo", "llm"


def value_set(name: str) -> dict[str, Any]:
    """The values of ci/<name>-values.yaml."""
    return dict(yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text("utf-8")))


def said(values: dict[str, Any]) -> dict[str, Any]:
    """The values, and that anybody may ask where they do not say who may: the chart wants a word."""
    config = values.get("config", {})
    if values.get("api", {}).get("keysSecret") or "auth" in config:
        return values
    return values | {"config": config | {"auth": {"allow_anonymous": True}}}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Every object that the chart makes of these values, hooks and tests included."""
    return rendered_once(json.dumps(said(values)))


@cache
def rendered_once(values: str) -> list[dict[str, Any]]:
    """The same for values as JSON. Nobody may change what comes back."""
    files = helm.Chart.load(CHART).render(json.loads(values), name=RELEASE, namespace=NAMESPACE)
    texts = (text for path, text in files.items() if path.endswith(".yaml"))
    return [item for text in texts for item in yaml.load_all(text, yaml.CSafeLoader) if item]


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [item for item in objects if item["kind"] == kind]


def the(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The one object of this kind."""
    (found,) = of_kind(rendered(values), kind)
    return found


def serve_config(values: dict[str, Any]) -> dict[str, Any]:
    """What KubeRay would hand to Serve."""
    return dict(yaml.safe_load(the("RayService", values)["spec"]["serveConfigV2"]))


def application_args(values: dict[str, Any]) -> dict[str, Any]:
    """What `cluster.app.build_app_from_args` would be given."""
    (application,) = serve_config(values)["applications"]
    return dict(application["args"])


def ray_cluster(values: dict[str, Any]) -> dict[str, Any]:
    """The RayService's Ray cluster."""
    return dict(the("RayService", values)["spec"]["rayClusterConfig"])


def worker_groups(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its worker groups by name."""
    return {group["groupName"]: group for group in ray_cluster(values)["workerGroupSpecs"]}


def pod_specs(objects: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every pod's spec, wherever in an object it is."""
    for item in objects:
        yield from found_pods(item)


def found_pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping below `node` that has containers."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from found_pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from found_pods(value)
