"""Every bad request of the list on a real server: it is refused as it should be, and the server goes on as before."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from bench.processes import living_in
from cluster.telemetry import metric_names as names
from tests.bad_requests import BAD_REQUESTS, CHAT_PATH, JSON, TEXT, TEXT_PATH, BadRequest
from tests.server import Server, name_of, served

pytestmark = pytest.mark.ray
CONFIG = "http: {{port: {port}}}\npools: {{local_prefill_tokens: 0}}\n"
GOLDEN = TEXT | {"temperature": 0, "max_tokens": 6}
PATIENCE_S = 60  # Ray passes metrics on every ten seconds


def workers_of(server: Server) -> set[int]:
    return {pid for pid in living_in(server.directory) if name_of(pid).startswith("ray::ServeRepli")}


class Asked:
    """The server under test: what it said at first, who its workers were, and how long its refusals took."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.small_s: list[float] = []  # of refusals of bodies below 64 KiB
        self.large_s: list[float] = []  # of the others, of up to 16 MiB
        self.golden = self.ask_golden()
        self.workers = workers_of(server)

    def send(self, body: Any, path: str, headers: Any = JSON, method: str = "POST") -> tuple[int, Any, Any]:
        """Status, headers and JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            with contextlib.suppress(ConnectionError):  # it has heard enough, and answers all the same
                connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())
        finally:
            connection.close()

    def ask_golden(self) -> str:
        status, _, answer = self.send(json.dumps(GOLDEN), TEXT_PATH)
        assert status == 200
        return str(answer["choices"][0]["text"])


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with served(tmp_path_factory.mktemp("r"), CONFIG) as server:
        yield Asked(server)


@pytest.mark.parametrize("bad", BAD_REQUESTS, ids=lambda bad: bad.name)
def test_a_bad_request_is_refused_and_the_next_one_answered(asked: Asked, bad: BadRequest) -> None:
    begun_s = time.monotonic()
    status, _, answer = asked.send(bad.body, bad.path, bad.headers, bad.method)
    (asked.small_s if len(bad.body) < 2**16 else asked.large_s).append(time.monotonic() - begun_s)
    error = answer["error"]
    assert (status, error["param"], error["code"]) == (bad.status, bad.param, bad.code)
    assert error["type"] == "invalid_request_error"
    assert asked.ask_golden() == asked.golden


def raw(server: Server, parts: Iterable[bytes]) -> bytes:
    """What comes back for bytes that no HTTP library sends, or for as many of them as are taken."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        with contextlib.suppress(OSError):  # it has heard enough
            for part in parts:
                connection.sendall(part)
        while not answer.endswith((b"}", b"</html>\n")) and (piece := connection.recv(65536)):
            answer += piece
    return answer


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", ""]
    ).encode()


def test_a_body_without_a_length_is_cut_off(asked: Asked) -> None:
    """B11."""
    mebibyte = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    num_sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal num_sent
        yield head(CHAT_PATH, "Transfer-Encoding: chunked")
        while num_sent < 1024:
            yield mebibyte
            num_sent += 1

    answer = raw(asked.server, endless())
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert b'"code":"request_too_large"' in answer
    assert num_sent < 100, "MiB, of which many lie in the buffers of two connections"
    assert asked.ask_golden() == asked.golden


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Length: 2", "Content-Length: 3"], b"400"),  # B105
        (["X-Long: " + "x" * 8_000_000, "Content-Length: 2"], b"400"),  # B106
    ],
)
def test_what_the_proxy_refuses(asked: Asked, headers: list[str], status: bytes) -> None:
    assert raw(asked.server, [head(CHAT_PATH, *headers), b"{}"]).split()[1] == status
    assert asked.ask_golden() == asked.golden


def test_chunks_count_where_there_is_a_length_too(asked: Asked) -> None:
    """B104: what follows the chunks is no request, as the connection ends with them."""
    body = json.dumps(GOLDEN).encode()
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = raw(asked.server, [head(TEXT_PATH, "Content-Length: 4", "Transfer-Encoding: chunked"), chunks, smuggled])
    assert answer.count(b"HTTP/1.1 ") == 1
    assert json.dumps(asked.golden, ensure_ascii=False).encode() in answer


def test_a_character_that_looks_wrong_goes_through(asked: Asked) -> None:
    """B18."""
    prompt = "a\0b\x7f\u2028c"
    status, _, answer = asked.send(json.dumps(TEXT | {"prompt": prompt, "echo": True}), TEXT_PATH)
    assert status == 200
    assert answer["choices"][0]["text"].startswith(prompt)


def test_as_many_choices_as_there_may_be(asked: Asked) -> None:
    """B67."""
    stream = asked.server.client.completions.create(model="tiny", prompt="x", n=128, max_tokens=1, stream=True)
    assert {choice.index for chunk in stream for choice in chunk.choices} == set(range(128))


def test_nothing_is_left_of_all_that(asked: Asked) -> None:
    """The last of this file: the same workers, and no block held."""
    for size, seconds in (("small", asked.small_s), ("large", asked.large_s)):
        shown = [f"{one_s * 1e3:.1f}" for one_s in sorted(seconds)]
        print(f"{size} bodies: {len(shown)} refused, median {shown[len(shown) // 2]} ms, the slowest {shown[-5:]} ms")
    assert workers_of(asked.server) == asked.workers
    (usage,) = names.KV_USAGE.exported
    deadline_s = time.monotonic() + PATIENCE_S
    while (samples := asked.server.scrape()).total(usage) or usage not in samples.series:
        assert time.monotonic() < deadline_s, "blocks are held"
        time.sleep(1.0)
    assert samples.total(*names.NUM_RUNNING.exported) == 0
