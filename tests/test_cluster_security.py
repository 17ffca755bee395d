"""A real cluster as somebody finds it who has no key: what listens, and what it answers."""

import contextlib
import hashlib
import http.client
import ipaddress
import json
import socket
import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from bench.processes import living_in
from cluster.haproxy import free_ports
from tests.server import Server, listening, name_of, served

pytestmark = pytest.mark.ray
KEYS = {"alice": "rdx-alice", "bob": "rdx-bob"}
CONFIG = """
http: {{port: {port}}}
auth: {{keys_file: keys.yaml}}
pools: {{unified: {{}}}}
admin: {{port: ADMIN_PORT, keys_file: admin.yaml}}
"""
OPERATOR = "rdx-operator"
(ADMIN_PORT,) = free_ports(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("r")
    write_keys(directory / "keys.yaml", KEYS)
    write_keys(directory / "admin.yaml", {"operator": OPERATOR})
    with served(directory, CONFIG.replace("ADMIN_PORT", str(ADMIN_PORT))) as server:
        yield server


def write_keys(path: Path, keys: dict[str, str]) -> None:
    digests = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in keys.items()}
    path.write_text("\n".join(f'- {{tenant: {name}, keys: ["{digest}"]}}' for name, digest in digests.items()))


class Told(NamedTuple):
    """What came back."""

    status: int
    headers: Message
    text: str


def ask(server: Server | int, path: str, key: str | None = None, body: Any = None) -> Told:
    """Ask the API, or what listens at a port."""
    port = server if isinstance(server, int) else server.port
    headers = {"Content-Type": "application/json"} | ({} if key is None else {"Authorization": f"Bearer {key}"})
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return Told(response.status, response.headers, response.read().decode())


def test_nothing_listens_beyond_loopback(server: Server) -> None:
    """The configuration names no other address: not Ray's own processes, not the ports that replicas call each other
    at, not the workers' own."""
    pids = living_in(server.directory)
    found = [(name_of(pid), host, port) for pid in pids for host, port in listening(pid)]
    assert {"gcs_server", "raylet", "haproxy"} <= {name for name, *_ in found}
    assert len(found) >= 12
    assert [one for one in found if not ipaddress.ip_address(one[1]).is_loopback] == []


def test_rays_own_ports_want_the_clusters_token(server: Server) -> None:
    """The two that lead furthest: the head's, and the ones where Serve's replicas unpickle."""
    methods = {
        "gcs_server": "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
        "ray::ServeRepli": "/ray.serve.ASGIService/HandleRequestWithRejection",
    }
    told: dict[str, list[grpc.StatusCode]] = {name: [] for name in methods}
    for pid in living_in(server.directory):
        for _, port in listening(pid) if name_of(pid) in methods else ():
            told[name_of(pid)].append(status_of(port, methods[name_of(pid)]))
    for name, statuses in told.items():
        assert grpc.StatusCode.UNAUTHENTICATED in statuses, (name, statuses)
        assert grpc.StatusCode.OK not in statuses


def status_of(port: int, method: str) -> grpc.StatusCode:
    """What a call without a token, and without a body, comes to."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(method)(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_bytes_that_are_no_request_run_nothing(server: Server, tmp_path: Path) -> None:
    """A pickle that would make a file when it is loaded, to every port that there is."""
    evidence = tmp_path / "evidence"
    bomb = b"cposix\nsystem\n(S'touch " + str(evidence).encode() + b"'\ntR."
    ports = {port for pid in living_in(server.directory) for _, port in listening(pid)}
    for port in ports:
        with socket.socket() as connection:
            connection.settimeout(0.2)
            try:
                connection.connect(("127.0.0.1", port))
                connection.sendall(bomb)
                connection.recv(4096)
            except OSError:
                pass
    assert not evidence.exists()
    assert ask(server, "/v1/models", KEYS["alice"]).status == 200


def test_every_path_wants_a_key_whatever_host_it_is_asked_of(server: Server) -> None:
    for path in ("/v1/models", "/v1/nothing", "/version", "/metrics", "/debug/route", "/docs", "/openapi.json", "/"):
        told = ask(server, path)
        assert (told.status, told.headers["WWW-Authenticate"]) == (401, 'Bearer realm="raydix"'), path
        assert json.loads(told.text)["error"]["code"] == "invalid_api_key"
    assert ask(server, "/v1/completions", "rdx-carol", {"model": "tiny", "prompt": "x"}).status == 401
    assert [ask(server, path).status for path in ("/healthz", "/readyz", "/-/healthz")] == [200] * 3
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x/healthz?y=\r\nConnection: close\r\n\r\n")
        assert connection.recv(64).split()[1] in (b"400", b"401")


PROMPT = {"model": "tiny", "prompt": "def area(width, height):\n    return width * height\n" * 20, "max_tokens": 1}


def cached_tokens(server: Server, tenant: str, **fields: Any) -> int:
    told = ask(server, "/v1/completions", KEYS[tenant], PROMPT | fields)
    assert told.status == 200, told.text
    return int(json.loads(told.text)["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_one_tenants_prompt_is_no_hit_for_another(server: Server) -> None:
    assert cached_tokens(server, "alice") == 0
    assert cached_tokens(server, "alice") > 100
    assert cached_tokens(server, "bob") == 0
    assert cached_tokens(server, "bob", cache_salt="alice/") == 0
    assert cached_tokens(server, "alice", cache_salt="x") == 0
    assert cached_tokens(server, "alice", cache_salt="x") > 100


def test_operators_ask_at_a_port_of_their_own(server: Server) -> None:
    assert cached_tokens(server, "alice", cache_salt="admin") == 0
    assert cached_tokens(server, "alice", cache_salt="admin") > 100
    for key in (None, KEYS["alice"]):
        assert ask(ADMIN_PORT, "/reset_prefix_cache", key, {}).status == 401
    assert ask(server, "/reset_prefix_cache", OPERATOR, {}).status == 401
    assert ask(server, "/reset_prefix_cache", KEYS["alice"], {}).status == 404
    assert ask(ADMIN_PORT, "/reset_prefix_cache", OPERATOR, {}).status == 200
    assert cached_tokens(server, "alice", cache_salt="admin") == 0
    assert "unified" in json.loads(ask(ADMIN_PORT, "/debug/route", OPERATOR).text)


def test_keys_change_while_the_server_runs(server: Server) -> None:
    """The last test of this file: bob gets another key."""
    write_keys(server.directory / "keys.yaml", KEYS | {"bob": "rdx-new"})
    deadline_s = time.monotonic() + 30
    while ask(server, "/v1/models", "rdx-new").status != 200:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert ask(server, "/v1/models", KEYS["bob"]).status == 401
    assert ask(server, "/v1/models", KEYS["alice"]).status == 200
    (server.directory / "keys.yaml").write_text("- {tenant: alice")
    time.sleep(2.5)
    assert ask(server, "/v1/models", "rdx-new").status == 200, "a broken file changes nothing"
