"""`raydix serve` in a process of its own, for tests."""

import contextlib
import ipaddress
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from bench.processes import living_in
from cluster.haproxy import free_ports
from cluster.telemetry.prometheus_text import Samples, parse

REPOSITORY = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 400


def assert_none_left(directory: Path) -> None:
    """Within ten seconds."""
    deadline_s = time.monotonic() + 10
    while (left := living_in(directory)) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert not left, f"left running: {left}"


def name_of(pid: int) -> str:
    """At most 15 characters; empty where the process has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports that the process accepts TCP connections at, IPv4 in IPv6 as IPv4."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # LISTEN
                host, _, port = fields[1].partition(":")
                found.add((address_of(host), int(port, 16)))
    return found


def address_of(words: str) -> str:
    """An IP address as Linux prints it: 32-bit words in the machine's byte order."""
    numbers = (int(words[at : at + 8], 16) for at in range(0, len(words), 8))
    address = ipaddress.ip_address(b"".join(number.to_bytes(4, sys.byteorder) for number in numbers))
    return str(getattr(address, "ipv4_mapped", None) or address)


class Server:
    """`raydix serve` in a process of its own, with a HOME and a Ray directory of its own."""

    def __init__(self, directory: Path, config_text: str) -> None:
        (self.port,) = free_ports(1)
        config = directory / "cluster.yaml"
        config.write_text(config_text.format(port=self.port))
        self.directory = directory
        self.log = directory / "serve.log"
        environment = os.environ | {"HOME": str(directory), "RAY_TMPDIR": str(directory), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", "from cluster.cli import main; main()", "serve", "--config", str(config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=directory, stdout=log, stderr=log)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)

    def wait_for(self, line: str) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while line not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"the server did not come up:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)

    def scrape(self) -> Samples:
        """What the node's metrics port says."""
        (url,) = re.findall(r"metrics for Prometheus at (\S+)", self.log.read_text())
        with urllib.request.urlopen(url, timeout=10) as answer:
            return parse(answer.read().decode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=120)

    def end(self) -> None:
        """However it is."""
        self.client.close()
        self.interrupt()
        for pid in living_in(self.directory):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def served(directory: Path, config: str) -> Iterator[Server]:
    """A server that is ready, for as long as the context lasts.

    Ray's sockets lie below `directory`, and a socket's path has at most 107 characters.
    """
    server = Server(directory, config)
    try:
        server.wait_for("Ctrl-C stops it")
        yield server
    finally:
        server.end()
