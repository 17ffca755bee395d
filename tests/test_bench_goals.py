"""How figures are held against the goals: geometric means, floors and targets, and no silence about what is missing."""

from typing import Any

import pytest

from bench.goals import GOALS, Goal, summary

RATIO = Goal("linear M=1", r"^int4_linear .*\bM=1\b", "x torch bf16", 1.8, 2.6)


def linear(m: int, ratio: float) -> dict[str, Any]:
    return {"case": f"int4_linear 4096x4096 g128 M={m}", "baselines": {"torch": {"ratio": ratio}}}


def verdict(goal: Goal, *rows: dict[str, Any]) -> tuple[object, object]:
    (entry,) = summary(rows, [goal])
    return entry["value"], entry["verdict"]


def test_the_geometric_mean_of_the_goals_own_cases_counts() -> None:
    assert verdict(RATIO, linear(1, 1.0), linear(1, 4.0), linear(16, 100.0)) == (2.0, "floor reached")


@pytest.mark.parametrize(
    ("ratio", "says"), [(1.79, "MISSED"), (1.8, "floor reached"), (2.59, "floor reached"), (2.6, "target reached")]
)
def test_floor_and_target(ratio: float, says: str) -> None:
    assert verdict(RATIO, linear(1, ratio))[1] == says


def test_no_row_is_no_figure_and_a_failed_row_is_an_error() -> None:
    assert verdict(RATIO) == ("", "no figures")
    assert verdict(RATIO, linear(16, 3.0)) == ("", "no figures")
    assert verdict(RATIO, linear(1, 3.0), {"case": "int4_linear x M=1", "baselines": {}}) == ("", "error")


def test_bandwidth_is_of_the_data_sheet_and_rates_are_as_they_are() -> None:
    decode = Goal("d", "^paged_decode", "of 4.8 TB/s", 0.5, 0.65)
    assert verdict(decode, {"case": "paged_decode b=64 ctx=2048", "gb_per_s": 3600.0}) == (0.75, "target reached")
    assert verdict(decode, {"case": "paged_decode b=64 ctx=2048", "gb_per_s": 0.0}) == ("", "error")
    speed = Goal("s", "^llama", "tok/s", 300, 480)
    assert verdict(speed, {"case": "llama", "tok_s": 299.0}) == (299.0, "MISSED")


@pytest.mark.parametrize(
    ("case", "goal"),
    [
        ("int4_linear 6144x4096 g128 M=1", "int4 linear, 1 rows"),
        ("int4_linear 6144x4096 g128 M=16", "int4 linear, 16 rows"),
        ("int4_gate_up 28672x4096 g128 M=256", "int4 linear, 256 rows"),
        ("paged_attention decode 32/8 heads batch=64 context=4096 fast", "decode, batch 64, context 4096"),
        ("paged_attention prefill 32/8 heads new=8192 context=8192 fast", "prefill of 8192"),
        ("llama-3-8b g128 fast b=64 ctx=2048", "llama-3-8b, batch 64"),
        ("int4_linear 6144x4096 g64 M=1", None),
        ("paged_attention decode 32/8 heads batch=1 context=8192 fast", None),
        ("paged_attention decode 32/8 heads batch=64 context=4096 strict", None),
        ("llama-3-8b g128 strict b=64 ctx=2048", None),
    ],
)
def test_a_case_counts_for_one_goal_or_none(case: str, goal: str | None) -> None:
    found = [entry["goal"] for entry in summary([{"case": case}], GOALS) if entry["cases"]]
    assert found == ([goal] if goal else [])
