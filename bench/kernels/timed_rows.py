"""A row of figures for every case: its own time, how near it comes to the machine's limits, and others' times."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from bench.kernels.case import KernelCase, Launch
from bench.kernels.gpu_timing import Timing, num_copies

# An H200: what is reached of its 4.8 TB/s, and its dense bfloat16 products.
ACHIEVED_BYTES_PER_S, PEAK_FLOPS_PER_S = 4.3e12, 989e12
Make = Callable[[torch.device], Launch]
Timer = Callable[[Sequence[Launch]], Timing]


@dataclass(frozen=True)
class Baseline:
    """Another implementation of the same: its time, and that over ours (above 1 ours is faster)."""

    us: float
    spread: float
    ratio: float


@dataclass(frozen=True)
class TimedRow:
    """One case on a GPU.

    Attributes:
        us, spread: see `Timing`; us is 0 where the case failed.
        gb_per_s, tflops: of the bytes and operations that the case needs at the least.
        fraction: the time that the machine's limits allow, over the time taken.
        errors: what went wrong, one line each; empty where nothing did.
    """

    case: str
    us: float = 0.0
    spread: float = 0.0
    gb_per_s: float = 0.0
    tflops: float = 0.0
    fraction: float = 0.0
    baselines: dict[str, Baseline] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


def timed_rows(cases: Iterable[KernelCase], device: torch.device, time: Timer) -> Iterator[TimedRow]:
    """Time the cases one after another; one that raises is a row with its error."""
    for case in cases:
        try:
            timing = time_copies(case.make, case, device, time)
        except Exception as error:  # whatever a kernel does, the others are timed
            yield TimedRow(case.name, errors=(shown(error),))
            continue
        yield timed_row(case, timing, device, time)


def timed_row(case: KernelCase, timing: Timing, device: torch.device, time: Timer) -> TimedRow:
    """A case that was timed, and its baselines."""
    baselines, errors = {}, []
    for name, make in case.baselines.items():
        try:
            other = time_copies(make, case, device, time)
            baselines[name] = Baseline(other.us, other.spread, other.us / timing.us)
        except Exception as error:  # a baseline that this torch lacks says nothing of ours
            errors.append(f"{name}: {shown(error)}")
    seconds = timing.us / 1e6
    return TimedRow(
        case=case.name,
        us=timing.us,
        spread=timing.spread,
        gb_per_s=case.num_bytes / seconds / 1e9,
        tflops=case.num_flops / seconds / 1e12,
        fraction=roofline_s(case) / seconds,
        baselines=baselines,
        errors=tuple(errors),
    )


def time_copies(make: Make, case: KernelCase, device: torch.device, time: Timer) -> Timing:
    """Make as many inputs as the cache asks for, and time them in turn."""
    return time([make(device) for _ in range(num_copies(case.num_bytes))])


def roofline_s(case: KernelCase) -> float:
    """Seconds that reading and writing, or multiplying, take at the least."""
    return max(case.num_bytes / ACHIEVED_BYTES_PER_S, case.num_flops / PEAK_FLOPS_PER_S)


def shown(error: Exception) -> str:
    """One line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
