"""Tenants at the API: each with its own limits and its own KV. Over the real app and fake pools, without Ray."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from cluster.access.key_file import KeyFile
from cluster.access.metering import Accounts
from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from cluster.telemetry.metric_names import TENANT_REFUSED_REQUESTS, TENANT_TOKENS
from cluster.telemetry.metric_sink import Totals
from tests.fake_pools import CHAT, SETTINGS, TEXT, FakePools
from tests.fake_sink import FakeSink
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]
LONG = TEXT | {"prompt": [5, 6, 7, 8] * 10, "max_tokens": 4}
Serve = Callable[..., TestClient]


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
def serve(tokenizer: Tokenizer, pools: FakePools, accounts: Accounts, tmp_path: Path) -> Serve:
    """An API whose tenants alice and bob have these limits; their keys are their names."""

    def served(limits: str = "") -> TestClient:
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("alice", "bob")}
        lines = [f'- {{tenant: {name}, keys: ["{digest}"]{limits}}}' for name, digest in digests.items()]
        path = tmp_path / "keys.yaml"
        path.write_text("\n".join(lines))
        frontend = Frontend(SETTINGS, tokenizer, pools, FakeSink())
        return TestClient(build_api(frontend, Admission(9), keys=KeyFile(path), accounts=accounts))

    return served


def ask(client: TestClient, tenant: str, body: Any = LONG, path: str = "/v1/completions") -> Any:
    return client.post(path, json=body, headers={"Authorization": f"Bearer {tenant}"})


def test_the_same_prompt_has_another_hash_for_every_tenant_and_salt(serve: Serve, pools: FakePools) -> None:
    client = serve()
    for tenant, fields in (
        ("alice", {}),
        ("bob", {}),
        ("alice", {"cache_salt": "x"}),
        ("bob", {"cache_salt": "x"}),
        ("alice", {}),
    ):
        assert ask(client, tenant, LONG | fields).status_code == 200
    hashes = [request.block_hashes for request in pools.requests]
    assert all(len(one) == 2 for one in hashes)
    assert hashes[4] == hashes[0]
    assert len({one for each in hashes[:4] for one in each}) == 8
    assert [request.cache_salt for request in pools.requests[:4]] == ["alice/", "bob/", "alice/x", "bob/x"]


def test_a_salt_cannot_reach_another_tenant(serve: Serve, pools: FakePools) -> None:
    client = serve()
    for salt in ("bob/", "/", "..", "bob"):
        ask(client, "alice", LONG | {"cache_salt": salt})
    ask(client, "bob", LONG)
    assert len({request.block_hashes for request in pools.requests}) == 5


def test_without_keys_there_is_one_cache_and_salts_part_it(client: TestClient, pools: FakePools) -> None:
    for fields in ({}, {"cache_salt": "x"}):
        assert client.post("/v1/completions", json=LONG | fields).status_code == 200
    assert [request.cache_salt for request in pools.requests] == ["", "/x"]
    assert pools.requests[0].block_hashes != pools.requests[1].block_hashes


def test_each_tenant_has_its_own_limits(serve: Serve, pools: FakePools) -> None:
    client = serve(", requests_per_minute: 2")
    assert [ask(client, "alice").status_code for _ in range(3)] == [200, 200, 429]
    assert ask(client, "bob").status_code == 200
    response = ask(client, "alice")
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert int(response.headers["retry-after"]) >= 1
    assert len(pools.requests) == 3


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (LONG | {"n": 3, "max_tokens": 20}, "/v1/completions"),
        (LONG | {"best_of": 3, "max_tokens": 20}, "/v1/completions"),
        (LONG | {"prompt": [LONG["prompt"]] * 3, "max_tokens": 4}, "/v1/completions"),
        (CHAT | {"n": 3, "max_tokens": 34}, "/v1/chat/completions"),
        (CHAT | {"n": 2}, "/v1/chat/completions"),
    ],
)
def test_a_request_is_charged_with_all_that_it_may_come_to(
    serve: Serve, pools: FakePools, body: Any, path: str
) -> None:
    response = ask(serve(", tokens_per_minute: 99"), "alice", body, path)
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert pools.requests == [], "refused before anything is computed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails_after", [None, 0, 2])
def test_what_was_not_used_is_given_back_however_it_ends(
    serve: Serve, pools: FakePools, accounts: Accounts, stream: bool, fails_after: int | None
) -> None:
    client = serve(", tokens_per_minute: 1000, concurrent_requests: 1")
    pools.fails_after = fails_after
    given = 4 if fails_after is None else fails_after
    for count in range(1, 5):
        assert ask(client, "alice", LONG | {"stream": stream, "n": 1}).status_code != 429
        assert accounts.of("alice").num_tokens == count * (40 + given)
    assert accounts.of("alice").num_in_flight == 0
    assert accounts.of("alice")._tokens._used == pytest.approx(4 * (40 + given), abs=20)


def test_openais_client_is_told_by_the_name_it_knows(serve: Serve) -> None:
    client = serve(", requests_per_minute: 1")
    ask(client, "alice")
    theirs = openai.OpenAI(api_key="alice", base_url="http://testserver/v1", http_client=client, max_retries=0)
    with pytest.raises(openai.RateLimitError) as refused:
        theirs.completions.create(**LONG)
    assert refused.value.code == "rate_limit_exceeded"


def test_metrics_count_tokens_and_refusals_by_tenant(serve: Serve, accounts: Accounts) -> None:
    client, sink = serve(", requests_per_minute: 1"), FakeSink()
    ask(client, "alice")
    ask(client, "alice")
    accounts.tell(Totals(sink))
    tokens, refusals = TENANT_TOKENS.name, TENANT_REFUSED_REQUESTS.name
    assert sink.values == {
        f"{tokens} anybody": 0,
        f"{refusals} anybody": 0,
        f"{tokens} alice": 44,
        f"{refusals} alice": 1,
    }
