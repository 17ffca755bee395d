"""Microseconds of one launch on a GPU: many launches in one CUDA graph, over inputs that the L2 cache does not hold."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bench.kernels.case import Launch

L2_BYTES = 60_000_000  # an H200 has 50 MB
MIN_COPIES, MAX_COPIES = 4, 128  # tiny inputs are in the L2 when a model runs, too
GRAPH_MS = 2.0  # at least so long, that an event's half microsecond and the graph's own launch do not count
MAX_CYCLES = 64
REPLAYS, MAX_ROUNDS, STABLE = 20, 10, 0.01


@dataclass(frozen=True)
class Timing:
    """Of one launch.

    Attributes:
        us: the median, in microseconds.
        spread: from the lowest decile to the highest, as a fraction of the median.
    """

    us: float
    spread: float


def num_copies(num_bytes: int) -> int:
    """How many sets of inputs to take in turn, so that each is gone from the L2 when its turn comes again."""
    return min(max(MIN_COPIES, math.ceil(L2_BYTES / max(num_bytes, 1)) + 1), MAX_COPIES)


def time_launches(launches: Sequence[Launch]) -> Timing:
    """Time the launches in turn; the first ones, which compile, are not counted."""
    graph, count = capture(launches)
    return settle(lambda: [replay_ms(graph) * 1e3 / count for _ in range(REPLAYS)])


def capture(launches: Sequence[Launch]) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of the launches, over and over for `GRAPH_MS`; returns it and how many launches it holds."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # where libraries may make their workspaces, which they must not in a capture
        run_all(launches)
        cycle_ms = event_ms(lambda: run_all(launches))
    torch.cuda.current_stream().wait_stream(side)
    cycles = min(max(1, math.ceil(GRAPH_MS / cycle_ms)), MAX_CYCLES)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(cycles):
            run_all(launches)
    return graph, cycles * len(launches)


def run_all(launches: Sequence[Launch]) -> None:
    """Each once."""
    for launch in launches:
        launch()


def replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    """Milliseconds of one replay."""
    return event_ms(graph.replay)


def event_ms(run: Callable[[], object]) -> float:
    """Milliseconds between CUDA events around what `run` puts on the current stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def settle(measure: Callable[[], Sequence[float]]) -> Timing:
    """Measure in rounds until the median moves by less than 1 % from one to the next; the last round counts."""
    before = math.inf
    for _ in range(MAX_ROUNDS):
        values = measure()
        median = statistics.median(values)
        if abs(median - before) <= STABLE * median:
            break
        before = median
    deciles = statistics.quantiles(values, n=10)
    return Timing(median, (deciles[-1] - deciles[0]) / median)
