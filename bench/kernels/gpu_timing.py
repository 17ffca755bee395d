"""Microseconds of one launch on a GPU: many launches in one CUDA graph, over inputs that the L2 cache does not hold."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from bench.kernels.case import Launch

L2_BYTES = 60_000_000  # an H200 has 50 MB
MIN_COPIES, MAX_COPIES = 4, 128  # tiny inputs are in the L2 when a model runs, too
GRAPH_MS = 2.0  # about so long, that an event's half microsecond and the gap between graphs do not count
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
    warm_up(launches)
    cycle_ms = min(replay_ms(capture(launches, 1)))
    cycles = min(max(1, math.ceil(GRAPH_MS / cycle_ms)), MAX_CYCLES)
    graph, count = capture(launches, cycles), cycles * len(launches)
    return settle(lambda: [ms * 1e3 / count for ms in replay_ms(graph)])


def warm_up(launches: Sequence[Launch]) -> None:
    """Launch each once beside the main stream: libraries make workspaces then, which they must not in a capture."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for launch in launches:
            launch()
    torch.cuda.current_stream().wait_stream(side)


def capture(launches: Sequence[Launch], cycles: int) -> torch.cuda.CUDAGraph:
    """A graph of all launches, so many times over."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(cycles):
            for launch in launches:
                launch()
    return graph


def replay_ms(graph: torch.cuda.CUDAGraph) -> list[float]:
    """Milliseconds of replays back to back: the GPU never waits for the host."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(REPLAYS + 1)]  # type: ignore[no-untyped-call]
    graph.replay()
    for event in events[:-1]:
        event.record()
        graph.replay()
    events[-1].record()
    events[-1].synchronize()
    return [float(begin.elapsed_time(end)) for begin, end in pairwise(events)]


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
