"""Rules and dashboards: every metric that they name is one that Ray or raydix gives out."""

import json
import re
from typing import Any

import pytest
import yaml

from cluster.telemetry.metric_names import exported_names
from tests.helm_chart import CHART, rendered, the

RULES = CHART / "files" / "prometheus-rules.yaml"
DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
SERVE = {"num_http_requests_total", "num_http_error_requests_total", "deployment_replica_healthy"}
KNOWN = {f"ray_serve_{name}" for name in SERVE} | exported_names()
LANGUAGE = {"sum", "min", "max", "rate", "histogram_quantile"}


def expressions(node: Any) -> list[str]:
    """Every PromQL expression in a file of rules or a dashboard."""
    if isinstance(node, list):
        return [found for item in node for found in expressions(item)]
    if not isinstance(node, dict):
        return []
    return [value for key, value in node.items() if key == "expr"] + expressions(list(node.values()))


def metrics(texts: list[str]) -> set[str]:
    """The metrics in these expressions: every word that is no label and no word of the language."""
    bare = [re.sub(r"by \(.*?\)|\{.*?\}|\[.*?\]", "", text) for text in texts]
    return {name for text in bare for name in re.findall(r"[a-zA-Z_:]+", text)} - LANGUAGE


@pytest.mark.parametrize("path", [RULES, *DASHBOARDS], ids=lambda path: path.name)
def test_every_metric_is_known(path: Any) -> None:
    found = metrics(expressions(yaml.safe_load(path.read_text("utf-8"))))
    assert found
    assert found <= KNOWN


def test_histograms_are_asked_by_bucket_and_counters_by_rate() -> None:
    for text in expressions([yaml.safe_load(path.read_text("utf-8")) for path in [RULES, *DASHBOARDS]]):
        assert ("histogram_quantile" in text) == ("_bucket" in text), text
        assert ("rate(" in text) == ("_total" in text or "_bucket" in text), text


def test_rules_and_dashboards_reach_the_cluster_as_they_are() -> None:
    every = {"podMonitor": {"enabled": True}, "rules": {"enabled": True}, "dashboards": {"enabled": True}}
    values = {"metrics": every, "capabilities": {"monitoring": "yes"}}
    assert the("PrometheusRule", values)["spec"] == yaml.safe_load(RULES.read_text("utf-8"))
    (board,) = DASHBOARDS
    assert json.loads(the("ConfigMap", values)["data"][board.name]) == json.loads(board.read_text("utf-8"))
    (endpoint,) = the("PodMonitor", values)["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"


def test_nothing_of_it_is_there_by_itself() -> None:
    kinds = {item["kind"] for item in rendered({})}
    assert kinds == {"ServiceAccount", "Secret", "RayService", "Pod"}
