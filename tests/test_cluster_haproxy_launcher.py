"""cluster/haproxy_launcher.py with the HAProxy that comes with Ray, before servers that do as they are told."""

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.config import HttpSection
from cluster.haproxy import free_ports, variables

LIMIT = 2
CONFIG = """\
defaults
    mode http
    timeout connect 2s
    timeout client 20s
    timeout server 20s
    option redispatch 1
    retry-on {retry_on}
    balance leastconn
    errorfile 502 /nowhere/500.http
    errorfile 503 /nowhere/500.http
frontend http_frontend
    bind 127.0.0.1:{port}
    use_backend http-app
backend http-app
    http-reuse always
{servers}
"""
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
Handler = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(handle: Handler) -> Iterator[int]:
    """Gives each connection, once its request is there, to `handle` in a thread of its own; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

        def serve(connection: socket.socket) -> None:
            with connection:
                if connection.recv(65536):
                    handle(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def recording_server(seen: list[bytes]) -> Iterator[int]:
    """Answers one request a connection and keeps what it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        seen.append(connection.recv(65536))
                        connection.sendall(ANSWER)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def stopping_server() -> Iterator[int]:
    """Drops the first request and is gone: as a replica whose last connection HAProxy has just written to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drop() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                listener.close()

        thread = threading.Thread(target=drop)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@contextlib.contextmanager
def haproxy(directory: Path, *servers: int) -> Iterator[int]:
    """As Serve starts it, before these ports; yields its own."""
    told = variables(HttpSection(), LIMIT, directory)
    (port,) = free_ports(1)
    lines = "\n".join(f"    server s{one} 127.0.0.1:{one}" for one in servers)
    file = directory / "haproxy.cfg"
    file.write_text(CONFIG.format(retry_on=told["RAY_SERVE_HAPROXY_RETRY_ON"], port=port, servers=lines))
    with subprocess.Popen([told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(file)]) as process:
        try:
            wait_for(port)
            yield port
        finally:
            process.kill()


def wait_for(port: int) -> None:
    deadline_s = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


class Told(NamedTuple):
    """What came back."""

    status: int
    headers: Message
    body: bytes


def ask(port: int, method: str = "POST", path: str = "/v1/completions", **headers: str) -> Told:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=b"{}" if method == "POST" else None, headers=named)
        response = connection.getresponse()
        return Told(response.status, response.headers, response.read())


def send(port: int, raw: bytes, timeout_s: float = 20) -> tuple[int, bytes]:
    """Status and body of what comes back for bytes, however wrong they are; the connection is then closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        with contextlib.suppress(OSError):  # it may have been told already, and hung up
            connection.sendall(raw)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
BODY = b"Content-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (HEAD + b"X: " + b"a" * 14_000 + b"\r\n" + BODY, 200),
        (HEAD + b"X: " + b"a" * 17_000 + b"\r\n" + BODY, 400),
        (HEAD + b"X: " + b"a" * 8_000_000 + b"\r\n" + BODY, 400),
        (HEAD + b"X: a\r\n" * 60 + BODY, 200),
        (HEAD + b"X: a\r\n" * 65 + BODY, 431),
        (HEAD + b"X: a\r\n" * 20_000 + BODY, 400),
        (HEAD + b"Content-Length: 1\r\n" + BODY, 400),
        (HEAD + b"Content-Length : 2\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n{}", 400),
        (HEAD + b"Transfer-Encoding: xchunked\r\n\r\n", 400),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", 400),
    ],
)
def test_headers_have_a_limit_and_a_length_has_one_meaning(tmp_path: Path, raw: bytes, status: int) -> None:
    with (
        server(lambda connection: connection.sendall(ANSWER)) as door,
        haproxy(tmp_path, door) as port,
    ):
        told, body = send(port, raw)
        assert told == status
        if status == 431:
            assert json.loads(body)["error"]["code"] == "headers_too_large"
        assert ask(port).status == 200, "nobody else is held up"


def test_a_length_beside_chunks_counts_for_nothing_and_hides_nothing(tmp_path: Path) -> None:
    seen: list[bytes] = []
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = HEAD + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + hidden

    with recording_server(seen) as one, haproxy(tmp_path, one) as port:
        assert send(port, raw)[0] == 200
        assert ask(port, "GET", "/v1/models").status == 200
    assert [request.split(b" ")[1] for request in seen] == [b"/v1/completions", b"/v1/models"]
    assert b"content-length" not in seen[0].lower()


def test_what_does_not_arrive_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.haproxy_launcher.REQUEST_TIMEOUT_S", 1)
    with server(lambda connection: connection.sendall(ANSWER)) as door, haproxy(tmp_path, door) as port:
        assert send(port, HEAD)[0] == 408
        status, body = send(port, HEAD + b"Content-Length: 20\r\n\r\n{")
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
        assert ask(port).status == 200


def test_what_is_beyond_the_doors_limits_is_refused_and_all_else_passes(tmp_path: Path) -> None:
    inside, leave = threading.Semaphore(0), threading.Event()

    def busy(connection: socket.socket) -> None:
        inside.release()
        leave.wait(20)
        connection.sendall(ANSWER)

    with server(busy) as one, server(busy) as other, haproxy(tmp_path, one, other) as port:
        threads = [threading.Thread(target=ask, args=(port,)) for _ in range(2 * LIMIT)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert inside.acquire(timeout=20)
        refused = ask(port)
        body = json.loads(refused.body)["error"]
        assert (refused.status, refused.headers["Content-Type"]) == (429, "application/json")
        assert 1 <= int(refused.headers["Retry-After"]) <= 4
        assert set(body) == {"message", "type", "param", "code"}
        assert ask(port, path="/v1/chat/completions").status == 429
        leave.set()
        assert ask(port, "GET", "/v1/models").status == 200
        for thread in threads:
            thread.join()
        assert ask(port).status == 200


def test_every_answer_has_the_request_id_that_was_passed_on(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def passed_on() -> list[bytes]:
        lines = seen[-1].split(b"\r\n\r\n")[0].split(b"\r\n")
        return [line.partition(b": ")[2] for line in lines if line.lower().startswith(b"x-request-id:")]

    with recording_server(seen) as door, haproxy(tmp_path, door) as port:
        assert ask(port, x_request_id="mine").headers.get_all("x-request-id") == ["mine"]
        assert passed_on() == [b"mine"]
        for wrong in ("", "x" * 513):
            made = ask(port, x_request_id=wrong).headers["x-request-id"]
            assert len(made) == 36, "a UUID"
            assert passed_on() == [made.encode()]
        assert ask(port).headers["x-request-id"] != made
    with haproxy(tmp_path, free_ports(1)[0]) as port:
        refused = ask(port, x_request_id="mine")
        assert (refused.status, refused.headers["x-request-id"]) == (503, "mine")
        assert send(port, HEAD + b"X: a\r\n" * 65 + BODY)[0] == 431


def test_an_answer_that_has_an_id_keeps_it(tmp_path: Path) -> None:
    """Serve's replicas send theirs."""
    answer = ANSWER.replace(b"Connection", b"X-Request-Id: theirs\r\nConnection")
    with server(lambda connection: connection.sendall(answer)) as door, haproxy(tmp_path, door) as port:
        assert ask(port, x_request_id="mine").headers.get_all("x-request-id") == ["theirs"]


def test_a_request_that_a_door_drops_unanswered_goes_to_the_next(tmp_path: Path) -> None:
    with (
        server(lambda connection: connection.sendall(ANSWER)) as answering,
        stopping_server() as stopping,
        haproxy(tmp_path, stopping, answering) as port,
    ):
        assert [ask(port).status for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("dropped", [True, False])
def test_where_no_door_is_left_the_answer_has_the_form_of_the_api(tmp_path: Path, dropped: bool) -> None:
    with (
        server(lambda connection: None) as dropping,
        haproxy(tmp_path, dropping if dropped else free_ports(1)[0]) as port,
    ):
        answer = ask(port)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert json.loads(answer.body)["error"]["type"] == "server_error"
