"""SwiGLU's gate in Triton against torch."""

import pytest
import torch
import torch.nn.functional as F

from kernels.triton_ops.silu_mul import silu_mul
from tests.triton_device import DEVICE, DTYPES


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(1, 123), (3, 576), (2, 2100)])
@pytest.mark.parametrize("splits", [1, 2, 3, 4])
def test_it_is_what_torch_computes(splits: int, tokens: int, width: int, dtype: torch.dtype) -> None:
    partials = 3 * torch.randn(splits, tokens, 2 * width, generator=torch.Generator().manual_seed(splits)).to(DEVICE)
    gate, up = sum(partials[1:], partials[0]).chunk(2, dim=-1)
    out = silu_mul(partials, dtype)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), F.silu(gate) * up, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, in the interpreter: infinity is right
def test_gates_far_from_zero_are_shut_or_open() -> None:
    partials = torch.tensor([[[-200.0, -90.0, 0.0, 90.0, 200.0, 2.0, 2.0, 2.0, 2.0, 2.0]]], device=DEVICE)
    assert silu_mul(partials, torch.float32).tolist() == [[0.0, 0.0, 0.0, 180.0, 400.0]]


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[splits, tokens, 10\]"):
        silu_mul(torch.zeros(1, 2, 11, device=DEVICE), torch.float16)
