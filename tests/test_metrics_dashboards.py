"""The names of metrics, where people read them: docs/metrics.md has all, and dashboards and rules no others."""

import re
from pathlib import Path

import pytest

from cluster.telemetry.metric_names import METRICS, Kind, exported_names

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "raydix"
OURS = re.compile(r"\bray_(?:vllm|raydix)_\w+")


def unknown(text: str) -> set[str]:
    """Names of ours in a text that no cluster exports."""
    return set(OURS.findall(text)) - exported_names()


def documented() -> set[tuple[str, ...]]:
    """The rows of the tables in docs/metrics.md."""
    lines = (ROOT / "docs" / "metrics.md").read_text("utf-8").splitlines()
    return {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| `ray_")}


def test_the_documentation_has_every_metric_as_it_is() -> None:
    expected = set()
    for metric in METRICS:
        name = metric.exported[0].removesuffix("_bucket")
        label = f"`{metric.label}`" if metric.label else ""
        expected.add((f"`{name}`", metric.kind.value, label, metric.unit, metric.meaning))
    assert documented() == expected


def test_dashboards_and_rules_name_only_what_is_exported() -> None:
    files = [path for part in ("dashboards", "files") for path in (CHART / part).rglob("*") if path.is_file()]
    if not files:
        pytest.skip("there is no chart")
    wrong = {path.name: sorted(unknown(path.read_text("utf-8"))) for path in files}
    assert {name: names for name, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("rate(ray_vllm_prompt_tokens_total[5m])", set()),
        ('histogram_quantile(0.9, ray_vllm_time_to_first_token_seconds_bucket{pool="x"})', set()),
        ("rate(ray_vllm_prompt_tokens[5m])", {"ray_vllm_prompt_tokens"}),
        ("ray_raydix_handoff_seconds", {"ray_raydix_handoff_seconds"}),
        ("ray_vllm_gpu_cache_usage_perc + ray_serve_num_http_requests_total", {"ray_vllm_gpu_cache_usage_perc"}),
    ],
)
def test_a_name_that_is_not_exported_is_found(text: str, wrong: set[str]) -> None:
    assert unknown(text) == wrong


def test_every_kind_is_documented() -> None:
    assert {kind for _, kind, *_ in documented()} == {kind.value for kind in Kind}
