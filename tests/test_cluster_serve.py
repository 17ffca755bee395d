"""The real application on real Ray, separate pools, spoken to by the official client as a user would."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from workers.weights.model_dir import TINY_MODEL

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 400
# Few places in the decode worker, so that requests which are not aborted hold up every other.
CONFIG = """
pools: {{prefill: {{replicas: 2}}, decode: {{replicas: 1}}}}
engine: {{max_num_seqs: 4}}
http: {{port: {port}}}
"""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> set[int]:
    """All living processes that a process started, directly or not."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # gone meanwhile
        if fields[0] != "Z":
            parents[int(status.parent.name)] = int(fields[1])
    found, frontier = set(), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


class Server:
    """`raydix serve` in a process of its own, with a HOME and a Ray directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        config = directory / "cluster.yaml"
        config.write_text(CONFIG.format(port=self.port))
        self.log = directory / "serve.log"
        environment = os.environ | {"HOME": str(directory), "RAY_TMPDIR": str(directory), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", "from cluster.cli import main; main()", "serve", "--config", str(config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, cwd=directory, stdout=log, stderr=log)
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)

    def wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while "Ctrl-C stops it" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"the server did not come up:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Ray's sockets lie below it, and a socket's path has at most 107 characters.
    server = Server(tmp_path_factory.mktemp("r"))
    try:
        server.wait_until_ready()
        yield server
    finally:
        started = descendants(server.process.pid)
        server.process.send_signal(signal.SIGINT)
        server.process.wait(timeout=60)
        for pid in started & descendants(1):
            os.kill(pid, signal.SIGKILL)


def library_text(name: str, num_characters: int) -> str:
    """The beginning of a standard library module: Python text that a test need not ship."""
    return (Path(os.__file__).parent / name).read_text("utf-8")[:num_characters]


def ask(client: openai.OpenAI, prompt: str, max_tokens: int = 24) -> tuple[str, int, float]:
    """Stream a chat answer: its text, its cached tokens and the time to its first text in seconds."""
    begin_s, first_s, text, cached = time.perf_counter(), 0.0, "", 0
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": prompt}],
        max_tokens=max_tokens,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        content = chunk.choices[0].delta.content if chunk.choices else None
        first_s = first_s or (time.perf_counter() - begin_s if content else 0.0)
        text += content or ""
        if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
            cached = chunk.usage.prompt_tokens_details.cached_tokens or 0
    return text, cached, first_s


def test_models_and_a_whole_answer(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    answer = server.client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "import os\n"}], max_tokens=5, seed=1
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 5
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_a_prompt_sent_twice_is_cached_the_second_time_and_answered_the_same(server: Server) -> None:
    ask(server.client, "warm up the whole path\n")
    ratios = []
    for name in ("heapq.py", "queue.py", "sched.py"):
        prompt = library_text(name, 5000)
        text, cached, first_s = ask(server.client, prompt)
        text_again, cached_again, first_again_s = ask(server.client, prompt)
        assert cached < 100, "another file's prefix cannot help much"
        assert cached_again >= 400
        assert text_again == text
        ratios.append(first_again_s / first_s)
    assert sorted(ratios)[1] < 0.5, f"cached over cold time to first token, three prompts: {ratios}"


def test_the_router_sends_a_known_prefix_to_the_worker_that_holds_it(server: Server) -> None:
    """Two prefill workers: without the index, half of these would go to the other one and find nothing."""
    prompt = library_text("bisect.py", 2500)
    ask(server.client, prompt)
    time.sleep(1.0)  # events are asynchronous
    cached = [ask(server.client, f"{prompt}# variant {count}\n", 2)[1] for count in range(8)]
    assert min(cached) >= 400


def test_the_same_tokens_as_the_engine_alone(server: Server) -> None:
    from workers.generate import generate
    from workers.request import SamplingParams

    prompt = library_text("abc.py", 700)
    alone = "".join(generate(TINY_MODEL, prompt, SamplingParams(max_tokens=40, temperature=0.7, seed=5)))
    answer = server.client.completions.create(model="tiny", prompt=prompt, max_tokens=40, temperature=0.7, seed=5)
    assert answer.choices[0].text == alone


def test_a_client_that_leaves_frees_the_worker(server: Server) -> None:
    """Were their requests to go on, 12 clients that left would keep the worker's 4 places for a minute or more."""
    for count in range(12):
        stream = server.client.completions.create(
            model="tiny", prompt=f"# {count}\n", max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    text, _, _ = ask(server.client.with_options(timeout=20), "import sys\n", 4)
    assert text


def test_errors_reach_the_client_as_its_own_exceptions(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="serves 'tiny'"):
        server.client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match="context is 2048 tokens"):
        server.client.completions.create(model="tiny", prompt="x", max_tokens=5000)


def test_ctrl_c_leaves_no_process_behind(server: Server) -> None:
    """The last test of this file: it ends the server."""
    started = descendants(server.process.pid)
    assert len(started) > 5
    server.process.send_signal(signal.SIGINT)
    server.process.wait(timeout=60)
    deadline_s = time.monotonic() + 10
    while (left := started & descendants(1)) and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert not left, f"left running: {left}"
