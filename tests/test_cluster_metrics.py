"""What is recorded of workers, routers and requests, and what Ray is told of it. No Ray cluster."""

import asyncio
import math
from collections import deque
from typing import Any, ClassVar

import pytest
from ray.util import metrics

from cluster.telemetry import metric_names as names
from cluster.telemetry.metric_names import METRICS, Kind
from cluster.telemetry.metric_sink import Totals
from cluster.telemetry.ray_metrics import RaySink, every_second
from cluster.telemetry.request_metrics import ABORT, RequestTimer
from cluster.telemetry.router_metrics import RouterMetrics
from cluster.telemetry.worker_metrics import WorkerMetrics
from tests.fake_sink import FakeSink
from tests.routing import make_router, prompt
from workers.engine.sequence import KnownFrom
from workers.engine.stats import EngineCounts
from workers.load import WorkerLoad
from workers.pools.handoff_counts import HandoffCounts


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


def test_names_are_unique_and_each_kind_is_exported_as_prometheus_has_it() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) == 30
    assert {metric.name.partition("_")[0] for metric in METRICS} == {"vllm", "raydix"}
    assert names.PROMPT_TOKENS.exported == ("ray_vllm_prompt_tokens_total",)
    assert names.KV_USAGE.exported == ("ray_vllm_kv_cache_usage_perc",)
    assert names.HANDOFF_SECONDS.exported[0] == "ray_raydix_handoff_seconds_bucket"
    assert len(names.exported_names()) == sum(len(metric.exported) for metric in METRICS)


def test_the_counters_of_a_worker_are_there_before_anything_happens(sink: FakeSink) -> None:
    WorkerMetrics(sink)
    assert set(sink.values.values()) == {0}
    assert f"{names.RECOMPUTED_TOKENS.name} preemption" in sink.values


def test_a_worker_s_load_and_counts(sink: FakeSink) -> None:
    worker = WorkerMetrics(sink)
    counts = EngineCounts(10, 20, 30, 40, 5, 6, dict.fromkeys(KnownFrom, 7), deque([0.1]), deque([0.2]), deque([0.3]))
    for _ in range(2):
        worker.record(WorkerLoad(11, free_blocks=3, num_running=2, num_blocks=4, num_waiting=1), counts)
    expected = {
        names.PROMPT_TOKENS: 20,
        names.GENERATION_TOKENS: 40,
        names.PREFIX_QUERIES: 60,
        names.PREFIX_HITS: 80,
        names.PREEMPTIONS: 10,
        names.EVICTED_BLOCKS: 12,
        names.NUM_RUNNING: 2,
        names.NUM_WAITING: 1,
        names.KV_USAGE: 0.25,
        names.QUEUED_TOKENS: 11,
    }
    assert {metric.name: sink.values[metric.name] for metric in expected} == {m.name: v for m, v in expected.items()}
    assert [sink.values[f"{names.RECOMPUTED_TOKENS.name} {reason}"] for reason in KnownFrom] == [14, 14, 14]
    times = [sink.observed[metric.name] for metric in (names.QUEUE_TIME, names.PREFILL_TIME, names.DECODE_TIME)]
    assert times == [[0.1] * 2, [0.2] * 2, [0.3] * 2]


def test_hand_offs_of_a_decode_worker(sink: FakeSink) -> None:
    WorkerMetrics(sink).record_handoffs(HandoffCounts(1000, deque([0.5, 0.25])))
    assert sink.values[names.HANDOFF_BYTES.name] == 1000
    assert sink.observed[names.HANDOFF_SECONDS.name] == [0.5, 0.25]


def test_a_router_s_decisions_and_predictions_are_told_once(sink: FakeSink) -> None:
    router, metrics_of = make_router({"a": 10}, workers=["a", "b"]), RouterMetrics(sink)
    metrics_of.record(router, [])
    assert sink.values[f"{names.ROUTER_DECISIONS.name} load"] == 0, "it is there before it happens"
    router.choose(prompt("hit"), 0.0)
    router.choose(prompt("hit"), 0.0)  # refused, and chosen again
    router.choose(prompt("new", hashes=(99,), num_tokens=20), 0.0)
    router.observe("hit", 144, 0.0)
    for _ in range(2):
        metrics_of.record(router, [0.5, 3.0])
    decisions = {
        reason: sink.values[f"{names.ROUTER_DECISIONS.name} {reason}"] for reason in ("prefix", "load", "cold")
    }
    assert decisions == {"prefix": 1, "load": 0, "cold": 1}
    assert sink.values[names.EXPECTED_HIT_TOKENS.name] == 160
    assert sink.values[names.ACTUAL_HIT_TOKENS.name] == 144
    assert sink.values[names.INDEX_LAG.name] == 3.0


def test_an_index_that_never_heard_of_a_worker_is_infinitely_old(sink: FakeSink) -> None:
    RouterMetrics(sink).record(make_router(), [0.1, math.inf])
    assert sink.values[names.INDEX_LAG.name] == math.inf


def test_a_request_s_latencies(sink: FakeSink) -> None:
    now = [10.0]
    timer = RequestTimer(sink, lambda: now[0])
    for wait_s, count in ((2.0, 1), (0.5, 1), (0.0, 0), (0.9, 3)):
        now[0] += wait_s
        timer.take_tokens(count)
    now[0] += 0.25
    timer.end("stop", 7)
    assert sink.observed[names.TIME_TO_FIRST_TOKEN.name] == pytest.approx([2.0])
    assert sink.observed[names.INTER_TOKEN_LATENCY.name] == pytest.approx([0.5, 0.3, 0.3, 0.3])
    assert sink.observed[names.E2E_LATENCY.name] == pytest.approx([3.65])
    assert sink.observed[names.REQUEST_PROMPT_TOKENS.name] == [7]
    assert sink.observed[names.REQUEST_GENERATION_TOKENS.name] == [5]
    assert sink.values[f"{names.REQUEST_SUCCESS.name} stop"] == 1


def test_a_request_that_is_aborted_counts_and_has_no_latency_to_its_end(sink: FakeSink) -> None:
    RequestTimer(sink).end(ABORT, 7)
    assert sink.values == {f"{names.REQUEST_SUCCESS.name} abort": 1}
    assert not sink.observed


def test_totals_are_told_as_differences(sink: FakeSink) -> None:
    totals = Totals(sink)
    totals.tell(names.REFUSED_REQUESTS, 0)
    assert dict(sink.values) == {names.REFUSED_REQUESTS.name: 0}, "it is there before anything happens"
    for total in (0, 3, 3, 5):
        totals.tell(names.REFUSED_REQUESTS, total)
    assert sink.values == {names.REFUSED_REQUESTS.name: 5}


class FakeRayMetric:
    """One of `ray.util.metrics`, whatever the kind."""

    made: ClassVar[list["FakeRayMetric"]] = []

    def __init__(self, name: str, description: str, *more: Any) -> None:
        self.name, self.tag_keys = name, more[-1]
        self.default_tags: dict[str, str] = {}
        self.told: list[tuple[float, dict[str, str] | None]] = []
        FakeRayMetric.made.append(self)

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.default_tags = tags

    def _record(self, value: float, tags: dict[str, str] | None) -> None:
        self.told.append((value, tags))

    observe = set = _record


def test_ray_is_told_names_labels_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRayMetric, "made", [])
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, FakeRayMetric)
    ray_sink = RaySink("modèle", "decode", "w1")
    for metric in (names.RECOMPUTED_TOKENS, names.KV_USAGE, names.HANDOFF_SECONDS, names.KV_USAGE):
        ray_sink.record(metric, 2.0, "resume" if metric.label else "")
    labels = {"model_name": "mod\\xe8le", "pool": "decode", "engine": "w1"}
    assert [made.default_tags for made in FakeRayMetric.made] == [labels] * 3
    assert [made.tag_keys for made in FakeRayMetric.made] == [(*labels, "reason"), (*labels,), (*labels,)]
    assert [made.told for made in FakeRayMetric.made] == [
        [(2.0, {"reason": "resume"})],
        [(2.0, None)] * 2,
        [(2.0, None)],
    ]


def test_ray_takes_every_metric_outside_of_a_cluster_too() -> None:
    """As in a process that holds a handle and no replica; and a 0, and a name that is not ASCII."""
    ray_sink = RaySink("modèle", "decode", "")
    for metric in METRICS:
        ray_sink.record(metric, 0.0 if metric.kind is Kind.COUNTER else 1.0, "x" if metric.label else "")


def test_recording_goes_on_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.telemetry.ray_metrics.RECORD_PERIOD_S", 0.0)
    calls: list[int] = []

    def record() -> None:
        calls.append(1)
        raise ValueError("a metric that Ray does not like")

    async def scene() -> None:
        task = asyncio.create_task(every_second(record))
        while len(calls) < 3:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(scene(), 5))
