"""`python -m bench.kernels`: choosing cases by name, and the line that a timed row becomes."""

import pytest

from bench.kernels.__main__ import chosen, readable
from bench.kernels.case import KernelCase
from bench.kernels.timed_rows import Baseline, TimedRow

CASES = [KernelCase(name, lambda device: lambda: None, 1, 1) for name in ("rope T=1", "rope T=64", "int4_linear M=1")]


def test_cases_are_chosen_by_a_part_of_their_names() -> None:
    assert [case.name for case in chosen(CASES, "rope ")] == ["rope T=1", "rope T=64"]
    assert chosen(CASES, "") == CASES
    assert chosen([], "") == []


def test_a_name_that_no_case_has_ends_the_program_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match="no case is called like 'ropes'; there are rope T=1, rope T=64, int4"):
        chosen(CASES, "ropes")


def test_a_row_is_a_line_with_what_others_took_and_what_failed() -> None:
    row = TimedRow("op", 12.34, 0.034, 3210.4, 1.26, 0.747, {"torch": Baseline(24.69, 0.1, 2.0)}, ("cudnn: lost",))
    assert readable(row) == {
        "case": "op",
        "us": "12.34",
        "spread": "3%",
        "GB/s": "3210",
        "TFLOP/s": "1.3",
        "of roofline": "75%",
        "others": "torch 24.7 us = 2.00x, cudnn: lost",
    }
