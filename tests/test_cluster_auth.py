"""Nothing but probes is answered without a key. Over the real app, without Ray."""

import hashlib
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from cluster.access.auth import OPEN_PATHS
from cluster.access.key_file import KeyFile
from cluster.api.routes import build_api
from cluster.app import build_app_from_args
from cluster.config import ConfigError, parse_config
from cluster.door.admission import Admission
from cluster.door.frontend import Frontend
from tests.fake_pools import LIMIT, SETTINGS, TEXT, FakePools
from tests.fake_sink import FakeSink
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]
KEY = "rdx-alice"
GOOD = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    path = tmp_path / "keys.yaml"
    path.write_text(f'- {{tenant: alice, keys: ["{hashlib.sha256(KEY.encode()).hexdigest()}"]}}')
    return KeyFile(path)


@pytest.fixture
def api(tokenizer: Tokenizer, pools: FakePools, keys: KeyFile) -> FastAPI:
    frontend = Frontend(SETTINGS, tokenizer, pools, FakeSink())
    return build_api(frontend, Admission(LIMIT), keys=keys)


def test_every_route_but_the_probes_wants_a_key(api: FastAPI, client: TestClient, pools: FakePools) -> None:
    routes = [route for route in api.routes if isinstance(route, Route)]
    assert len(routes) >= 6
    for route in routes:
        path = route.path.replace("{name:path}", "tiny")
        for method in (route.methods or set()) - {"HEAD"}:
            response = client.request(method, path, json=TEXT if method == "POST" else None)
            if path in OPEN_PATHS:
                assert response.status_code == 200
            else:
                assert response.status_code == 401, f"{method} {path} is answered without a key"
    assert pools.requests == []


@pytest.mark.parametrize(
    "path", ["/", "/v1/nothing", "/openapi.json", "//healthz", "/healthz/", "/healthz/../v1/models"]
)
def test_paths_that_are_not_there_want_a_key_as_well(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Bearer wrong")],
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", KEY)],
        [("Authorization", b"Bearer sch\xfcssel")],
        [("Authorization", "Bearer schlüssel".encode())],
        [("Authorization", f"Bearer {KEY}x")],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer other")],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
        [("X-Api-Key", KEY)],
    ],
)
def test_whoever_shows_no_known_key_is_told_so(client: TestClient, headers: list[tuple[str, Any]]) -> None:
    response = client.post("/v1/completions", content=b"not even JSON", headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    assert (error["param"], response.headers["www-authenticate"]) == (None, 'Bearer realm="raydix"')
    assert KEY not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_a_key_opens(client: TestClient, scheme: str) -> None:
    assert client.post("/v1/completions", json=TEXT, headers={"Authorization": f"{scheme} {KEY}"}).status_code == 200


def test_a_host_header_opens_nothing(client: TestClient) -> None:
    for host in ("a/healthz?x=", "healthz", "testserver/healthz"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 401


def test_a_websocket_is_closed(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/healthz"):
        pass
    assert closed.value.code == 1008


def test_openais_client_is_told_by_the_name_it_knows(client: TestClient) -> None:
    theirs = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=client, max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        theirs.models.list()
    assert refused.value.code == "invalid_api_key"
    assert [model.id for model in theirs.with_options(api_key=KEY).models.list()] == ["tiny"]


def test_strangers_take_no_slot(tokenizer: Tokenizer, pools: FakePools, keys: KeyFile) -> None:
    admission = Admission(1)
    assert admission.enter()
    client = TestClient(build_api(Frontend(SETTINGS, tokenizer, pools, FakeSink()), admission, keys=keys))
    assert client.post("/v1/completions", json=TEXT).status_code == 401
    assert client.post("/v1/completions", json=TEXT, headers=GOOD).status_code == 429


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9", "::1"])
def test_without_keys_loopback_is_no_danger(host: str) -> None:
    assert parse_config({"http": {"host": host, "proxy": "serve"}}).auth.keys_path is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_without_keys_any_other_address_takes_a_word(host: str) -> None:
    http = {"host": host, "proxy": "serve"}
    with pytest.raises(ConfigError, match="listens on loopback only"):
        parse_config({"http": http})
    assert parse_config({"http": http, "auth": {"allow_anonymous": True}}).auth.allow_anonymous
    assert parse_config({"http": http, "auth": {"keys_file": "k"}}).auth.keys_path == Path("k").absolute()
    with pytest.raises(ConfigError, match="exclude each other"):
        parse_config({"auth": {"keys_file": "k", "allow_anonymous": True}})


def test_on_a_cluster_that_runs_already_somebody_has_to_say_who_may_ask() -> None:
    with pytest.raises(ConfigError, match=r"reached from elsewhere.*auth\.allow_anonymous"):
        build_app_from_args({})
