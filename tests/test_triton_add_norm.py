"""The residual stream in Triton against torch."""

import pytest
import torch
import torch.nn.functional as F

from kernels.triton_ops.add_norm import MAX_HIDDEN_SIZE, add_norm, add_partials
from tests.triton_device import DEVICE, DTYPES

EPS = 1e-5


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("hidden", [96, 123, 576, 2100])
@pytest.mark.parametrize(("splits", "biased"), [(0, False), (1, True), (2, False), (3, True), (4, True)])
def test_it_adds_in_order_and_normalises(
    splits: int, biased: bool, hidden: int, tokens: int, dtype: torch.dtype
) -> None:
    residual, weight = noise(tokens, hidden, seed=1) * 3, noise(hidden, seed=2)
    partials = noise(splits, tokens, hidden, seed=3) if splits else None
    bias = noise(hidden, seed=4) if biased else None
    wanted = residual.clone()
    if partials is not None:
        total = sum(partials[1:], partials[0])
        wanted += total if bias is None else total + bias
    out = add_norm(residual, partials, bias, weight, EPS, dtype)
    assert torch.equal(residual, wanted)
    assert out.dtype == dtype
    normed = F.rms_norm(wanted, (hidden,), weight, EPS)
    torch.testing.assert_close(out.float(), normed, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_eps_counts_where_a_row_is_small() -> None:
    residual, weight = noise(2, 100) * 1e-3, torch.ones(100, device=DEVICE)
    out = add_norm(residual, None, None, weight, 1e-2, torch.float32)
    torch.testing.assert_close(out, F.rms_norm(residual, (100,), weight, 1e-2), rtol=1e-5, atol=1e-7)


def test_without_the_norm_it_only_adds() -> None:
    residual, partials, bias = noise(3, 576), noise(2, 3, 576, seed=1), noise(576, seed=2)
    wanted = residual + (partials[0] + partials[1] + bias)
    add_partials(residual, partials, bias)
    assert torch.equal(residual, wanted)


@pytest.mark.parametrize("hidden", [96, 2100])
def test_a_row_does_not_depend_on_the_batch(hidden: int) -> None:
    residual, partials, weight = noise(5, hidden), noise(3, 5, hidden, seed=1), noise(hidden, seed=2)
    together = add_norm(residual.clone(), partials, None, weight, EPS, torch.float32)
    for row in range(5):
        one = slice(row, row + 1)
        alone = add_norm(residual[one].clone(), partials[:, one].contiguous(), None, weight, EPS, torch.float32)
        assert torch.equal(alone, together[one])


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", [576, 2100, 4096, MAX_HIDDEN_SIZE])
def test_a_row_does_not_depend_on_large_batches(hidden: int) -> None:
    residual, partials, weight = noise(300, hidden), noise(3, 300, hidden, seed=1), noise(hidden, seed=2)
    together = add_norm(residual.clone(), partials, None, weight, EPS, torch.bfloat16)
    for size in (1, 2, 7, 16, 17, 65, 256):
        some = add_norm(residual[:size].clone(), partials[:, :size].contiguous(), None, weight, EPS, torch.bfloat16)
        assert torch.equal(some, together[:size]), size


def test_what_does_not_fit_is_refused() -> None:
    weight = torch.ones(64, device=DEVICE)
    with pytest.raises(ValueError, match="16385 is longer"):
        add_norm(noise(1, MAX_HIDDEN_SIZE + 1), None, None, weight, EPS, torch.float32)
    with pytest.raises(ValueError, match=r"\[splits, tokens, 64\]"):
        add_norm(noise(2, 64), noise(1, 2, 65), None, weight, EPS, torch.float32)
    with pytest.raises(ValueError, match=r"torch\.float16"):
        add_norm(noise(2, 64), noise(1, 2, 64).half(), None, weight, EPS, torch.float32)
    with pytest.raises(ValueError, match="3 tokens"):
        add_partials(noise(2, 64), noise(1, 3, 64), None)
    with pytest.raises(ValueError, match="contiguous"):
        add_partials(noise(2, 128)[:, ::2], noise(1, 2, 64), None)
