"""What is made of a kernel's time: rates, the roofline, baselines; and that one case's failure is its own."""

from collections.abc import Sequence

import pytest
import torch

from bench.kernels.case import KernelCase, Launch
from bench.kernels.gpu_timing import MAX_COPIES, Timing, num_copies, settle
from bench.kernels.timed_rows import Make, roofline_s, timed_rows

CPU = torch.device("cpu")


def case(name: str = "op", num_bytes: int = 43_000_000, num_flops: int = 0, **baselines: Make) -> KernelCase:
    return KernelCase(name, lambda device: lambda: 10.0, num_bytes, num_flops, baselines)


def by_first_value(launches: Sequence[Launch]) -> Timing:
    """A timer for launches that say themselves how many microseconds they take."""
    return Timing(float(str(launches[0]())), 0.1)


def broken(device: torch.device) -> Launch:
    raise RuntimeError("out of shared memory\nand more")


def test_rates_and_the_part_of_the_roofline() -> None:
    (row,) = timed_rows([case(num_flops=20_000_000)], CPU, by_first_value)
    assert (row.us, row.spread, row.errors) == (10.0, 0.1, ())
    assert row.gb_per_s == pytest.approx(4300)
    assert row.tflops == pytest.approx(2)
    assert row.fraction == pytest.approx(1)


@pytest.mark.parametrize(
    ("num_bytes", "num_flops", "seconds"),
    [(4_300_000, 0, 1e-6), (4_300_000, 989_000_000, 1e-6), (4_300_000, 2 * 989_000_000, 2e-6)],
)
def test_the_slower_of_memory_and_products_is_the_limit(num_bytes: int, num_flops: int, seconds: float) -> None:
    assert roofline_s(case(num_bytes=num_bytes, num_flops=num_flops)) == pytest.approx(seconds)


def test_a_baseline_twice_as_slow_makes_a_ratio_of_two() -> None:
    (row,) = timed_rows([case(torch=lambda device: lambda: 20.0)], CPU, by_first_value)
    assert (row.baselines["torch"].us, row.baselines["torch"].ratio) == (20.0, 2.0)


def test_a_case_that_raises_is_a_row_and_the_next_is_timed() -> None:
    cases = [KernelCase("bad", broken, 1, 1), case("good")]
    bad, good = timed_rows(cases, CPU, by_first_value)
    assert (bad.case, bad.us, bad.errors) == ("bad", 0.0, ("RuntimeError: out of shared memory",))
    assert (good.case, good.us) == ("good", 10.0)


def test_a_baseline_that_raises_leaves_the_rest_of_the_row() -> None:
    (row,) = timed_rows([case(lost=broken, torch=lambda device: lambda: 5.0)], CPU, by_first_value)
    assert row.us == 10.0
    assert list(row.baselines) == ["torch"]
    assert row.errors == ("lost: RuntimeError: out of shared memory",)


@pytest.mark.parametrize(
    ("num_bytes", "copies"), [(10**9, 4), (20_000_000, 4), (10_000_000, 7), (1_000_000, 61), (8, MAX_COPIES)]
)
def test_inputs_are_many_enough_to_leave_the_cache(num_bytes: int, copies: int) -> None:
    assert num_copies(num_bytes) == copies
    assert (copies - 1) * num_bytes >= 60_000_000 or copies == MAX_COPIES


def test_each_launch_is_timed_on_inputs_of_its_own() -> None:
    made: list[torch.device] = []

    def make(device: torch.device) -> Launch:
        made.append(device)
        return lambda: 10.0

    list(timed_rows([KernelCase("op", make, 10**7, 0)], CPU, by_first_value))
    assert made == [CPU] * 7


def test_measuring_goes_on_until_the_median_stands_still() -> None:
    rounds = iter([[30.0] * 4, [20.0] * 4, [10.0, 10.0, 10.05, 10.1], [9.0, 10.0, 10.0, 11.0], [1.0] * 4])
    timing = settle(lambda: next(rounds))
    assert timing.us == 10.0
    assert 0.1 < timing.spread < 0.5
    assert next(rounds) == [1.0] * 4


def test_measuring_ends_even_where_nothing_stands_still() -> None:
    values = iter(range(1, 1000))
    assert settle(lambda: [float(2 ** next(values))] * 4).us == 2.0**10
