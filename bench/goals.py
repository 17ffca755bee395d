"""What the GPU is asked for, and how the figures compare: geometric means over the cases that a goal speaks of."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
DATASHEET_GB_PER_S = 4800.0
OF_PEAK = "of 4.8 TB/s"


@dataclass(frozen=True)
class Goal:
    """A floor below which something is wrong, and a target; one number is both.

    Attributes:
        pattern: a regular expression that the names of its cases match.
        unit: what the value is, and how it is read from a row.
    """

    name: str
    pattern: str
    unit: str
    floor: float
    target: float


def over_baseline(row: Row) -> float:
    """Times as fast as the first baseline."""
    return float(next(iter(row["baselines"].values()))["ratio"])


VALUES: dict[str, Callable[[Row], float]] = {
    "x torch bf16": over_baseline,
    OF_PEAK: lambda row: float(row["gb_per_s"]) / DATASHEET_GB_PER_S,
    "TFLOP/s": lambda row: float(row["tflops"]),
    "tok/s": lambda row: float(row["tok_s"]),
}
INT4 = [(1, 1.8, 2.6), (16, 1.5, 2.4), (64, 1.0, 1.6), (256, 0.5, 0.7)]
DECODE = [(2048, 0.50, 0.65), (4096, 0.60, 0.75), (8192, 0.65, 0.80)]
GOALS = (
    *(
        Goal(f"int4 linear, {m} rows", rf"^int4_(linear|gate_up) .* g128 M={m}$", "x torch bf16", low, high)
        for m, low, high in INT4
    ),
    *(
        Goal(
            f"decode, batch 64, context {n}",
            rf"^paged_attention decode .* batch=64 context={n} fast$",
            OF_PEAK,
            *bounds,
        )
        for n, *bounds in DECODE
    ),
    Goal("prefill of 8192", r"^paged_attention prefill .* new=8192 context=8192 fast$", "TFLOP/s", 200.0, 330.0),
    Goal("llama-3-8b, batch 1", r"^llama-3-8b g128 fast b=1 ctx=2048$", "tok/s", 300.0, 480.0),
    Goal("llama-3-8b, batch 64", r"^llama-3-8b g128 fast b=64 ctx=2048$", "tok/s", 4000.0, 7500.0),
)


def summary(rows: Sequence[Row], goals: Sequence[Goal] = GOALS) -> list[dict[str, Any]]:
    """One entry for each goal; a goal that no good row speaks of says so."""
    return [judged(goal, [row for row in rows if re.search(goal.pattern, row["case"])]) for goal in goals]


def judged(goal: Goal, rows: Sequence[Row]) -> dict[str, Any]:
    """A goal's geometric mean over its rows, and whether that is enough. A row that failed fails the goal."""
    entry: dict[str, Any] = {"goal": goal.name, "cases": len(rows), "value": "", "unit": goal.unit}
    entry |= {"floor": goal.floor, "target": goal.target}
    if not rows:
        return entry | {"verdict": "no figures"}
    try:
        values = [VALUES[goal.unit](row) for row in rows]
    except (KeyError, StopIteration):
        return entry | {"verdict": "error"}
    if min(values) <= 0:
        return entry | {"verdict": "error"}
    mean = math.exp(sum(math.log(value) for value in values) / len(values))
    verdict = "target reached" if mean >= goal.target else "floor reached" if mean >= goal.floor else "MISSED"
    return entry | {"value": float(f"{mean:.3g}"), "verdict": verdict}
