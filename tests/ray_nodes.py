"""Ray nodes on this machine, each where a pod of its own would be.

Pods have addresses, ports and files of their own; here a place stands for a pod: a directory, an address of the
loopback network (Linux has all of 127.0.0.0/8), and a block of ports, for Ray and Serve listen on all addresses.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL

from bench.processes import living_in
from tests.server import name_of

RAY = Path(sys.executable).parent / "ray"
START_TIMEOUT_S = 120.0
POLL_S = 0.2
# Below the ports that the kernel gives to clients, and clear of Ray's workers elsewhere (10002 to 19999) and of Serve's
# front doors (from 30000).
FIRST_PORT, END_PORT, PORTS_OF_A_PLACE = 20_000, 30_000, 60
GCS, DASHBOARD, AGENT, RUNTIME_ENV, METRICS, CLIENT, API, STATS, PROXY_METRICS, FALLBACK = range(10)
FIRST_OF_WORKERS = 10


class NodeError(Exception):
    """A node did not come up."""


@dataclass(frozen=True)
class Place:
    """Where a node lives.

    Attributes:
        ports: named by their places in it (`GCS`, `API`, ...); from `FIRST_OF_WORKERS` on they are Ray's workers'.
    """

    directory: Path
    address: str
    ports: range

    def at(self, port: int) -> str:
        """Address and port."""
        return f"{self.address}:{self.ports[port]}"


def free_places(directory: Path) -> Iterator[Place]:
    """Places below a directory whose ports nobody listens at now; other processes begin elsewhere."""
    blocks = range(FIRST_PORT, END_PORT - PORTS_OF_A_PLACE, PORTS_OF_A_PLACE)
    begin = os.getpid() % len(blocks)
    number = 0
    for first in [*blocks[begin:], *blocks[:begin]]:
        ports = range(first, first + PORTS_OF_A_PLACE)
        if all_free(ports):
            number += 1
            place = Place(directory / f"pod-{number}", f"127.0.8.{number}", ports)
            place.directory.mkdir()
            yield place


def all_free(ports: range) -> bool:
    """Whether each can be listened at, on all addresses."""
    with ExitStack() as probes:
        try:
            for port in ports:
                probes.enter_context(socket.socket()).bind(("", port))
        except OSError:
            return False
    return True


class RayNode:
    """`ray start --block` and all that it starts."""

    def __init__(self, place: Place, words: list[str], environment: dict[str, str]) -> None:
        self.place = place
        self.log = place.directory / "ray-start.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [RAY, "start", "--block", *words],
                cwd=place.directory,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until its raylet is up, in the words of the agent that KubeRay's probes ask. Raises NodeError."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not answers(f"http://{self.place.at(AGENT)}/api/local_raylet_healthz"):
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                raise NodeError(f"ray start did not come up at {self.place}:\n{self.log.read_text()[-3000:]}")
            time.sleep(POLL_S)

    @property
    def raylet(self) -> int:
        """The raylet's process id."""
        (pid,) = (pid for pid in living_in(self.place.directory) if name_of(pid) == "raylet")
        return pid

    def end(self) -> None:
        """Kill all that it started: asked to stop, a head takes half a minute."""
        while left := living_in(self.place.directory):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, SIGKILL)
            self.process.wait()
            time.sleep(POLL_S)


def answers(url: str) -> bool:
    """Whether a GET of it succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (OSError, urllib.error.HTTPError):
        return False
