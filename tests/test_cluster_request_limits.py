"""What a request may have before anybody looks at what it says. Over the real app, without Ray."""

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from cluster.access.header_limits import MAX_HEADER_BYTES, MAX_HEADERS
from tests.fake_pools import SCOPE, TEXT, FakePools

pytest_plugins = ["tests.frontend_fixtures"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(f"x-{count}", "a") for count in range(80)], 200),
        ([(f"x-{count}", "a") for count in range(MAX_HEADERS)], 431),
        ([("x", "a")] * 20_000, 431),
        ([("x", "a" * (MAX_HEADER_BYTES - 1000))], 200),
        ([("x", "a" * MAX_HEADER_BYTES)], 431),
        ([("a" * MAX_HEADER_BYTES, "x")], 431),
    ],
)
def test_headers_are_few_and_short(client: TestClient, headers: list[tuple[str, str]], status: int) -> None:
    response = client.get("/v1/models", headers=headers)
    assert response.status_code == status
    if status == 431:
        assert response.json()["error"]["code"] == "headers_too_large"


def test_a_body_that_does_not_come_is_not_waited_for(
    api: FastAPI, pools: FakePools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.api.request_body.BODY_TIMEOUT_S", 0.05)
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        async with asyncio.timeout(10):
            await api(dict(SCOPE), receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["code"] == "request_timeout"
    assert pools.requests == []


def test_a_body_without_end_is_cut_off(api: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks without a length: what has been read by then is the limit and one chunk more."""
    num_bytes, sent = 0, []

    async def receive() -> Any:
        nonlocal num_bytes
        num_bytes += 2**20
        return {"type": "http.request", "body": b" " * 2**20, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(api(dict(SCOPE), receive, send))
    assert sent[0]["status"] == 413
    assert num_bytes == 17 * 2**20


def test_neither_is_in_the_way_of_a_request(client: TestClient) -> None:
    assert client.post("/v1/completions", json=TEXT).status_code == 200
