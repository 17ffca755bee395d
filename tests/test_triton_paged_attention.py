"""Paged attention in Triton against torch's in float32, from the same K, V and Q.

Tolerance: weights are rounded to float16 before they are multiplied with V (relative error 2 ** -11), the result is
rounded once more; values are of order 1: 3e-3, and 8 times that for bfloat16.
"""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.attention_inputs import AttentionShape
from tests.attention_batch import attend, make_sequences, reference, small_tiling
from tests.triton_device import DTYPES

TOLERANCE = {torch.float16: 3e-3, torch.bfloat16: 2.4e-2}
RAGGED = [(1, 70), (1, 1), (3, 45), (40, 67), (33, 33), (1, 32)]


def assert_close(out: torch.Tensor, expected: torch.Tensor) -> None:
    assert (out.float() - expected).abs().max() <= TOLERANCE[out.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("window", [0, 1, 20, 64])
def test_a_ragged_batch(dtype: torch.dtype, strict: bool, window: int) -> None:
    sequences = make_sequences([context for _, context in RAGGED], dtype=dtype)
    out = attend(sequences, RAGGED, small_tiling(strict=strict), window)
    assert_close(out, reference(sequences, RAGGED, window))


if __name__ == "__main__":
    pass
