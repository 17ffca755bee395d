"""Workers of a real cluster are killed, stopped and frozen under streams; clients see the text they would have seen."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from bench.processes import living_in
from cluster.commands.keys import new_key
from cluster.haproxy import free_ports
from tests.server import Server, served

pytestmark = pytest.mark.ray
CONFIG = """
pools: {{prefill: {{replicas: 2}}, decode: {{replicas: 2}}, local_prefill_tokens: 0}}
http: {{port: {port}}}
admin: {{port: ADMIN_PORT, keys_file: admin.yaml}}
"""
ADMIN_KEY, ADMIN_LINE = new_key("test")
(ADMIN_PORT,) = free_ports(1)
PROMPT = "import os\n\ndef walk("
WHOLE_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("r")
    (directory / "admin.yaml").write_text(ADMIN_LINE)
    with served(directory, CONFIG.replace("ADMIN_PORT", str(ADMIN_PORT))) as server:
        yield server


def replicas(server: Server, pool: str) -> list[int]:
    """Their processes. Ray names each after what runs in it."""
    name = f"ray::ServeReplica:raydix:{pool}".encode()
    found = []
    for pid in living_in(server.directory):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if command.startswith(name):
            found.append(pid)
    return sorted(found)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def num_heard(pool: str) -> int:
    """Workers whose signs of life reach the router: those that serve."""
    url, headers = f"http://127.0.0.1:{ADMIN_PORT}/debug/route?prompt=x", {"Authorization": f"Bearer {ADMIN_KEY}"}
    asked = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        candidates = json.load(answer)[pool]["candidates"]
    return sum(one["age_s"] is not None and one["age_s"] < 2 for one in candidates)


def wait_until_whole(server: Server, pool: str, but: int) -> None:
    """Two workers that serve, the lost one not among them: a test that hits one which still starts shows nothing."""
    deadline_s = time.monotonic() + WHOLE_TIMEOUT_S
    while but in (there := replicas(server, pool)) or len(there) < 2 or num_heard(pool) < 2:
        assert time.monotonic() < deadline_s, f"{pool} was not made whole"
        time.sleep(0.2)


def stream(server: Server, num_tokens: int, at: int = -1, do: Callable[[], None] = lambda: None) -> tuple[str, int]:
    """The text and the number of tokens that usage counts; `do` is called when `at` pieces have come."""
    chunks = server.client.completions.create(
        model="tiny",
        prompt=PROMPT,
        max_tokens=num_tokens,
        temperature=0.8,
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    text, counted = [], 0
    for chunk in chunks:
        text += [choice.text for choice in chunk.choices]
        counted = chunk.usage.completion_tokens if chunk.usage else counted
        if len(text) == at:
            do()
    return "".join(text), counted


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_stream_goes_on_when_its_decode_worker_is_lost(server: Server, fault: signal.Signals) -> None:
    undisturbed = stream(server, 160)
    before = {pid: cpu_ticks(pid) for pid in replicas(server, "decode")}
    hit: list[int] = []

    def lose_the_busiest() -> None:
        hit.append(max(before, key=lambda pid: cpu_ticks(pid) - before[pid]))
        os.kill(hit[0], fault)

    begin_s = time.monotonic()
    assert stream(server, 160, at=40, do=lose_the_busiest) == undisturbed
    assert time.monotonic() - begin_s < 60, "not lost for ever: some seconds, more on a busy machine"
    assert hit
    wait_until_whole(server, "decode", hit[0])


def test_prompts_are_computed_while_prefill_workers_die(server: Server) -> None:
    undisturbed = stream(server, 8)
    first, second = replicas(server, "prefill")
    os.kill(first, signal.SIGKILL)
    assert [stream(server, 8) for _ in range(4)] == [undisturbed] * 4
    os.kill(second, signal.SIGKILL)
    assert [stream(server, 8) for _ in range(4)] == [undisturbed] * 4
    wait_until_whole(server, "prefill", second)


def test_nobody_is_left_behind(server: Server) -> None:
    """A whole answer to each of many at once, after all that: nothing holds the workers' places."""
    client = server.client.with_options(timeout=60)
    answers = [
        client.completions.create(model="tiny", prompt=f"# {count}\n", max_tokens=4, temperature=0, seed=1)
        for count in range(20)
    ]
    assert all(isinstance(answer, openai.types.Completion) for answer in answers)
