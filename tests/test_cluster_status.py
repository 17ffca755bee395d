"""A cluster's status, out of text as Ray's exporter writes it."""

from dataclasses import replace
from pathlib import Path

import pytest

import cluster.commands.status
from cluster.commands.status import WINDOW_S, ClusterStatus, DoorFigures, WorkerRow
from cluster.telemetry.metric_names import exported_names
from cluster.telemetry.prometheus_text import Samples, parse, quantile
from tests.test_metrics_dashboards import unknown

FIRST = "ray_vllm_time_to_first_token_seconds"


def text(tokens: int, hits: int, requests: int, slow: int) -> str:
    worker = 'engine="w1",model_name="tiny",pool="prefill"'
    door = 'engine="d",model_name="tiny",pool="ingress"'
    return f"""
# HELP ray_vllm_num_requests_running sequences that have KV blocks
# TYPE ray_vllm_num_requests_running gauge
ray_vllm_num_requests_running{{{worker}}} 3.0
ray_vllm_num_requests_running{{engine="w0",model_name="ti\\"ny",pool="decode"}} 1.0
ray_vllm_num_requests_waiting{{{worker}}} 2.0
ray_raydix_queued_tokens{{{worker}}} 77.0
ray_vllm_kv_cache_usage_perc{{{worker}}} 0.25
ray_vllm_prefix_cache_queries_total{{{worker}}} {2.0 * hits}
ray_vllm_prefix_cache_hits_total{{{worker}}} {float(hits)}
ray_vllm_generation_tokens_total{{{worker}}} {float(tokens)}
ray_vllm_generation_tokens_total{{engine="gone",pool="prefill"}} 900.0
ray_vllm_request_success_total{{{door},finished_reason="stop"}} {float(requests)}
ray_vllm_request_success_total{{{door},finished_reason="error"}} 1.0
ray_raydix_refused_requests_total{{{door}}} 4.0
ray_raydix_resumed_requests_total{{{door}}} 5.0
ray_raydix_index_lag_seconds{{engine="d",pool="prefill"}} +Inf
ray_raydix_index_lag_seconds{{engine="d",pool="decode"}} 0.5
ray_raydix_router_decisions_total{{engine="d",pool="prefill",reason="prefix"}} {float(requests)}
ray_raydix_router_decisions_total{{engine="d",pool="prefill",reason="cold"}} 2.0
{FIRST}_bucket{{{door},le="0.1"}} 0.0
{FIRST}_bucket{{{door},le="0.2"}} {float(requests - slow)}
{FIRST}_bucket{{{door},le="+Inf"}} {float(requests)}
"""


def status_of(*scrapes: tuple[float, str]) -> ClusterStatus:
    status = ClusterStatus()
    for now_s, scrape in scrapes:
        status.take(parse(scrape), now_s)
    return status


def test_a_row_for_each_worker_that_is_there_with_rates_over_the_window() -> None:
    status = status_of((0.0, text(100, 50, 10, 0)), (10.0, text(200, 80, 20, 0)))
    assert status.workers == [
        WorkerRow("decode", "w0", 1, 0, 0, 0.0, None, 0.0),
        WorkerRow("prefill", "w1", 3, 2, 77, 0.25, 0.5, 10.0),
    ]


def test_the_front_doors() -> None:
    status = status_of((0.0, text(0, 0, 10, 0)), (10.0, text(0, 0, 30, 0)))
    assert status.doors.first_token_s == pytest.approx((0.15, 0.195))
    assert replace(status.doors, first_token_s=None) == DoorFigures(
        requests_per_s=2.0,
        first_token_s=None,
        failed=1,
        refused=4,
        resumed=5,
        index_lag_s=float("inf"),
        decisions={"cold": 0, "prefix": 20},
    )


def test_old_scrapes_are_forgotten_but_one_that_is_a_window_old() -> None:
    status = status_of(*((10.0 * turn, text(turn, 0, 0, 0)) for turn in range(100)))
    assert len(status._scrapes) == WINDOW_S / 10 + 1
    assert status.workers[1].tokens_per_s == pytest.approx(0.1)


def test_before_the_second_scrape_there_are_no_rates() -> None:
    assert ClusterStatus().workers == []
    assert ClusterStatus().doors.first_token_s is None
    assert status_of((0.0, text(100, 50, 10, 0))).workers[1].tokens_per_s == 0


@pytest.mark.parametrize(("part", "expected"), [(0.5, 0.2), (0.25, 0.15), (0.9, 0.2), (1.0, 0.2)])
def test_a_quantile_lies_within_its_bucket_and_never_beyond_the_last_bound(part: float, expected: float) -> None:
    now = parse(text(0, 0, 10, 5))
    assert quantile(now, Samples({}), FIRST, part) == pytest.approx(expected)
    assert quantile(now, now, FIRST, part) is None, "nothing has happened in between"


def test_it_reads_what_is_exported() -> None:
    """Here and in the code."""
    source = Path(cluster.commands.status.__file__).read_text("utf-8")
    assert {name for name in unknown(source) if f"{name}_bucket" not in exported_names()} == set()
    assert unknown(text(0, 0, 0, 0)) == set()
