"""The engine's benchmark on a GPU, on a toy model: each load has figures, and leaves its memory to the next."""

from typing import Literal

import pytest
import torch

from bench.gpu_engine import Load, rows, run

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.mark.parametrize("numerics", ["fast", "strict"])
def test_every_batch_size_has_figures(numerics: Literal["fast", "strict"]) -> None:
    found = list(rows(Load("toy", numerics, 40, (1, 3, 17), 64, CUDA)))
    assert [row.error for row in found] == ["", "", ""]
    assert min(row.tok_s for row in found) > 0


def test_one_load_after_another_finds_room_for_its_pool() -> None:
    load = Load("toy", "fast", 40, (1,), 64, CUDA)
    assert [row.error for row in run([load, load, load], None)] == ["", "", ""]
