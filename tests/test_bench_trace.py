"""The replay of a trace: its figures follow from arithmetic where that is possible."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.scaling import svg
from bench.trace import read_trace
from bench.trace_replay import TOKENS_PER_S, Replay, TraceRow, pooled_hit_rate

REPOSITORY = Path(__file__).resolve().parents[1]


def turns(count: int, apart_s: float) -> list[TraceRow]:
    """One conversation that grows by a block a turn."""
    return [TraceRow(place * apart_s, 512 * (place + 1), tuple(range(place + 1))) for place in range(count)]


def test_a_conversation_stays_where_it_is_and_computes_what_is_new() -> None:
    rows = turns(20, apart_s=10.0)
    result = Replay(rows, num_workers=4, cache_blocks=400, policy="prefix").run()
    assert result.hit_blocks == sum(range(20))
    assert result.hit_rate == pooled_hit_rate(rows, 400)
    assert result.waits_s == pytest.approx([512 / TOKENS_PER_S] * 20)
    assert sorted(result.computed_tokens.values()) == [0, 0, 0, 20 * 512]


def test_prompts_wait_for_those_before_them() -> None:
    rows = [TraceRow(0.0, 8000, (block,)) for block in range(3)]
    result = Replay(rows, num_workers=1, cache_blocks=100, policy="prefix").run()
    assert result.waits_s == pytest.approx([1.0, 2.0, 3.0])


def test_a_cache_that_is_too_small_evicts() -> None:
    rows = [TraceRow(float(n), 1024, (2 * (n % 3), 2 * (n % 3) + 1)) for n in range(30)]
    assert pooled_hit_rate(rows, 4) == 0
    assert pooled_hit_rate(rows, 6) == 0.9
    assert Replay(rows, 1, 4, "prefix").run().hit_rate == 0
    again = [TraceRow(float(n), 512, (block,)) for n, block in enumerate([1, 2, 2])]
    assert pooled_hit_rate(again, 1) == 1 / 3, "what was evicted has made room"


def test_without_an_index_a_conversation_is_spread_and_lost() -> None:
    rows = turns(20, apart_s=10.0)
    result = Replay(rows, num_workers=4, cache_blocks=400, policy="round_robin").run()
    assert result.hit_blocks < sum(range(20))
    assert result.worst_share < 2


def test_the_command_reads_a_file_and_prints_its_keys(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 1000 * n, "input_length": 600, "output_length": 1, "hash_ids": [0, n + 1]} for n in range(9)]
    trace.write_text("\n".join(map(json.dumps, lines)))
    assert [row.arrival_s for row in read_trace(trace, rate=2.0)][:3] == [0, 0.5, 1]
    command = [sys.executable, "-m", "bench.trace", "--trace", str(trace), "--workers", "2", "--cache-blocks", "40"]
    printed = subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    figures = json.loads(printed)
    assert figures["hit_rate"] == figures["ideal_hit_rate"] == pytest.approx(8 / 18)
    assert {"ttft_p50_s", "ttft_p99_s", "worst_share", "decision_p50_us"} <= figures.keys()


def test_the_plot_has_a_point_for_every_number_of_workers() -> None:
    plot = svg({8: {"p50_us": 10.0, "p99_us": 20.0}, 1000: {"p50_us": 40.0, "p99_us": 80.0}})
    assert plot.startswith("<svg")
    assert plot.count("<polyline") == 2
    assert ">1000<" in plot
