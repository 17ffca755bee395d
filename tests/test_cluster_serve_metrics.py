"""The real application on real Ray: every documented metric is exported, and says what was done."""

import os
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from openai.types import CompletionUsage

from cluster.metric_names import exported_names
from tests.server import Server

pytestmark = pytest.mark.ray
CONFIG = "http: {{port: {port}}}\npools: {{local_prefill_tokens: 0}}\n"  # every prompt goes through both pools
PROMPT = (Path(os.__file__).parent / "heapq.py").read_text("utf-8")[:3000]
PATIENCE_S = 90  # Ray passes metrics on every ten seconds
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("r"), CONFIG)
    try:
        server.wait_for("Ctrl-C stops it")
        yield server
    finally:
        server.end()


def scrape(server: Server) -> Samples:
    """What the node's metrics port says, by name: labels and value of each series."""
    (url,) = re.findall(r"metrics for Prometheus at (\S+)", server.log.read_text())
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for name, labels, value in SAMPLE.findall(text):
        found.setdefault(name, []).append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
    return found


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the series that have these labels."""
    return sum(value for own, value in samples.get(name, []) if labels.items() <= own.items())


def until(server: Server, holds: Callable[[Samples], bool]) -> Samples:
    """Scrape until something holds."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds(samples := scrape(server)):
        if time.monotonic() > deadline_s:
            ours = {name: series for name, series in samples.items() if name in exported_names()}
            missing = sorted(exported_names() - samples.keys())
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


def test_every_documented_metric_is_exported_and_tells_what_was_done(server: Server) -> None:
    usages = [usage_of(server, PROMPT) for _ in range(2)]
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    generated = sum(usage.completion_tokens for usage in usages)
    cached = sum(usage.prompt_tokens_details.cached_tokens or 0 for usage in usages if usage.prompt_tokens_details)
    assert cached > 0, "or the numbers below show nothing"

    def is_told(samples: Samples) -> bool:
        return (
            exported_names() <= samples.keys()
            and total(samples, "ray_vllm_generation_tokens_total") >= generated
            and total(samples, "ray_raydix_router_actual_hit_tokens_total") >= cached
            and total(samples, "ray_vllm_request_success_total") >= 2
        )

    samples = until(server, is_told)
    assert total(samples, "ray_vllm_prompt_tokens_total", pool="prefill", model_name="tiny") == prompt_tokens
    assert total(samples, "ray_vllm_prompt_tokens_total") == prompt_tokens, "counted once"
    assert total(samples, "ray_vllm_generation_tokens_total") == generated, (
        "the first ones in prefill, the rest in decode"
    )
    assert total(samples, "ray_vllm_prefix_cache_hits_total", pool="prefill") == cached
    assert total(samples, "ray_vllm_prefix_cache_queries_total", pool="prefill") == prompt_tokens
    assert total(samples, "ray_vllm_request_success_total", finished_reason="length") == 2
    assert total(samples, "ray_vllm_time_to_first_token_seconds_count", pool="ingress") == 2
    assert total(samples, "ray_vllm_inter_token_latency_seconds_count") == generated - 2
    assert total(samples, "ray_vllm_request_decode_time_seconds_count", pool="decode") == 2
    assert total(samples, "ray_raydix_router_decisions_total", pool="prefill") == 2
    assert total(samples, "ray_raydix_router_decisions_total", pool="prefill", reason="cold") == 1
    assert total(samples, "ray_raydix_router_actual_hit_tokens_total") == cached
    assert total(samples, "ray_raydix_handoff_bytes_total", pool="decode") > 0
    assert total(samples, "ray_raydix_recomputed_tokens_total") == 0
    assert max(value for _, value in samples["ray_raydix_index_lag_seconds"]) < 10
    assert {labels["engine"] for labels, _ in samples["ray_vllm_kv_cache_usage_perc"]} >= {
        labels["engine"] for labels, _ in samples["ray_vllm_prompt_tokens_total"]
    }
