"""All that is timed and compiled."""

from bench.kernels import int4_linear, paged_attention, rows, sampling
from bench.kernels.case import KernelCase


def timed_cases() -> list[KernelCase]:
    """Every kernel at the sizes of docs/performance.md."""
    return [*int4_linear.cases(), *paged_attention.cases(), *rows.cases(), *sampling.cases()]


def compiled_cases() -> list[KernelCase]:
    """Fewer: every kernel in each way it is compiled that differs in more than numbers."""
    return [*int4_linear.compiled_cases(), *paged_attention.cases(), *rows.cases(), *sampling.cases()]
