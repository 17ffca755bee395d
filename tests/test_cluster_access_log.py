"""access_log.py, exchange.py, serve_logging.py: one line for each request, under the id that its client got."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from ray.serve import context
from starlette.testclient import TestClient
from starlette.types import Message

from cluster.access.key_file import KeyFile
from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.failures import Loss
from cluster.door.frontend import Frontend
from cluster.telemetry.config import LogsSection
from cluster.telemetry.serve_logging import OUR_LOGGERS, context_of_another_call, join_serve_log
from tests.fake_pools import CHAT, LIMIT, SCOPE, SETTINGS, TEXT, FakePools
from tests.fake_sink import FakeSink
from tests.scripted_workers import DECODE, PREFILL, Fate, ScriptedPools
from tests.serve_log import ServeLog, behind_serve, serve_log
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]

JSON = LogsSection(encoding="json")


@pytest.fixture
def log(tmp_path: Path, api: FastAPI) -> Iterator[ServeLog]:
    with serve_log(tmp_path, JSON) as log:
        yield log


@pytest.fixture
def client(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(behind_serve(api), raise_server_exceptions=False) as client:
        yield client


def test_a_request_has_one_line_and_no_text_in_it(client: TestClient, log: ServeLog) -> None:
    response = client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 5, "user": "somebody"})
    (record,) = log.of_request(response.headers["x-request-id"])
    assert (record["method"], record["path"], record["status"]) == ("POST", "/v1/chat/completions", 200)
    assert 0 < record["duration_ms"] < 60_000
    assert (record["answer_id"], record["finish_reasons"]) == (response.json()["id"], ["length"])
    used = response.json()["usage"]
    assert (record["prompt_tokens"], record["completion_tokens"]) == (used["prompt_tokens"], 5)
    assert record["cached_tokens"] == 3
    assert not [word for word in ("import os", "naïve", "somebody") if word in log.text]
    assert len(log.records) == 1


def test_a_client_may_bring_its_own_id(client: TestClient, log: ServeLog) -> None:
    response = client.get("/v1/models", headers={"X-Request-Id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    (record,) = log.of_request("mine-1")
    assert (record["path"], record["status"]) == ("/v1/models", 200)
    assert "answer_id" not in record


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_request_is_found_by_its_id(
    client: TestClient, log: ServeLog, pools: FakePools, stream: bool
) -> None:
    pools.fails_after = 2
    response = client.post("/v1/completions", json=TEXT | {"stream": stream}, headers={"x-request-id": "bad"})
    assert (response.status_code, response.headers["x-request-id"]) == (200 if stream else 500, "bad")
    reason, access = log.of_request("bad")
    assert (reason["levelname"], access["levelname"]) == ("ERROR", "INFO")
    assert "a secret of the house" in reason["exc_text"]
    assert (access["error"], access["finish_reasons"]) == ("internal_error", ["error"])
    assert access["answer_id"] in reason["message"]
    assert access["status"] == response.status_code


@pytest.mark.parametrize(
    ("body", "status"), [({"model": "tiny"}, 400), (TEXT | {"model": "x"}, 404), (TEXT | {"max_tokens": 64}, 400)]
)
def test_a_refused_request_has_its_line_and_its_id(
    client: TestClient, log: ServeLog, body: dict[str, Any], status: int
) -> None:
    response = client.post("/v1/completions", json=body)
    (record,) = log.of_request(response.headers["x-request-id"])
    assert (response.status_code, record["status"]) == (status, status)
    assert "prompt_tokens" not in record


def test_the_workers_that_had_it_are_named(tokenizer: Tokenizer, log: ServeLog) -> None:
    pools = ScriptedPools(decodes=[Fate(2, Loss.DIED)])
    app = build_api(Frontend(SETTINGS, tokenizer, pools, FakeSink()), Admission(LIMIT))
    with TestClient(app) as client:
        client.post("/v1/completions", json=TEXT, headers={"x-request-id": "lost"})
    (record,) = log.of_request("lost")
    assert record["workers"] == [f"worker at {PREFILL}", f"worker at {DECODE}"], "each once"
    assert record["workers_lost"] == 1


def test_the_tenant_is_named_and_its_key_is_not(
    tokenizer: Tokenizer, pools: FakePools, log: ServeLog, tmp_path: Path
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f'- {{tenant: alice, keys: ["{hashlib.sha256(b"right").hexdigest()}"]}}')
    app = build_api(Frontend(SETTINGS, tokenizer, pools, FakeSink()), Admission(LIMIT), keys=KeyFile(path))
    with TestClient(app) as client:
        for key in ("right", "wrong"):
            client.get("/v1/models", headers={"x-request-id": f"with {key}", "authorization": f"Bearer {key}"})
    (known,), (unknown,) = log.of_request("with right"), log.of_request("with wrong")
    assert (known["tenant"], known["status"]) == ("alice", 200)
    assert ("tenant" in unknown, unknown["status"]) == (False, 401)
    assert "Bearer" not in log.text


def test_one_beyond_the_limit_too(client: TestClient, log: ServeLog, admission: Admission) -> None:
    while admission.enter():
        pass
    response = client.post("/v1/completions", json=TEXT)
    (record,) = log.of_request(response.headers["x-request-id"])
    assert record["status"] == response.status_code == 429


def test_what_nobody_foresaw_is_a_500(api: FastAPI, client: TestClient, log: ServeLog) -> None:
    @api.get("/breaks")
    async def breaks() -> None:
        raise ValueError("no")

    response = client.get("/breaks", headers={"x-request-id": "broken"})
    assert response.status_code == 500
    assert log.of_request("broken")[-1]["status"] == 500


def test_a_path_cannot_forge_a_line(client: TestClient, log: ServeLog) -> None:
    client.get("/v1/%0Amodels?prompt=secret")
    (record,) = log.records
    assert record["path"] == "/v1/%0Amodels"
    assert "secret" not in log.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_before_the_answer(api: FastAPI, log: ServeLog, pools: FakePools, stream: bool) -> None:
    """Serve cancels the call."""
    pools.gate.clear()

    async def receive() -> Message:
        return {"type": "http.request", "body": json.dumps(TEXT | {"stream": stream}).encode()}

    async def send(_: Message) -> None:
        raise AssertionError("there is nobody")

    async def leave() -> None:
        call = asyncio.create_task(
            api({**SCOPE, "headers": [*SCOPE["headers"], (b"x-request-id", b"g")]}, receive, send)
        )
        while not pools.num_opened:
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    asyncio.run(leave())
    (record,) = log.of_request("g")
    assert (record["status"], record["finish_reasons"]) == (499, ["abort"])


def test_a_client_that_leaves_a_stream(api: FastAPI, log: ServeLog, pools: FakePools) -> None:
    left = asyncio.Event()
    messages: list[Message] = [{"type": "http.request", "body": json.dumps(TEXT | {"stream": True}).encode()}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body"):
            pools.gate.clear()  # no more text after the first
            left.set()

    asyncio.run(api(SCOPE | {"headers": [*SCOPE["headers"], (b"x-request-id", b"g")]}, receive, send))
    (record,) = log.of_request("g")
    assert (record["status"], record["finish_reasons"]) == (200, ["abort"])
    assert 0 < record["completion_tokens"] < 16


def test_a_line_that_cannot_be_written_does_not_fail_the_request(
    client: TestClient, log: ServeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.telemetry.access_log.line", lambda fields: 1 / 0)
    assert client.get("/v1/models", headers={"x-request-id": "q"}).status_code == 200
    (record,) = log.of_request("q")
    assert "ZeroDivisionError" in record["exc_text"]


def test_text_is_for_people_and_the_terminal_is_spared(
    api: FastAPI, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_log(tmp_path, LogsSection()) as log, TestClient(behind_serve(api)) as client:
        response = client.post("/v1/completions", json=TEXT | {"max_tokens": 2}, headers={"x-request-id": "mine"})
    answer = response.json()
    (line,) = log.text.splitlines()
    assert line.startswith("INFO ")
    assert " mine -- POST /v1/completions 200 " in line
    assert line.endswith(
        f"ms answer_id={answer['id']} prompt_tokens={answer['usage']['prompt_tokens']} cached_tokens=3 "
        "completion_tokens=2 finish_reasons=length"
    )
    assert "/v1/completions" not in capsys.readouterr().err


def test_the_engine_logs_where_serve_does(tmp_path: Path) -> None:
    loggers = [logging.getLogger(name) for name in OUR_LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    try:
        with serve_log(tmp_path, LogsSection(encoding="json", level="INFO")) as log:
            join_serve_log()
            join_serve_log()  # a process may hold two replicas' worth
            context._set_request_context(request_id="mine")
            logging.getLogger("workers.pools.services").info("the KV of %s did not arrive", "r")
            logging.getLogger("workers.pools.services").debug("of no interest")
        (record,) = log.of_request("mine")
        assert record["message"] == "the KV of r did not arrive"
    finally:
        context._unset_request_context()
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)


def test_another_call_has_the_request_id_and_is_another_call() -> None:
    context._set_request_context(request_id="mine", _internal_request_id="one call", route="/")
    try:
        other = context_of_another_call().run(context._get_serve_request_context)
    finally:
        context._unset_request_context()
    assert (other.request_id, other.route, other._internal_request_id) == ("mine", "/", "")
