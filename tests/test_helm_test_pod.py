"""helm/raydix/files/test_api.py, as `helm test` runs it: the rendered command, against a server of our own."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from tests.helm_chart import the

PROMPT = "a 'b' \"c\" $d"


class Api(BaseHTTPRequestHandler):
    """One model, whose completions have as many tokens as the server was told."""

    tokens = 3
    key = ""

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        assert self.path == "/v1/models"
        assert (self.headers.get("Authorization") or "") == self.key
        self.answer({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        assert (self.headers.get("Authorization") or "") == self.key
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (self.path, asked["model"], asked["max_tokens"]) == ("/v1/completions", "tiny", 8)
        usage = {"completion_tokens": self.tokens}
        self.answer({"choices": [{"text": asked["prompt"].upper()}], "usage": usage})

    def answer(self, content: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{cast(tuple[str, int], server.server_address)[1]}"
        server.shutdown()


def run_pod(url: str) -> subprocess.CompletedProcess[str]:
    """The container's command, asking `url` instead of the release's Service."""
    (container,) = the("Pod", {"test": {"prompt": PROMPT}})["spec"]["containers"]
    words = [word.replace("http://demo-raydix-serve-svc:8000", url) for word in container["args"]]
    assert url in words
    command = [sys.executable, *container["command"][1:], *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_it_prints_the_models_and_a_completion(url: str) -> None:
    result = run_pod(url)
    assert result.returncode == 0, result.stderr
    assert "models: tiny" in result.stdout
    assert repr(PROMPT.upper()) in result.stdout


def test_it_shows_the_key_that_it_is_given(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "key", "Bearer rx-1")
    monkeypatch.setenv("RAYDIX_API_KEY", "rx-1\n")
    assert run_pod(url).returncode == 0


def test_it_fails_where_there_are_no_tokens(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "tokens", 0)
    result = run_pod(url)
    assert result.returncode == 1
    assert "no tokens" in result.stderr


def test_it_fails_where_nobody_answers(url: str) -> None:
    assert run_pod("http://127.0.0.1:9").returncode == 1
