"""What operators may ask, over the real app and fake pools, without Ray; and the port that it is served at."""

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from cluster.access.admin import build_admin_api, serve_on_loopback
from cluster.access.key_file import KeyFile
from cluster.door.frontend import Frontend
from cluster.haproxy import free_ports
from tests.fake_pools import CHAT, SETTINGS, TEXT, FakePools
from tests.fake_sink import FakeSink
from workers.tokenizer import Tokenizer

pytest_plugins = ["tests.frontend_fixtures"]
KEY = "rdx-operator"


@pytest.fixture
def admin(tokenizer: Tokenizer, pools: FakePools, tmp_path: Path) -> Iterator[TestClient]:
    path = tmp_path / "admin.yaml"
    path.write_text(f'- {{tenant: operator, keys: ["{hashlib.sha256(KEY.encode()).hexdigest()}"]}}')
    app = build_admin_api(Frontend(SETTINGS, tokenizer, pools, FakeSink()), KeyFile(path))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


def test_every_route_wants_a_key(admin: TestClient, pools: FakePools) -> None:
    for method, path in (("GET", "/debug/route"), ("POST", "/debug/route"), ("POST", "/reset_prefix_cache")):
        response = admin.request(method, path, headers={"Authorization": "Bearer rdx-alice"})
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (pools.asked, pools.num_resets) == ([], 0)


def test_the_api_has_none_of_the_routes(client: TestClient, pools: FakePools) -> None:
    for method, path in (("GET", "/debug/route"), ("POST", "/debug/route"), ("POST", "/reset_prefix_cache")):
        assert client.request(method, path, json=TEXT).status_code == 404
    assert (pools.asked, pools.num_resets) == ([], 0)


def test_caches_are_forgotten_and_a_worker_that_was_not_reached_is_named(admin: TestClient, pools: FakePools) -> None:
    assert (admin.post("/reset_prefix_cache").status_code, pools.num_resets) == (200, 1)
    pools.unreached = ["a1b2", "c3d4"]
    response = admin.post("/reset_prefix_cache")
    assert response.status_code == 503
    assert "a1b2, c3d4" in response.json()["error"]["message"]
    pools.is_empty = True
    assert admin.post("/reset_prefix_cache").status_code == 503


def test_a_dry_run_is_made_for_the_tenant_that_is_named(admin: TestClient, pools: FakePools) -> None:
    prompt = "import os " * 10
    for tenant in ("", "alice", "bob"):
        admin.get("/debug/route", params={"prompt": prompt, "tenant": tenant})
        admin.post("/debug/route", params={"tenant": tenant}, json=TEXT | {"prompt": prompt})
    hashes = [question.dry_run.block_hashes for question in pools.asked if question.dry_run]
    assert hashes[::2] == hashes[1::2]
    assert len(set(hashes)) == 3


def test_a_dry_run_asks_the_routers_and_sends_nothing(admin: TestClient, pools: FakePools) -> None:
    prompt = "import os " * 10
    given = [
        admin.post("/debug/route", json=TEXT | {"prompt": prompt, "user": "u"}),
        admin.get("/debug/route", params={"dry_run": "", "prompt": prompt}),
        admin.post("/debug/route?dry_run", json=CHAT),
    ]
    assert [response.json() for response in given] == [{"prefill": {"worker": "a"}, "decode": {}}] * 3
    first, second, chat = (question.dry_run for question in pools.asked)
    assert first is not None
    assert second is not None
    assert chat is not None
    assert (first.session, second.session) == ("u", None)
    assert first.block_hashes == second.block_hashes != ()
    assert chat.num_tokens > 1
    assert pools.requests == []


def test_a_dry_run_is_checked_like_a_request(admin: TestClient) -> None:
    assert admin.post("/debug/route", json=TEXT | {"model": "gpt"}).status_code == 404
    assert admin.post("/debug/route", json={"model": "tiny"}).status_code == 400
    assert admin.post("/debug/route", json=TEXT | {"prompt": [4096]}).status_code == 400


def test_a_routed_request_is_explained_by_its_id(admin: TestClient, pools: FakePools) -> None:
    assert admin.get("/debug/route?request_id=cmpl-1").json()["prefill"] == {"worker": "a"}
    assert (pools.asked[0].dry_run, pools.asked[0].request_id) == (None, "cmpl-1")
    pools.known = {}
    response = admin.get("/debug/route?request_id=cmpl-1")
    assert (response.status_code, response.json()["error"]["param"]) == (404, "request_id")


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def asked(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


def test_a_port_that_is_taken_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.access.admin.RETRY_S", 0.01)
    (port,) = free_ports(1)

    async def waits() -> None:
        with socket.create_server(("127.0.0.1", port)):
            task = asyncio.create_task(serve_on_loopback(hello, port))
            await asyncio.sleep(0.1)
            assert not task.done()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert (await asked(port)).endswith(b"hi")
                    break
                except OSError:
                    await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(waits())
