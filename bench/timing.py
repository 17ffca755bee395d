"""Timing of alternatives side by side on a machine that others use too."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping


def alternate(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Call the functions in turn, A B A B, after one warm-up each: seconds of every counted call."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(repeats + 1):
        for name, function in functions.items():
            begin_s = time.perf_counter()
            function()
            if round_number:
                seconds[name].append(time.perf_counter() - begin_s)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, minimum and maximum in microseconds."""
    return {
        "median_us": statistics.median(seconds) * 1e6,
        "min_us": min(seconds) * 1e6,
        "max_us": max(seconds) * 1e6,
    }


def machine() -> dict[str, object]:
    """What else was going on: the load when the measurement ended, and how many cores there are."""
    return {"cores": os.cpu_count(), "load_1_min": round(os.getloadavg()[0], 2)}


def show_spreads(found: Mapping[str, Mapping[str, float]], *, as_json: bool) -> None:
    """What `spread` has found, by name, as JSON or as lines."""
    if as_json:
        print(json.dumps({"us": found, "machine": machine()}))
        return
    for name, figures in found.items():
        print(f"{name:26} {figures['median_us']:8.2f} us  ({figures['min_us']:.2f} to {figures['max_us']:.2f})")
