"""tracing.py, span_exporter.py, span_attributes.py: requests as spans, from the app to a collector."""

import ast
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from cluster.api.answers import Json
from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.failures import Loss
from cluster.door.frontend import Frontend, Pools
from cluster.telemetry.span_exporter import make_exporter
from cluster.telemetry.tracing import Tracer
from tests.fake_pools import CHAT, LIMIT, SETTINGS, TEXT, FakePools
from tests.fake_sink import FakeSink
from tests.otlp_collector import Collector, collecting
from tests.scripted_workers import DECODE, Fate, ScriptedPools
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ROOT = Path(__file__).resolve().parents[1]


def traceparent(flags: str) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # ms
    with collecting() as collector:
        yield collector


@pytest.fixture
def tracers() -> Iterator[list[Tracer]]:
    made: list[Tracer] = []
    yield made
    for tracer in made:
        tracer.close()


@pytest.fixture
def traced(tokenizer: Tokenizer, collector: Collector, tracers: list[Tracer]) -> Callable[..., TestClient]:
    """A client of the app over pools, traced."""

    def client(pools: Pools, ratio: float = 1.0, endpoint: str = collector.endpoint) -> TestClient:
        tracers.append(Tracer(make_exporter(endpoint), ratio, "front-1"))
        frontend = Frontend(SETTINGS, tokenizer, pools, FakeSink())
        app = build_api(frontend, Admission(LIMIT), trace=tracers[-1].trace)
        return TestClient(app, raise_server_exceptions=False)

    return client


def test_a_chat_is_a_tree_with_what_was_asked_and_what_came(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools
) -> None:
    body = CHAT | {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 3}
    answer = traced(pools).post("/v1/chat/completions", json=body, headers={"x-request-id": "mine"}).json()
    (request,) = collector.wait_for_servers(1)
    said = request.attributes
    assert request.name == "chat tiny"
    assert request.span.parent_span_id == b""
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "raydix"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "tiny"
    assert (said["gen_ai.request.max_tokens"], said["gen_ai.request.seed"]) == (5, 3)
    assert (said["gen_ai.request.temperature"], said["gen_ai.request.top_p"]) == (0.5, 0.9)
    assert said["gen_ai.response.id"] == answer["id"]
    assert said["gen_ai.response.finish_reasons"] == ["length"]
    assert said["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert said["gen_ai.usage.output_tokens"] == 5
    assert said["gen_ai.usage.cache_read.input_tokens"] == 3
    assert (said["http.response.status_code"], said["url.path"]) == (200, "/v1/chat/completions")
    assert said["http.request.header.x-request-id"] == ["mine"]
    assert "error.type" not in said
    assert (request.resource["service.name"], request.resource["service.instance.id"]) == ("raydix", "front-1")
    children = collector.children_of(request)
    assert [one.name for one in children] == ["route", "prefill", "route", "decode"]
    assert max(one.span.end_time_unix_nano for one in children) <= request.span.end_time_unix_nano


def test_no_text_of_anybody_leaves_the_house(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools
) -> None:
    client = traced(pools)
    client.post("/v1/completions", json=TEXT | {"max_tokens": 30, "stop": "STOP", "user": "somebody"})
    client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 30})
    collector.wait_for_servers(2)
    for text in ("import os", "naïve", "STOP", "somebody"):
        assert text.encode() not in collector.raw


def test_a_stream_says_when_its_first_chunk_came(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools
) -> None:
    assert "[DONE]" in traced(pools).post("/v1/completions", json=TEXT | {"stream": True, "max_tokens": 4}).text
    (request,) = collector.wait_for_servers(1)
    assert request.name == "text_completion tiny"
    assert request.attributes["gen_ai.request.stream"] is True
    assert 0 < request.attributes["gen_ai.response.time_to_first_chunk"] < request.seconds
    assert request.attributes["gen_ai.usage.output_tokens"] == 4


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_client_decides_on_its_own_traces(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools, ratio: float
) -> None:
    client = traced(pools, ratio=ratio)
    client.post("/v1/completions", json=TEXT, headers=traceparent("00"))
    client.post("/v1/completions", json=TEXT, headers=traceparent("01"))
    (request,) = collector.wait_for_servers(1)
    assert (request.span.trace_id.hex(), request.span.parent_span_id.hex()) == (TRACE, PARENT)


def test_of_other_traces_a_part_is_sampled(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools, tracers: list[Tracer]
) -> None:
    client = traced(pools, ratio=0.5)
    for _ in range(60):
        client.post("/v1/completions", json=TEXT | {"max_tokens": 1})
    tracers[-1].close()
    assert 10 <= len(collector.servers()) <= 50
    assert len({one.span.trace_id for one in collector.servers()}) == len(collector.servers())


def test_a_lost_worker_is_an_event_and_the_attempts_can_be_told_apart(
    traced: Callable[..., TestClient], collector: Collector
) -> None:
    pools = ScriptedPools(decodes=[Fate(2, Loss.DIED)])
    assert traced(pools).post("/v1/completions", json=TEXT).status_code == 200
    (request,) = collector.wait_for_servers(1)
    children = collector.children_of(request)
    work = [(one.name, one.attributes["raydix.attempt"]) for one in children if one.name != "route"]
    assert work == [("prefill", 0), ("decode", 0), ("prefill", 1), ("decode", 1)]
    assert {one.attributes["raydix.worker"] for one in children if one.name == "decode"} == {f"worker at {DECODE}"}
    ((event, said),) = request.events
    assert (event, said["raydix.attempt"], said["raydix.work"]) == ("worker_lost", 0, "decode")
    assert (said["raydix.worker"], said["raydix.loss"]) == (f"worker at {DECODE}", "died")
    failed = [one for one in children if one.span.status.code == Status.STATUS_CODE_ERROR]
    assert [(one.name, one.attributes["raydix.attempt"]) for one in failed] == [("decode", 0)]
    assert request.span.status.code == Status.STATUS_CODE_UNSET, "its client has noticed nothing"


def test_each_choice_has_its_own_calls(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools
) -> None:
    traced(pools).post("/v1/completions", json=TEXT | {"n": 3, "max_tokens": 2})
    (request,) = collector.wait_for_servers(1)
    choices = [one.attributes["raydix.choice"] for one in collector.children_of(request) if one.name == "decode"]
    assert sorted(choices) == [0, 1, 2]
    assert request.attributes["gen_ai.request.choice.count"] == 3
    assert request.attributes["gen_ai.response.finish_reasons"] == ["length"] * 3
    assert request.attributes["gen_ai.usage.output_tokens"] == 6


@pytest.mark.parametrize(
    ("fails_after", "body", "status", "error"),
    [
        (0, TEXT, 500, "internal_error"),
        (2, TEXT | {"stream": True}, 200, "internal_error"),
        (None, TEXT | {"model": "m" * 999}, 404, "404"),
    ],
)
def test_what_went_wrong_is_said(
    traced: Callable[..., TestClient],
    collector: Collector,
    pools: FakePools,
    fails_after: int | None,
    body: Json,
    status: int,
    error: str,
) -> None:
    pools.fails_after = fails_after
    traced(pools).post("/v1/completions", json=body)
    (request,) = collector.wait_for_servers(1)
    assert (request.attributes["http.response.status_code"], request.attributes["error.type"]) == (status, error)
    failed = request.span.status.code == Status.STATUS_CODE_ERROR
    assert failed == (error == "internal_error"), "a client's mistake is none of the server's"
    assert len(request.name) < 200


def test_what_is_no_generation_has_no_spans(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools, tracers: list[Tracer]
) -> None:
    client = traced(pools)
    client.get("/v1/models")
    client.post("/v1/completions", json={"model": "tiny"})
    tracers[-1].close()
    assert collector.spans == []


def test_where_serve_traces_too_its_span_is_the_parent(
    traced: Callable[..., TestClient], collector: Collector, pools: FakePools
) -> None:
    inner = traced(pools).app
    known = SpanContext(int("5" * 32, 16), int("6" * 16, 16), is_remote=False, trace_flags=TraceFlags(1))

    async def behind_serve(scope: Scope, receive: Receive, send: Send) -> None:
        with use_span(NonRecordingSpan(known)):
            await inner(scope, receive, send)

    with TestClient(behind_serve) as client:
        client.post("/v1/completions", json=TEXT, headers=traceparent("01"))
    (request,) = collector.wait_for_servers(1)
    assert (request.span.trace_id.hex(), request.span.parent_span_id.hex()) == ("5" * 32, "6" * 16)


def test_a_collector_that_is_down_costs_two_lines_in_the_log(
    traced: Callable[..., TestClient],
    collector: Collector,
    pools: FakePools,
    tracers: list[Tracer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger("ray.serve").addHandler(caplog.handler)
    try:
        client, collector.status = traced(pools), 400  # an error that is not tried again
        for _ in range(3):
            assert client.post("/v1/completions", json=TEXT).status_code == 200
            tracers[-1].flush()
        collector.status = 200
        client.post("/v1/completions", json=TEXT)
        tracers[-1].close()
    finally:
        logging.getLogger("ray.serve").removeHandler(caplog.handler)
    said = [record.getMessage() for record in caplog.records if "span" in record.getMessage()]
    assert len(said) == 2, said
    assert "cannot be sent" in said[0]
    assert "15 were lost" in said[1]


def test_nothing_of_it_is_loaded_where_nothing_is_traced() -> None:
    """No module imports it when it is imported itself, but for the two that are for that."""
    ours = ("cluster.telemetry.tracing", "cluster.telemetry.span_exporter", "opentelemetry")
    files = [path for path in (ROOT / "cluster").rglob("*.py") if path.stem not in ("tracing", "span_exporter")]
    for path in files:
        statements = ast.parse(path.read_text("utf-8")).body
        imported = [one.module or "" for one in statements if isinstance(one, ast.ImportFrom)]
        imported += [alias.name for one in statements if isinstance(one, ast.Import) for alias in one.names]
        assert not [name for name in imported if name.startswith(ours)], path
    assert len(files) > 10
