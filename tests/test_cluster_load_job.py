"""A load test as a Ray job, without Ray: what is sent, what is made of the job's log, and whom Ctrl-C stops."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import parameter
from ray.job_submission import JobStatus

from cluster.cli import main
from cluster.commands import load_job
from cluster.commands.load_job import finished, job_directory
from cluster.commands.loadtest import JobError, use_token
from cluster.config import parse_config
from cluster.haproxy import free_ports
from cluster.loadtest.job import BEGIN, END
from cluster.loadtest.settings import Settings
from cluster.local import start_ray
from tests.sse_server import echo
from tests.test_loadtest_run import served

REPORT = f'{BEGIN}\n{{"total": 1}}\n{END}\n'


class Job:
    """A job server's client with one job, whose log comes in these chunks."""

    def __init__(self, chunks: Sequence[str], status: JobStatus = JobStatus.SUCCEEDED) -> None:
        self.statuses = [JobStatus.RUNNING, status]
        self.stopped: list[str] = []
        self.chunks = chunks

    async def tail_job_logs(self, job_id: str) -> AsyncGenerator[str]:
        for chunk in self.chunks:
            if chunk == "cut":
                raise RuntimeError("WebSocket connection closed unexpectedly")
            if chunk == "^C":
                raise KeyboardInterrupt
            yield chunk

    def get_job_status(self, job_id: str) -> JobStatus:
        return self.statuses.pop(0)

    def get_job_logs(self, job_id: str) -> str:
        return "".join(self.chunks).replace("cut", "")

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        return SimpleNamespace(message=f"{job_id} had a bad end")

    def stop_job(self, job_id: str) -> None:
        self.stopped.append(job_id)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_job, "STATUS_PERIOD_S", 0)


@pytest.mark.parametrize(
    "chunks",
    [
        ["[ 2 s] half\n", f"[ 4 s] all\n{REPORT}"],
        ["[ 2 s] half\n", "cut", f"[ 4 s] all\n{REPORT}"],
        [f"[ 2 s] half\n{REPORT[:30]}", REPORT[30:]],
    ],
)
def test_the_report_is_taken_from_the_log_and_the_rest_is_shown(
    chunks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished(Job(chunks), "load-1") == {"total": 1}
    shown = capsys.readouterr()
    assert shown.err.startswith("[ 2 s] half\n")
    assert "total" not in shown.err
    assert shown.out == ""


def test_a_report_of_a_job_that_failed_counts() -> None:
    """Its goodput may have been too low."""
    assert finished(Job([REPORT], JobStatus.FAILED), "load-1") == {"total": 1}


def test_a_job_without_a_report_is_an_error() -> None:
    with pytest.raises(JobError, match="without a report: failed, load-1 had a bad end"):
        finished(Job(["Traceback\n"], JobStatus.FAILED), "load-1")


def test_an_interrupt_stops_the_job() -> None:
    job = Job(["^C"])
    with pytest.raises(KeyboardInterrupt):
        finished(job, "load-1")
    assert job.stopped == ["load-1"]


def test_what_is_sent_runs_where_nothing_else_is_there(tmp_path: Path) -> None:
    row = {"timestamp": 0, "input_length": 9, "output_length": 1, "hash_ids": [1]}
    trace = tmp_path / "some trace"
    trace.write_text(json.dumps(row) + "\n")
    with served(echo) as url, job_directory(Settings("trace", 1, url, trace=str(trace))) as directory:
        trace.unlink()
        assert not list(directory.rglob("__pycache__"))
        command = [sys.executable, "-S", *load_job.ENTRYPOINT.split()[1:]]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"answered": 1' in done.stdout
    assert not directory.exists()


def test_the_key_is_in_a_file_of_the_job_and_nowhere_that_ray_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray job list` prints command line, metadata and variables."""
    sent: list[dict[str, Any]] = []
    files: list[str] = []

    class Client:
        def submit_job(self, **job: Any) -> str:
            sent.append(job)
            files.append((Path(job["runtime_env"]["working_dir"]) / "api_key").read_text())
            return "load-1"

    monkeypatch.setenv("RAYDIX_API_KEY", "rx-secret")
    monkeypatch.setattr(load_job, "connect", lambda address: Client())
    monkeypatch.setattr(load_job, "finished", lambda client, job_id: {"total": job_id})
    monkeypatch.setattr(load_job, "tell", lambda written, options: 0)
    assert main(["loadtest", "--profile", "unique"]) == 0
    assert files == ["rx-secret"]
    assert "rx-secret" not in str(sent)


def test_a_cluster_without_a_job_server_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:7")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main(["loadtest", "--profile", "unique", "--address", "http://127.0.0.1:9"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("raydix: Failed to connect to Ray at address: http://127.0.0.1:9.")
    assert "--dashboard-port" in shown


def test_settings_are_checked_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "--profile", "trace"]) == 2
    assert "needs a --trace FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("has_file", "variables", "mode"),
    [
        (True, {}, "token"),
        (False, {}, None),
        (False, {"RAY_AUTH_TOKEN": "x"}, "token"),
        (True, {"RAY_AUTH_MODE": "disabled"}, "disabled"),
    ],
)
def test_a_token_is_sent_where_there_is_one(
    has_file: bool, variables: dict[str, str], mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment: dict[str, Any] = {"HOME": str(tmp_path)} | variables
    monkeypatch.setattr(os, "environ", environment)
    if has_file:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("x")
    use_token()
    assert environment.get("RAY_AUTH_MODE") == mode


def test_a_dashboard_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        dashboard_port = str(taken.getsockname()[1])
        assert main(["serve", "--port", str(port), "--dashboard-port", dashboard_port]) == 2
    assert "choose another with --dashboard-port" in capsys.readouterr().err


@pytest.mark.parametrize("port", [None, 8300])
def test_ray_starts_with_a_dashboard_only_where_one_is_asked_for(
    port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with an agent that does not insist on the port of another cluster's."""
    started: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        started.append(options | {"agent_port": parameter.RayParams().dashboard_agent_listen_port})

    monkeypatch.setattr(ray, "init", init)
    start_ray(parse_config({"dashboard_port": port}))
    (options,) = started
    assert options["include_dashboard"] == (port is not None)
    assert (options["dashboard_host"], options["dashboard_port"]) == ("127.0.0.1", port)
    assert options["agent_port"] == 0
    assert parameter.RayParams().dashboard_agent_listen_port != 0, "of others who start Ray in this process"
