"""Timing on a GPU: a copy runs at a speed that memory can have, and a graph repeats what was captured."""

import json
from pathlib import Path

import pytest
import torch

from bench.kernels.__main__ import run_timing
from bench.kernels.case import KernelCase, Launch
from bench.kernels.gpu_timing import REPLAYS, capture, replay_ms, time_launches
from bench.kernels.timed_rows import timed_rows

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
COPY_BYTES = 2**28


def make_copy(device: torch.device) -> Launch:
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def make_error(device: torch.device) -> Launch:
    raise RuntimeError("none here")


def test_a_copy_is_neither_faster_than_memory_nor_much_slower() -> None:
    case = KernelCase("copy", make_copy, 2 * COPY_BYTES, 0, {"the same": make_copy})
    (row,) = timed_rows([case], CUDA, time_launches)
    assert row.errors == ()
    assert 200 < row.gb_per_s < 8000
    assert row.baselines["the same"].ratio == pytest.approx(1, abs=0.1)


def test_twice_the_work_takes_twice_the_time() -> None:
    launches = [make_copy(CUDA) for _ in range(4)]
    once = time_launches(launches).us
    twice = time_launches([lambda run=run: (run(), run()) for run in launches]).us  # type: ignore[misc]
    assert twice == pytest.approx(2 * once, rel=0.1)


def test_a_graph_holds_every_launch_as_often_as_it_says() -> None:
    counters = [torch.zeros(1, device=CUDA) for _ in range(3)]
    graph = capture([lambda counter=counter: counter.add_(1) for counter in counters], cycles=5)  # type: ignore[misc]
    replay_ms(graph)
    assert [counter.item() for counter in counters] == [5 * (REPLAYS + 1)] * 3


def test_a_failed_case_does_not_spoil_the_next() -> None:
    cases = [KernelCase("bad", make_error, 1, 1), KernelCase("copy", make_copy, 2 * COPY_BYTES, 0)]
    bad, good = timed_rows(cases, CUDA, time_launches)
    assert bad.errors == ("RuntimeError: none here",)
    assert good.us > 0


def test_the_command_keeps_the_rows_and_tells_of_the_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cases = [KernelCase("bad", make_error, 1, 1), KernelCase("copy", make_copy, 2 * COPY_BYTES, 0)]
    assert run_timing(cases, True, tmp_path / "kernels.json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert [row["case"] for row in printed["rows"]] == ["bad", "copy"]
    assert json.loads((tmp_path / "kernels.json").read_text()) == printed
    assert printed["environment"]["device"] == torch.cuda.get_device_name()
    assert run_timing(cases[1:], False, None) == 0
