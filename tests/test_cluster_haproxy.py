"""cluster/haproxy.py without Ray: what Serve is told, and what the launcher makes of the file that Serve writes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.config import ConfigError, HttpSection
from cluster.haproxy import ONE_MACHINE, RECOVERY, THROUGHPUT, end_processes, free_ports, proxy_environment, variables

HTTP, LIMIT = HttpSection(), 3
PARENT = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(60)"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something to launch instead of HAProxy: it prints what it was given, and stays for a minute if told to."""
    binary = tmp_path / "stand in"
    binary.write_text('#!/bin/sh\necho "$@"\n[ "$4" = stay ] && exec sleep 60\nexit 0\n')
    binary.chmod(0o700)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(binary))
    return binary


def runs(pid: int) -> bool:
    """Whether it is there and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def assert_ends(pid: int) -> None:
    """Within ten seconds."""
    deadline_s = time.monotonic() + 10
    while runs(pid) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not runs(pid)


def test_serves_own_proxy_is_told_nothing_of_haproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THROUGHPUT | ONE_MACHINE:
        monkeypatch.delenv(name, raising=False)
    told = variables(HttpSection(proxy="serve"), LIMIT, tmp_path)
    assert told == THROUGHPUT | RECOVERY | ONE_MACHINE | {"RAY_SERVE_ENABLE_HA_PROXY": "0"}


def test_two_clusters_share_no_port_and_no_path(tmp_path: Path, stand_in: Path) -> None:
    directories = tmp_path / "a", tmp_path / "b"
    for directory in directories:
        directory.mkdir()
    first, second = (variables(HTTP, LIMIT, directory) for directory in directories)
    own = {name for name in first if name.endswith(("_PORT", "_PATH", "_LOC", "_BASE", "_FILE"))}
    assert len(own) == 9
    assert not {first[name] for name in own} & {second[name] for name in own}
    assert len({first[name] for name in own if name.endswith("_PORT")}) == 3
    for name in own:
        if not name.endswith("_PORT"):
            assert Path(first[name]).is_relative_to(directories[0]), name


def test_a_throughput_variable_that_is_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_USE_GRPC_BY_DEFAULT", "0")
    assert variables(HttpSection(proxy="serve"), LIMIT, tmp_path)["RAY_SERVE_USE_GRPC_BY_DEFAULT"] == "0"


def test_the_launcher_moves_statistics_and_metrics_to_loopback_and_nothing_else(tmp_path: Path, stand_in: Path) -> None:
    told = variables(HTTP, LIMIT, tmp_path)
    stats, metrics = told["RAY_SERVE_HAPROXY_STATS_PORT"], told["RAY_SERVE_HAPROXY_METRICS_PORT"]
    file = tmp_path / "haproxy.cfg"
    file.write_text(
        f"frontend prometheus\n    bind :{metrics}\nfrontend x\n    bind *:80\nlisten stats\n  bind *:{stats}\n"
    )
    command = [told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(file), "-dR"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == command[1:]
    assert file.read_text() == (
        f"frontend prometheus\n    bind 127.0.0.1:{metrics}\nfrontend x\n    bind *:80\n"
        f"listen stats\n  bind 127.0.0.1:{stats}\n"
    )


def test_the_launcher_has_errors_in_the_form_of_the_api(tmp_path: Path, stand_in: Path) -> None:
    told = variables(HTTP, LIMIT, tmp_path)
    file = tmp_path / "haproxy.cfg"
    file.write_text("defaults\n    errorfile 502 /x/500.http\n    errorfile 504 /x/500.http\n    errorloc 500 /y\n")
    subprocess.run([told["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(file)], capture_output=True, check=True)
    ours = tmp_path / "unavailable"
    assert file.read_text() == f"defaults\n    errorfile 502 {ours}\n    errorfile 504 {ours}\n    errorloc 500 /y\n"
    head, _, body = ours.read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert f"Content-Length: {len(body)}".encode() in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path, stand_in: Path) -> None:
    launcher = variables(HTTP, LIMIT, tmp_path)["RAY_SERVE_HAPROXY_BINARY_PATH"]
    file = tmp_path / "haproxy.cfg"
    file.touch()
    command = [sys.executable, "-c", PARENT, launcher, "-db", "-f", str(file), "stay"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert parent.stdout.readline().split() == command[4:], "the stand-in does not run"
        assert runs(child)
        parent.kill()
        assert_ends(child)


def test_what_is_left_in_the_directory_is_ended_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*waits, f"{tmp_path}/a/x"]) as ours, subprocess.Popen([*waits, f"{tmp_path}/ab/x"]) as other:
        end_processes(tmp_path / "a")
        assert ours.wait(timeout=10) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_the_environment_is_as_before_and_the_directory_gone(stand_in: Path) -> None:
    before = dict(os.environ)
    with proxy_environment(HTTP, LIMIT):
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        directory = Path(os.environ["RAY_SERVE_HAPROXY_SERVER_STATE_BASE"])
        assert directory.stat().st_mode & 0o777 == 0o700
        node_id, of_a_process = 64, len(".1234567.tmp")
        longest = len(os.environ["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"]) + node_id + of_a_process
        assert longest <= 107, "Linux takes no longer path for a socket"
    assert dict(os.environ) == before
    assert not directory.exists()


def test_no_haproxy_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"set http\.proxy to serve"), proxy_environment(HTTP, LIMIT):
        pass


def test_free_ports_are_different_and_none_that_the_kernel_gives_out() -> None:
    """One that it does is now and then taken, by a connection, before HAProxy gets to it."""
    ports = free_ports(20)
    assert len(set(ports)) == 20
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < lowest


def test_ports_in_use_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(2)
    monkeypatch.setattr("cluster.haproxy.QUIET_PORTS", [first, second])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        assert free_ports(2) == [second]
