"""What `raydix status` reads and shows."""

import io
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from cluster.cli import main
from cluster.commands.status import DoorFigures, StatusError, WorkerRow
from cluster.commands.status_screen import addresses, door_line, scrape, worker_table


class MetricsPort(BaseHTTPRequestHandler):
    """Says the same for ever."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'ray_vllm_num_requests_running{engine="w",pool="decode"} 3.0\n')

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), MetricsPort) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def shown(what: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(what)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_ray_s_list_of_ports_is_read(tmp_path: Path) -> None:
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": ["a:1", "b:2"]}]))
    assert addresses(str(listed)) == ["http://a:1/metrics", "http://b:2/metrics"]
    assert addresses("http://c:3/metrics") == ["http://c:3/metrics"]


@pytest.mark.parametrize("text", [None, "", "[1]", "[{}]"])
def test_a_file_that_is_no_list_is_an_error_of_the_user(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.json"
    if text is not None:
        listed.write_text(text)
    assert main(["status", "--metrics", str(listed)]) == 2
    assert "does not list metrics ports" in capsys.readouterr().err


def test_without_a_source_it_is_this_machine_s_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert main(["status"]) == 2
    session = tmp_path / "ray" / "session_latest"
    session.mkdir(parents=True)
    (session / "metrics_export_port_0123abcd").write_text("4242")
    assert addresses(None) == ["http://127.0.0.1:4242/metrics"]


def test_a_port_that_does_not_answer_is_passed_over_unless_none_does(port: int) -> None:
    samples = scrape(["http://127.0.0.1:1/metrics", f"http://127.0.0.1:{port}/metrics"])
    assert samples.total("ray_vllm_num_requests_running", pool="decode") == 3
    with pytest.raises(StatusError, match=r"127\.0\.0\.1:1/"):
        scrape(["http://127.0.0.1:1/metrics"])
    with pytest.raises(StatusError, match="none is known"):
        scrape([])


def test_a_table_with_a_line_for_each_worker() -> None:
    rows = [WorkerRow("decode", "w0", 1, 0, 0, 0.0, None, 0.0), WorkerRow("prefill", "w1", 3, 2, 77, 0.25, 0.5, 10.25)]
    first, second = [line for line in shown(worker_table(rows)).splitlines() if "w0" in line or "w1" in line]
    assert first.replace("│", " ").split() == ["decode", "w0", "1", "0", "0", "0%", "0.0"]
    assert second.replace("│", " ").split() == ["prefill", "w1", "3", "2", "77", "25%", "50%", "10.2"]


def test_the_doors_in_two_lines() -> None:
    text = shown(door_line(DoorFigures(2.0, (0.15, 0.195), 1, 4, 5, math.inf, {"cold": 0, "prefix": 20})))
    assert "2.00 requests/s, first token 0.150 s (p95 0.195 s), 1 failed, 4 refused, 5 resumed\n" in text
    assert "routed by cold 0, prefix 20; index inf s old\n" in text
