"""What a report says of requests whose every time is known."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.loadtest.figures import curve_ms, figures, percentile
from cluster.loadtest.heard import Heard
from cluster.loadtest.plot import curves_svg, label, report_svg, ticks
from cluster.loadtest.report import problem, report
from cluster.loadtest.run import Run
from cluster.loadtest.settings import Settings
from cluster.loadtest.table import table

SETTINGS = Settings("unique", seed=1)


def answered(sent_s: float, ttft_s: float, pieces: int = 3, gap_s: float = 0.1, **more: Any) -> Heard:
    pieces_s = [sent_s + ttft_s + gap_s * place for place in range(pieces)]
    known = {"prompt_tokens": 100, "cached_tokens": 40, "output_tokens": 5, "end_s": pieces_s[-1] + 0.05}
    return Heard("", sent_s, pieces_s=pieces_s, **(known | more))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 100))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)
    needed = max(1, math.ceil(percent * len(values) / 100))
    assert found in values
    assert sum(value <= found for value in values) >= needed
    assert sum(value < found for value in values) < needed


def test_the_figures_of_three_answers() -> None:
    heard = [answered(0.0, 0.2), answered(1.0, 0.4), answered(2.0, 0.6)]
    found = figures(heard, SETTINGS)
    assert found["lasted_s"] == pytest.approx(2.85)
    assert found["answers_per_s"] == pytest.approx(3 / 2.85, abs=1e-3)
    assert found["output_tokens_per_s"] == pytest.approx(15 / 2.85, abs=1e-3)
    assert found["ttft_ms"] == {"p50": 400, "p90": 600, "p99": 600, "mean": 400, "max": 600}
    assert found["itl_ms"]["p50"] == pytest.approx(200 / 4), "the pieces after the first are four tokens in 200 ms"
    assert found["gap_ms"]["p99"] == pytest.approx(100)
    assert found["e2e_ms"]["max"] == pytest.approx(850)
    assert (found["cached_share"], found["cached_share_of_possible"]) == (0.4, None)


def test_what_could_be_cached_is_weighed_by_tokens() -> None:
    heard = [
        answered(0, 0.1, shared_share=0.0, cached_tokens=0),
        answered(0, 0.1, shared_share=0.5, prompt_tokens=300, cached_tokens=120),
    ]
    found = figures(heard, SETTINGS)
    assert found["possible_cached_share"] == pytest.approx(150 / 400)
    assert found["cached_share_of_possible"] == pytest.approx(120 / 150)


def test_goodput_counts_answers_within_both_limits() -> None:
    settings = replace(SETTINGS, slo_ttft_ms=500, slo_itl_ms=60)
    heard = [
        answered(0, 0.2),
        answered(0, 0.7),  # too late
        answered(0, 0.2, gap_s=0.2),  # too slow
        answered(0, 0.2, output_tokens=1, gap_s=0.2),  # nothing to be slow with
        Heard("", 0, error="cut", end_s=1),
        Heard("", 0, left=True, end_s=1),
    ]
    found = figures(heard, settings)
    assert found["goodput_share"] == pytest.approx(2 / 5)
    assert (found["answered"], found["failed"], found["left"]) == (4, 1, 1)
    assert figures(heard, SETTINGS)["goodput_share"] == pytest.approx(4 / 5), "without limits, what was answered"
    assert found["errors"] == {"cut": 1}


def test_an_answer_without_text_begins_with_its_end() -> None:
    assert Heard("", 1.0, end_s=1.5).ttft_ms == pytest.approx(500)
    assert Heard("", 1.0, end_s=1.5, output_tokens=4).itl_ms is None


@pytest.mark.parametrize(
    ("heard", "asked", "says"),
    [
        ([answered(0, 0.2), answered(0, 0.9)], 0.5, ""),
        ([answered(0, 0.2), answered(0, 0.9)], 0.6, "goodput is 0.5000"),
        ([Heard("", 0, error="timeout", end_s=1)], None, "no request was answered"),
        ([Heard("", 0, error="timeout", end_s=1)], 0.0, "no request was answered"),
        ([], 0.9, "no request was answered"),
        ([Heard("", 0, error="cut", end_s=1), answered(0, 0.9)], None, ""),
    ],
)
def test_a_run_is_good_enough_or_not(heard: list[Heard], asked: float | None, says: str) -> None:
    written = report(Run(heard), replace(SETTINGS, slo_ttft_ms=500, min_goodput=asked))
    assert problem(written).startswith(says)
    assert bool(problem(written)) == bool(says)


def test_a_report_has_its_groups_in_order_and_can_be_shown() -> None:
    asked = [(2, "turn 2"), (1, "turn 1"), (3, "turn 2")]
    heard = [replace(answered(sent_s, 0.2), group=group) for sent_s, group in asked]
    written = report(Run([*heard, Heard("turn 1", 4, error="cut", detail="so <much>", end_s=5)], [3.0]), SETTINGS)
    assert list(written["groups"]) == ["turn 1", "turn 2"]
    assert written["groups"]["turn 2"]["requests"] == 2
    assert written["total"]["requests"] == 4
    shown = table(written)
    assert "turn 1" in shown
    assert "1 x cut: so <much>" in shown
    assert 'fill="#1f6fb2">turn 1</text>' in report_svg(written)


def test_a_table_says_what_throws_doubt_on_it() -> None:
    doubtful = report(Run([answered(0, 0.1, shared_share=0.1)], [200.0]), SETTINGS)
    assert "take another --seed" in table(doubtful)
    assert "too busy" in table(doubtful)
    assert "--seed" not in table(report(Run([answered(0, 0.1, shared_share=0.5)]), SETTINGS))


def test_a_plot_has_room_for_its_greatest_value() -> None:
    plot = curves_svg("a & b", {"x": curve_ms(range(101)), "none": []})
    assert "a &amp; b" in plot
    assert "559.8,33.3" in plot, "98 % had begun after 98 ms, on scales to 100"
    assert plot.count("<polyline") == 1


@pytest.mark.parametrize("largest", [0, 0.003, 1, 7, 96.5, 240, 50_500, 1e6])
def test_scales_end_at_round_numbers_no_further_than_needed(largest: float) -> None:
    marks = ticks(largest)
    assert marks[0] == 0
    assert marks[-2] < (largest or 1) <= marks[-1]
    assert 3 <= len(marks) <= 8
    assert f"{marks[1]:.0e}"[0] in "125"


def test_labels_are_numbers_as_people_write_them() -> None:
    assert [label(tick) for tick in (0, 0.25, 5, 50, 10_000)] == ["0", "0.25", "5", "50", "10,000"]
