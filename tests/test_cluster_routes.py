"""Every route has a policy: one that is added without is found here. And no error tells anything of the house."""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient

from cluster.access.admin import build_admin_api
from cluster.access.auth import OPEN_PATHS
from cluster.access.key_file import KeyFile
from cluster.api.routes import build_api
from cluster.door.admission import Admission
from cluster.door.failures import NoWorkerError, QuarantinedError, TimeIsOverError
from cluster.door.frontend import Frontend
from tests.fake_pools import CHAT, SETTINGS, TEXT, FakePools
from tests.fake_sink import FakeSink
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]
OPEN, TENANT, METERED, OPERATOR = "open", "a tenant's key", "a tenant's key, metered", "an operator's key"
API = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/version"): TENANT,
    ("GET", "/metrics"): TENANT,
    ("GET", "/openapi.json"): TENANT,
    ("GET", "/v1/models"): TENANT,
    ("GET", "/v1/models/{name:path}"): TENANT,
    ("POST", "/tokenize"): TENANT,
    ("POST", "/detokenize"): TENANT,
    ("POST", "/v1/completions"): METERED,
    ("POST", "/v1/chat/completions"): METERED,
}
ADMIN = {
    ("GET", "/debug/route"): OPERATOR,
    ("POST", "/debug/route"): OPERATOR,
    ("POST", "/reset_prefix_cache"): OPERATOR,
}
KEYS = {"a tenant": "rdx-tenant", "an operator": "rdx-operator"}


def key_file(path: Path, key: str, limits: str = "") -> KeyFile:
    path.write_text(f'- {{tenant: t, keys: ["{hashlib.sha256(key.encode()).hexdigest()}"]{limits}}}')
    return KeyFile(path)


@pytest.fixture
def frontend(tokenizer: Tokenizer, pools: FakePools) -> Frontend:
    return Frontend(SETTINGS, tokenizer, pools, FakeSink())


@pytest.fixture
def api(frontend: Frontend, tmp_path: Path) -> FastAPI:
    return build_api(frontend, Admission(9), keys=key_file(tmp_path / "keys", "rdx-tenant", ", requests_per_minute: 1"))


@pytest.fixture
def admin(frontend: Frontend, tmp_path: Path) -> FastAPI:
    return build_admin_api(frontend, key_file(tmp_path / "admin", "rdx-operator"))


def inventory(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        assert isinstance(route, Route), f"{route} is of a kind that nobody has thought about"
        yield from ((method, route.path) for method in (route.methods or set()) - {"HEAD"})


def test_every_route_has_a_policy(api: FastAPI, admin: FastAPI) -> None:
    assert set(inventory(api.routes)) == API.keys()
    assert set(inventory(admin.routes)) == ADMIN.keys()
    assert {path for (_, path), policy in (API | ADMIN).items() if policy == OPEN} == OPEN_PATHS


def test_every_route_keeps_to_its_policy(api: FastAPI, admin: FastAPI, pools: FakePools) -> None:
    for app, policies in ((api, API), (admin, ADMIN)):
        client = TestClient(app, raise_server_exceptions=False)
        for ((method, path), policy), key in product(policies.items(), [None, *KEYS.values()]):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            told = client.request(method, path.replace("{name:path}", "tiny"), headers=headers)
            wanted = {OPEN: None, OPERATOR: "rdx-operator"}.get(policy, "rdx-tenant")
            assert (told.status_code == 401) == (policy != OPEN and key != wanted), (method, path, key)
    assert pools.requests == []


@pytest.mark.parametrize(("method", "path"), [one for one, policy in API.items() if policy == METERED])
def test_what_is_metered_is_kept_to_limits(api: FastAPI, method: str, path: str) -> None:
    client = TestClient(api, headers={"Authorization": "Bearer rdx-tenant"})
    body = CHAT if "chat" in path else TEXT
    assert [client.request(method, path, json=body).status_code for _ in range(2)] == [200, 429]


HOUSE = re.compile(
    r"/(?:root|home|usr|opt|tmp|work|etc|var|proc|dev)\b|0x[0-9a-f]{6,}|Traceback|File \"|line \d+,|\.py\b"
    r"|\b(?:cluster|workers|radix|router|kernels|starlette|fastapi|pydantic|ray|transformers|tokenizers|jinja2)\.[a-z_]+\."
    r"|\b[A-Z]\w+(?:Error|Exception)\b|\d{1,3}(?:\.\d{1,3}){3}|secret of the house"
)
WRONG_TEXT: list[dict[str, Any]] = [
    {"model": "../../etc"}, {"prompt": ""}, {"prompt": [99999]}, {"prompt": "\ud800"}, {"prompt": {"a": 1}},
    {"n": 10**9}, {"temperature": 9}, {"max_tokens": 5000}, {"logit_bias": {"x": 1}}, {"stop": [""]},
    {"cache_salt": "a b"}, {"min_tokens": 9, "max_tokens": 8}, {"prompt_embeds": "x"}, {"stream": "yes"},
]  # fmt: skip
IMAGE = {"type": "image_url", "image_url": {"url": "http://x"}}
WRONG_CHAT: list[dict[str, Any]] = [
    {"messages": []}, {"messages": "x"}, {"messages": [{"role": "root", "content": "x"}]}, {"top_logprobs": 3},
    {"messages": [{"role": "user", "content": [IMAGE]}]}, {"tools": [{}]}, {"response_format": {"type": "json_object"}},
]  # fmt: skip
NO_JSON = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": NaN}', b"[" * 5000, b'{"a": 1' + b"0" * 5000]
BAD_BODIES = [*NO_JSON, *(TEXT | fields for fields in WRONG_TEXT), *(CHAT | fields for fields in WRONG_CHAT)]


def as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def test_no_error_tells_anything_of_the_house(tokenizer: Tokenizer, pools: FakePools) -> None:
    app = build_api(Frontend(SETTINGS, tokenizer, pools, FakeSink()), Admission(9))
    client = TestClient(app, raise_server_exceptions=False)
    told = []
    for value, path in product(BAD_BODIES, ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]):
        content = as_bytes(value)
        told.append(client.post(path, content=content, headers={"content-type": "application/json"}))
    told += [client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})]
    told += [client.request(method, "/v1/completions") for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")]
    told += [client.get(path) for path in ("/v1/nothing", "/v1/models/../../etc/passwd", "/%2e%2e/etc/passwd")]
    for error in (RuntimeError("a secret of the house"), NoWorkerError(), TimeIsOverError(), QuarantinedError()):
        for pools.fails_after, stream in product((0, 2), (False, True)):
            pools.fails_with = error
            told.append(client.post("/v1/completions", json=TEXT | {"stream": stream}))
    failed = [one for one in told if one.status_code >= 400 or '"error"' in one.text]
    assert len(failed) > 100
    for one in failed:
        sent = bytes(one.request.content).decode("utf-8", "replace")
        found = [match[0] for match in HOUSE.finditer(one.text) if match[0] not in sent + str(one.request.url)]
        assert found == [], (one.request.url, one.text)
