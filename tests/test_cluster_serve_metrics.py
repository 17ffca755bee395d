"""The real application on real Ray: every documented metric is exported and says what was done, and so do the spans and
the log of a request."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from openai.types import CompletionUsage

from cluster.telemetry.metric_names import exported_names
from cluster.telemetry.prometheus_text import Samples
from tests.otlp_collector import Collector, Received, collecting
from tests.server import Server, served

pytestmark = pytest.mark.ray
CONFIG = """
http: {{port: {port}}}
pools: {{local_prefill_tokens: 0}}  # every prompt goes through both pools
tracing: {{endpoint: "COLLECTOR"}}
logs: {{encoding: json}}
"""
PROMPT = (Path(os.__file__).parent / "heapq.py").read_text("utf-8")[:3000]
Found = TypeVar("Found")
PATIENCE_S = 90  # Ray passes metrics on every ten seconds


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    config = CONFIG.replace("COLLECTOR", collector.endpoint)
    with served(tmp_path_factory.mktemp("r"), config) as server:
        yield server


def until(server: Server, holds: Callable[[Samples], bool]) -> Samples:
    """Scrape until something holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds(samples := server.scrape()):
        if time.monotonic() > deadline_s:
            ours = {name: series for name, series in samples.series.items() if name in exported_names()}
            missing = sorted(exported_names() - samples.series.keys())
            pytest.fail(f"missing: {missing}; there: {ours}")
        time.sleep(1.0)
    return samples


def usage_of(server: Server, prompt: str) -> CompletionUsage:
    """What eight tokens after a prompt took, as the API says."""
    answer = server.client.completions.create(
        model="tiny", prompt=prompt, max_tokens=8, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    return answer.usage


@dataclass(frozen=True)
class Told:
    """What the API said of two requests, and what was scraped when all of it had come."""

    prompt_tokens: int
    generated: int
    cached: int
    samples: Samples

    def total(self, name: str, **labels: str) -> float:
        return self.samples.total(name, **labels)


@pytest.fixture(scope="module")
def told(server: Server) -> Told:
    usages = [usage_of(server, PROMPT) for _ in range(2)]
    cached = sum(usage.prompt_tokens_details.cached_tokens or 0 for usage in usages if usage.prompt_tokens_details)
    assert cached > 0, "or the numbers show nothing"
    generated = sum(usage.completion_tokens for usage in usages)

    def has_come(samples: Samples) -> bool:
        """From each of the processes."""
        return (
            exported_names() <= samples.series.keys()
            and samples.total("ray_vllm_generation_tokens_total") >= generated
            and samples.total("ray_vllm_request_decode_time_seconds_count") >= 2
            and samples.total("ray_vllm_request_success_total") >= 2
            and samples.total("ray_raydix_router_actual_hit_tokens_total") >= cached
        )

    return Told(sum(usage.prompt_tokens for usage in usages), generated, cached, until(server, has_come))


def test_workers_count_every_token_once_where_it_was_made(told: Told) -> None:
    assert told.total("ray_vllm_prompt_tokens_total", pool="prefill", model_name="tiny") == told.prompt_tokens
    assert told.total("ray_vllm_prompt_tokens_total") == told.prompt_tokens
    assert told.total("ray_vllm_generation_tokens_total", pool="prefill") == 2
    assert told.total("ray_vllm_generation_tokens_total", pool="decode") == told.generated - 2
    assert told.total("ray_vllm_prefix_cache_hits_total", pool="prefill") == told.cached
    assert told.total("ray_vllm_prefix_cache_queries_total", pool="prefill") == told.prompt_tokens
    assert told.total("ray_vllm_request_prefill_time_seconds_count") == 2
    assert told.total("ray_raydix_handoff_bytes_total", pool="decode") > 0
    assert told.total("ray_raydix_recomputed_tokens_total") == 0


def test_front_doors_count_requests_as_clients_see_them(told: Told) -> None:
    assert told.total("ray_vllm_request_success_total", finished_reason="length", pool="ingress") == 2
    assert told.total("ray_vllm_request_success_total") == 2
    assert told.total("ray_vllm_time_to_first_token_seconds_count", pool="ingress") == 2
    assert told.total("ray_vllm_inter_token_latency_seconds_count") == told.generated - 2
    assert told.total("ray_vllm_request_prompt_tokens_count") == 2


def test_routers_count_what_they_decided_and_what_came_of_it(told: Told) -> None:
    assert told.total("ray_raydix_router_decisions_total", pool="prefill", reason="cold") == 1
    assert told.total("ray_raydix_router_decisions_total", pool="prefill", reason="prefix") == 1
    assert told.total("ray_raydix_router_decisions_total", pool="decode") == 2
    assert told.total("ray_raydix_router_expected_hit_tokens_total") >= told.cached
    assert told.total("ray_raydix_router_actual_hit_tokens_total") == told.cached
    assert max(value for _, value in told.samples.series["ray_raydix_index_lag_seconds"]) < 10


def test_every_worker_has_a_name_of_its_own(told: Told) -> None:
    engines = [labels["engine"] for labels, _ in told.samples.series["ray_vllm_kv_cache_usage_perc"]]
    assert len(engines) == len(set(engines)) == 2
    assert all(engines)


def patiently(look: Callable[[], list[Found]]) -> Found:
    """The one thing that is there to be found, sooner or later."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := look()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    (one,) = found
    return one


def line_on(server: Server, request_id: str) -> dict[str, Any]:
    """The line of all replicas' logs on a request. It is written when the answer has been sent."""
    files = list(server.directory.glob("ray/session_2*/logs/serve/replica_*.log"))
    assert len(files) == 3, "one of each replica"

    def look() -> list[dict[str, Any]]:
        records = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        return [record for record in records if record.get("request_id") == request_id]

    return patiently(look)


def span_of(collector: Collector, request_id: str) -> Received:
    """The span of a request."""
    name = "http.request.header.x-request-id"
    return patiently(lambda: [one for one in collector.servers() if one.attributes[name] == [request_id]])


def test_a_request_is_one_trace_over_both_pools(server: Server, collector: Collector) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "traced"}
    began_ns = time.time_ns()
    answer = server.client.completions.create(
        model="tiny", prompt=PROMPT[::-1], max_tokens=8, temperature=0, extra_headers=headers
    )
    request = span_of(collector, "traced")
    assert (request.span.trace_id.hex(), request.span.parent_span_id.hex()) == (trace, parent)
    assert request.attributes["gen_ai.response.id"] == answer.id
    children = collector.children_of(request)
    assert [one.name for one in children] == ["route", "queue", "prefill", "route", "kv_transfer", "queue", "decode"]
    assert began_ns <= request.span.start_time_unix_nano <= children[0].span.start_time_unix_nano
    assert children[-1].span.end_time_unix_nano <= request.span.end_time_unix_nano <= time.time_ns()
    took_s = {one.name: one.seconds for one in children}
    assert took_s["prefill"] > 0 < took_s["kv_transfer"]
    assert took_s["prefill"] + took_s["kv_transfer"] + took_s["decode"] < request.seconds
    assert len({one.attributes["raydix.worker"] for one in children}) == 2
    line = line_on(server, "traced")
    assert line["workers"] == list(dict.fromkeys(one.attributes["raydix.worker"] for one in children))
    assert (line["answer_id"], line["trace_id"], line["finish_reasons"]) == (answer.id, trace, ["length"])


def test_a_request_that_fails_is_found_in_the_log_by_the_id_that_its_client_got(server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        server.client.completions.create(model="other", prompt="x")
    assert error.value.request_id
    line = line_on(server, error.value.request_id)
    assert (line["path"], line["status"]) == ("/v1/completions", 404)
    assert "POST /v1/completions" not in server.log.read_text(), "the terminal is for progress and trouble"
