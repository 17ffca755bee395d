"""The load test's profiles as aiperf's input: the same prompts in the same order, and its command line."""

import json
import stat
from pathlib import Path

import pytest

from bench.aiperf import EXPORT, command, conversations, figures, main
from cluster.loadtest.ask import Ask
from cluster.loadtest.profiles.by_name import profile_of
from cluster.loadtest.settings import ProfileName, Settings

FAKE = """#!/usr/bin/env python3
import json, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--artifact-dir") + 1])
lines = (out / "prompts.jsonl").read_text().splitlines()
metric = {"avg": 50.0, "p50": 1.0, "p90": 2.0, "p99": len(lines)}
names = ["time_to_first_token", "overall_usage_prompt_cache_read_pct", "request_throughput", "request_count"]
(out / "profile_export_aiperf.json").write_text(json.dumps(dict.fromkeys(names, metric)))
"""


def first_asks(settings: Settings) -> list[Ask]:
    return [next(session) for session in profile_of(settings).sessions()]


@pytest.mark.parametrize("profile", ["unique", "shared-prefix", "cancellations"])
def test_aiperf_asks_what_our_client_asks(profile: ProfileName) -> None:
    settings = Settings(profile, 7, requests=5)
    lines = list(conversations(settings))
    assert [turn["text"] for line in lines for turn in line["turns"]] == [
        ask.messages[0] for ask in first_asks(settings)
    ]
    assert all("timestamp" not in line["turns"][0] for line in lines)


def test_a_conversation_is_what_its_user_says() -> None:
    lines = list(conversations(Settings("multi-turn", 7, requests=6, turns=4, max_tokens=9)))
    assert [len(line["turns"]) for line in lines] == [4, 2]
    texts = [turn["text"] for line in lines for turn in line["turns"]]
    assert len(set(texts)) == 6
    assert {turn["output_length"] for line in lines for turn in line["turns"]} == {9}


def test_an_open_loop_has_its_times(tmp_path: Path) -> None:
    settings = Settings("rate-sweep", 7, requests=4, rates=(1.0, 100.0))
    times = [line["turns"][0]["timestamp"] for line in conversations(settings)]
    assert times == sorted(times)
    assert len(times) == 4
    line = command("aiperf", tmp_path, settings, "m", tmp_path / "p", tmp_path)
    assert "--fixed-schedule" in line
    assert "--concurrency" not in line


def test_shares_become_percent(tmp_path: Path) -> None:
    line = command("aiperf", tmp_path, Settings("cancellations", 1, leave_share=0.25), "m", tmp_path / "p", tmp_path)
    assert line[line.index("--request-cancellation-rate") + 1] == "25.0"
    metric = {"avg": 61.3, "p50": 1, "p90": 2, "p99": 3}
    names = ("overall_usage_prompt_cache_read_pct", "request_throughput", "request_count")
    assert figures(dict.fromkeys(names, metric))["cached_share"] == pytest.approx(0.613)


def test_its_export_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    fake = tmp_path / "aiperf"
    fake.write_text(FAKE)
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    options = ["--profile", "unique", "--requests", "3", "--model", "m", "--aiperf", str(fake)]
    monkeypatch.setattr("sys.argv", ["aiperf", *options, "--keep", str(tmp_path / "kept")])
    assert main() == 0
    seen = json.loads(capfd.readouterr().out)
    assert (seen["ttft_ms"]["p99"], seen["cached_share"]) == (3, 0.5)
    assert (tmp_path / "kept" / EXPORT).is_file()


def test_no_aiperf_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["aiperf", "--profile", "unique", "--model", "m", "--aiperf", "/nowhere/aiperf"])
    assert main() == 2
    assert "/nowhere/aiperf" in capfd.readouterr().err
