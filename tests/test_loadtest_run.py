"""Whole runs against a server in this process: loops, warm-up, exit status, and the client on its own."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cluster.loadtest.__main__ import main
from cluster.loadtest.ask import Ask
from cluster.loadtest.heard import Heard
from cluster.loadtest.job import BEGIN, END, report_in
from cluster.loadtest.profiles.by_name import profile_of
from cluster.loadtest.run import Run, drive
from cluster.loadtest.settings import ProfileName, Settings
from tests.sse_server import Conversation, Script, echo, sse_server

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def served(script: Script = echo) -> Iterator[str]:
    """The URL of a server in a thread."""
    loop, urls = asyncio.new_event_loop(), list[str]()
    ending, up = asyncio.Event(), threading.Event()

    async def serve() -> None:
        async with sse_server(script) as url:
            urls.append(url)
            up.set()
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert up.wait(5)
    try:
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()
        loop.close()


class Pretender:
    """Answers without a server, and notes how many ask at a time."""

    def __init__(self, takes_s: float, fails: str = "") -> None:
        self.asked: list[tuple[float, Ask]] = []
        self.now = self.most = 0
        self._takes_s = takes_s
        self._fails = fails

    async def __call__(self, ask: Ask) -> Heard:
        sent_s = time.monotonic()
        self.asked.append((sent_s, ask))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self._takes_s)
        self.now -= 1
        return Heard(ask.group, sent_s, text="\nso", error=self._fails, prompt_tokens=1, end_s=time.monotonic())


def driven(settings: Settings, pretender: Pretender) -> Run:
    done = Run()
    asyncio.run(drive(settings, profile_of(settings), pretender, done))
    return done


def test_a_closed_loop_keeps_as_many_busy_as_told() -> None:
    pretender = Pretender(0.01)
    done = driven(Settings("unique", 1, requests=20, concurrency=3), pretender)
    assert len(done.heard) == 20
    assert pretender.most == 3


def test_an_open_loop_does_not_wait_for_answers() -> None:
    pretender = Pretender(0.5)
    done = driven(Settings("unique", 1, requests=20, concurrency=1, rate=400), pretender)
    assert pretender.most > 10
    assert len(done.late_ms) == len(done.heard) == 20


def test_turns_of_a_conversation_wait_for_each_other() -> None:
    pretender = Pretender(0.01)
    driven(Settings("multi-turn", 1, requests=8, turns=4, concurrency=2), pretender)
    assert pretender.most == 2
    assert {len(ask.messages) for _, ask in pretender.asked} == {1, 3, 5, 7}
    assert all(text == "\nso" for _, ask in pretender.asked for text in ask.messages[1::2])


def test_a_conversation_ends_where_a_turn_fails() -> None:
    pretender = Pretender(0.0, "cut")
    done = driven(Settings("multi-turn", 1, requests=8, turns=4), pretender)
    assert [len(ask.messages) for _, ask in pretender.asked] == [1, 1]
    assert len(done.heard) == 2


@pytest.mark.parametrize("profile", ["unique", "shared-prefix", "multi-turn", "rate-sweep", "cancellations"])
def test_a_run_reports_all_its_requests_and_none_of_the_warm_up(
    profile: ProfileName, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = []

    async def note(conversation: Conversation) -> None:
        prompts.append(conversation.body["prompt"])
        await echo(conversation)

    out, svg = tmp_path / "r.json", tmp_path / "r.svg"
    with served(note) as url:
        arguments = ["--profile", profile, "--url", url, "--requests", "12", "--warm-up", "3", "--max-tokens", "4"]
        arguments += ["--rates", "100,200", "--seed", "5", "--json", "--out", str(out), "--svg", str(svg)]
        assert main(arguments) == 0
    written = json.loads(capsys.readouterr().out)
    assert written == json.loads(out.read_text())
    assert len(prompts) == len(set(prompts)) == 15
    total = written["total"]
    assert (total["requests"], total["failed"], total["errors"]) == (12, 0, {})
    assert total["answered"] + total["left"] == 12
    assert (total["left"] > 0) == (profile == "cancellations")
    assert written["settings"]["seed"] == 5
    assert svg.read_text().startswith("<svg")


class KeyNoted:
    """Answers like `echo`, and notes the key that each request shows."""

    def __init__(self) -> None:
        self.shown = set[str | None]()

    async def __call__(self, conversation: Conversation) -> None:
        self.shown.add(conversation.headers.get("authorization"))
        await echo(conversation)


def test_the_key_of_the_environment_is_sent_and_not_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYDIX_API_KEY", "rx-secret\n")
    script = KeyNoted()
    with served(script) as url:
        assert main(["--profile", "unique", "--url", url, "--requests", "3", "--json"]) == 0
    assert script.shown == {"Bearer rx-secret"}
    shown = capsys.readouterr()
    assert "rx-secret" not in shown.out + shown.err


@pytest.mark.parametrize("key", ["a\r\nHost: b", "a b", "schlüssel"])
def test_what_can_be_no_key_is_refused_and_not_shown(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYDIX_API_KEY", key)
    assert main(["--profile", "unique"]) == 2
    shown = capsys.readouterr().err
    assert "RAYDIX_API_KEY holds characters" in shown
    assert key not in shown


async def fails_half(conversation: Conversation) -> None:
    if len(conversation.body["prompt"]) % 2:
        await conversation.begin(503, "text/plain")
        await conversation.chunk("")
    else:
        await echo(conversation)


@pytest.mark.parametrize(("share", "status"), [("0.01", 0), ("0.99", 1)])
def test_the_exit_status_tells_of_goodput(share: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with served(fails_half) as url:
        arguments = ["--profile", "unique", "--url", url, "--requests", "40", "--min-goodput", share]
        assert main(arguments) == status
    shown = capsys.readouterr()
    assert "x http_503" in shown.out
    assert ("asked for was 0.99" in shown.err) == bool(status)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:9"], "does not answer /v1/models"),
        (["--url", "localhost:8000"], "must begin with http"),
        (["--requests", "0"], "--requests is 0"),
        (["--min-goodput", "2"], "--min-goodput is 2"),
        (["--slo-ttft-ms", "nan"], "--slo-ttft-ms is nan"),
        (["--rates", "1,-1"], "--rates"),
        (["--profile", "trace"], "needs a --trace FILE"),
        (["--profile", "rate-sweep", "--rate", "2"], "leave --rate out, or use --rates"),
        (["--profile", "trace", "--rate", "2"], "leave --rate out, or use --speed"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--profile", "unique", *arguments]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1


def alone(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In a folder that holds the client and nothing else of ours, without installed packages."""
    return subprocess.run([sys.executable, "-S", *command], cwd=directory, capture_output=True, text=True, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster").mkdir()
    shutil.copy(ROOT / "cluster" / "__init__.py", tmp_path / "cluster")
    shutil.copytree(ROOT / "cluster" / "loadtest", tmp_path / "cluster" / "loadtest")
    return tmp_path


def test_the_client_needs_the_standard_library_only(folder: Path) -> None:
    done = alone(folder, "-m", "cluster.loadtest", "--help")
    assert done.returncode == 0, done.stderr
    assert "shared-prefix" in done.stdout


def settings_file(folder: Path, **values: Any) -> None:
    (folder / "settings.json").write_text(json.dumps(asdict(Settings("unique", 1, requests=3, **values))))


def test_a_job_prints_its_report_between_marks(folder: Path) -> None:
    with served() as url:
        settings_file(folder, url=url)
        done = alone(folder, "-m", "cluster.loadtest.job")
    assert done.returncode == 0, done.stderr
    written = report_in(f"[ 2 s] progress\n{done.stdout}the end\n")
    assert written is not None
    assert written["total"]["answered"] == 3


def test_a_job_takes_its_key_from_the_file_beside_it_and_closes_that(folder: Path) -> None:
    script = KeyNoted()
    (folder / "api_key").write_text("rx-secret")
    with served(script) as url:
        settings_file(folder, url=url)
        done = alone(folder, "-m", "cluster.loadtest.job")
    assert done.returncode == 0, done.stderr
    assert script.shown == {"Bearer rx-secret"}
    assert "rx-secret" not in done.stdout + done.stderr
    assert (folder / "api_key").stat().st_mode & 0o777 == 0o600


def test_a_job_that_was_not_good_enough_fails_and_has_a_report(folder: Path) -> None:
    with served() as url:
        settings_file(folder, url=url, slo_ttft_ms=1e-6, min_goodput=0.5)
        done = alone(folder, "-m", "cluster.loadtest.job")
    assert done.returncode == 1
    assert report_in(done.stdout) is not None


def test_a_job_without_a_server_says_so_and_has_no_report(folder: Path) -> None:
    settings_file(folder, url="http://127.0.0.1:9")
    done = alone(folder, "-m", "cluster.loadtest.job")
    assert done.returncode == 2
    assert "does not answer" in done.stderr
    assert report_in(done.stdout) is None


@pytest.mark.parametrize("log", ["", f"{BEGIN}\n", f"{BEGIN}\n{{}}", f"x{END}\n"])
def test_half_a_report_is_none(log: str) -> None:
    assert report_in(log) is None
