"""However a request ends: what its client is told, and that nothing of it is left. Without Ray."""

import asyncio
import json
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from cluster.api.answers import Json
from cluster.door.admission import Admission
from cluster.door.failures import NoWorkerError, QuarantinedError, TimeIsOverError
from tests.fake_pools import CHAT, LIMIT, SCOPE, TEXT, FakePools, events_of
from workers.request import RequestError

pytest_plugins = ["tests.frontend_fixtures"]


def test_an_unforeseen_failure_tells_nothing_of_the_house(client: TestClient, pools: FakePools) -> None:
    pools.fails_after = 0
    response = client.post("/v1/completions", json=TEXT)
    assert response.status_code == 500
    assert "secret" not in response.text


def test_a_failure_in_a_stream_is_an_event_and_no_done_follows(client: TestClient, pools: FakePools) -> None:
    pools.fails_after = 2
    events = events_of(client.post("/v1/completions", json=TEXT | {"stream": True}).text)
    assert events[-1]["error"]["type"] == "server_error"
    assert "secret" not in str(events)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (NoWorkerError(), 503, "overloaded", "1"),
        (TimeIsOverError(), 504, "deadline_exceeded", None),
        (QuarantinedError(), 500, "request_quarantined", None),
        (RequestError("the prompt is too long"), 400, "invalid_value", None),
    ],
)
@pytest.mark.parametrize("fails_after", [0, 1])
def test_what_befell_a_request_is_told_by_status_and_code(
    client: TestClient,
    pools: FakePools,
    fails_after: int,
    error: Exception,
    status: int,
    code: str,
    retry_after: str | None,
) -> None:
    pools.fails_after, pools.fails_with = fails_after, error
    response = client.post("/v1/completions", json=TEXT)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers.get("retry-after") == retry_after


def test_a_full_door_refuses_at_once_and_answers_all_else(
    client: TestClient, pools: FakePools, admission: Admission
) -> None:
    while admission.enter():
        pass
    for path, body in (("completions", TEXT), ("chat/completions", CHAT), ("completions", {"no": "request"})):
        response = client.post(f"/v1/{path}", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
        assert int(response.headers["retry-after"]) >= 1
        assert f"try again in {response.headers['retry-after']} s" in error["message"]
    assert pools.requests == []
    assert client.get("/healthz").status_code == client.get("/v1/models").status_code == 200
    admission.leave()
    assert client.post("/v1/completions", json=TEXT).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", TEXT),
        ("completions", TEXT | {"stream": True}),
        ("chat/completions", CHAT | {"stream": True}),
        ("completions", TEXT | {"prompt": ""}),
        ("completions", TEXT | {"max_tokens": 64}),
    ],
)
@pytest.mark.parametrize("fails_after", [None, 0, 2])
def test_however_a_request_ends_its_slot_is_given_back(
    client: TestClient, pools: FakePools, admission: Admission, path: str, body: Json, fails_after: int | None
) -> None:
    pools.fails_after = fails_after
    for _ in range(LIMIT + 1):
        assert client.post(f"/v1/{path}", json=body).status_code != 429
    assert admission.num_in_flight == 0


def test_openais_client_is_told_by_the_name_it_knows(client: TestClient, admission: Admission) -> None:
    while admission.enter():
        pass
    theirs = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=client, max_retries=0)
    with pytest.raises(openai.RateLimitError) as refused:
        theirs.completions.create(model="tiny", prompt="import os")
    assert refused.value.code == "queue_full"


def asked(api: FastAPI, body: Json) -> "tuple[asyncio.Task[None], list[int]]":
    """A request on its way, and the status of its answer once there is one."""
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        statuses.extend([message["status"]] if "status" in message else [])

    return asyncio.create_task(api(SCOPE, receive, send)), statuses


@pytest.mark.parametrize("stream", [False, True])
def test_requests_in_flight_count_until_their_last_byte(api: FastAPI, pools: FakePools, stream: bool) -> None:
    async def crowd() -> None:
        body = TEXT | {"stream": stream}
        pools.gate = asyncio.Event()
        waiting = [asked(api, body) for _ in range(LIMIT)]
        while len(pools.requests) < LIMIT:
            await asyncio.sleep(0)
        refused, statuses = asked(api, body)
        await refused
        assert (statuses, len(pools.requests)) == ([429], LIMIT)
        pools.gate.set()
        await asyncio.wait([task for task, _ in waiting])
        last, statuses = asked(api, body)
        await last
        assert [statuses, *(told for _, told in waiting)] == [[200]] * (LIMIT + 1)

    asyncio.run(crowd())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_at_any_time_leaves_nothing_behind(
    api: FastAPI, pools: FakePools, admission: Admission, stream: bool
) -> None:
    async def gone_after(turns: int) -> bool:
        task, _ = asked(api, TEXT | {"stream": stream})
        for _ in range(turns):
            await asyncio.sleep(0)
        ended = task.done()
        task.cancel()
        await asyncio.wait([task])
        assert admission.num_in_flight == 0
        assert pools.num_closed == pools.num_opened, "a worker must not go on for nobody"
        return ended

    async def all_times() -> None:
        turns = 0
        while not await gone_after(turns):
            turns += 1
        assert turns > 10

    asyncio.run(all_times())
