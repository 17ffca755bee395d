"""A load test as a Ray job on a real cluster, from the command line, as a user would run it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.haproxy import free_ports
from tests.server import REPOSITORY, Server

pytestmark = pytest.mark.ray
CONFIG = """
pools: {{prefill: {{replicas: 2}}, decode: {{replicas: 1}}}}
http: {{port: {port}}}
dashboard_port: %d
"""
PREFIXES, REQUESTS = 2, 40


class Cluster:
    """A server with a job server, and the command that puts load on it."""

    def __init__(self, directory: Path) -> None:
        (self.dashboard_port,) = free_ports(1)
        self.server = Server(directory, CONFIG % self.dashboard_port)

    def loadtest(self, *options: str) -> subprocess.CompletedProcess[str]:
        """In the server's HOME, where Ray has put the cluster's token; no option and no variable names it."""
        directory = self.server.directory
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"HOME": str(directory), "PYTHONPATH": str(REPOSITORY)}
        where = [
            "--address",
            f"http://127.0.0.1:{self.dashboard_port}",
            "--url",
            f"http://127.0.0.1:{self.server.port}",
        ]
        command = [sys.executable, "-c", "import sys; from cluster.cli import main; sys.exit(main())", "loadtest"]
        return subprocess.run(
            [*command, *where, *options], env=environment, cwd=directory, capture_output=True, text=True, timeout=300
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("r"))
    try:
        cluster.server.wait_for("Ctrl-C stops it")
        yield cluster
    finally:
        cluster.server.end()


def test_shared_prefixes_are_nearly_all_found(cluster: Cluster, tmp_path: Path) -> None:
    """Two clients at a time, so that few ask for a beginning while it is computed for the first time."""
    out = tmp_path / "report.json"
    shape = ["--prefixes", str(PREFIXES), "--prefix-words", "200", "--words", "10", "--max-tokens", "4"]
    load = ["--requests", str(REQUESTS), "--concurrency", "2", "--seed", "11"]
    done = cluster.loadtest("--profile", "shared-prefix", *shape, *load, "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    total = report["total"]
    assert (total["answered"], total["failed"], total["errors"]) == (REQUESTS, 0, {})
    assert total["possible_cached_share"] > 0.8
    assert 0.8 <= total["cached_share_of_possible"] <= 1.05, total
    assert "submitted raysubmit_" in done.stderr


def test_a_goodput_that_is_missed_is_the_exit_status(cluster: Cluster) -> None:
    """And the table comes all the same."""
    load = ["--requests", "4", "--slo-ttft-ms", "0.001", "--min-goodput", "0.5"]
    done = cluster.loadtest("--profile", "unique", *load)
    assert done.returncode == 1, done.stderr
    assert "goodput is 0.0000" in done.stderr
    assert "answered" in done.stdout


def test_a_job_that_cannot_ask_says_why(cluster: Cluster) -> None:
    done = cluster.loadtest("--profile", "unique", "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert "does not answer /v1/models" in done.stderr
    assert "ended without a report: failed" in done.stderr
