"""Every bad request of the list, at a front door without Ray."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.bad_requests import BAD_REQUESTS, ELSEWHERE, TEXT, TEXT_PATH, BadRequest
from tests.fake_pools import FakePools

pytest_plugins = ["tests.frontend_fixtures"]


def named(value: Any) -> str | None:
    return value.name if isinstance(value, BadRequest) else None


def test_the_list_is_whole() -> None:
    shown = {bad.name for bad in BAD_REQUESTS}
    assert not shown & ELSEWHERE.keys()
    assert shown | ELSEWHERE.keys() == {f"B{number:02}" for number in range(1, 107)}
    files = {file for where in ELSEWHERE.values() for file in where.partition(": ")[0].split(", ")}
    assert all((Path(__file__).parent / file).exists() for file in files)


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=named)
def test_a_bad_request_is_refused_by_field_and_word(client: TestClient, pools: FakePools, bad: BadRequest) -> None:
    response = client.request(bad.method, bad.path, content=bad.body, headers=bad.headers)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (bad.status, bad.param, bad.code)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert len(response.content) < 2000
    assert pools.requests == [], "it must not reach a worker"
    assert client.post(TEXT_PATH, json=TEXT).status_code == 200
