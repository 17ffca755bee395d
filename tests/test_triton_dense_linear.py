"""The product with a weight as it is, in Triton: against float64, and the same bits whatever is beside a row."""

import pytest
import torch

from kernels.triton_ops.dense_linear import dense_linear_fits, dense_linear_partials
from tests.triton_device import DEVICE, DTYPES

TOLERANCE = 1e-5  # of the largest result: Hopper cuts off where the interpreter rounds


def random(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_near(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.shape == wanted.shape
    assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", [1, 3, 17, 33, 130])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(200, 128), (64, 64), (1, 192)])
def test_it_is_the_product(num_outputs: int, num_inputs: int, num_rows: int, dtype: torch.dtype) -> None:
    weight, x = random(num_outputs, num_inputs, dtype, 1), random(num_rows, num_inputs, dtype, 2)
    assert_near(dense_linear_partials(x, weight).sum(0), x.double() @ weight.double().T)


def test_ranges_of_inputs_are_summed_apart() -> None:
    """Nine steps in four ranges: each partial is the product of its range alone."""
    weight, x = random(70, 576, DTYPES[-1], 3), random(2, 576, DTYPES[-1], 4)
    partials = dense_linear_partials(x, weight)
    assert partials.shape == (4, 2, 70)
    for split, partial in enumerate(partials):
        begin, end = (part * 9 // 4 * 64 for part in (split, split + 1))
        assert_near(partial, x[:, begin:end].double() @ weight[:, begin:end].double().T)


def test_no_rows_make_no_rows() -> None:
    assert dense_linear_partials(random(0, 64, DTYPES[-1]), random(5, 64, DTYPES[-1])).shape == (1, 0, 5)


def test_what_does_not_fit_is_refused() -> None:
    dtype = DTYPES[-1]
    for weight in (random(8, 96, dtype), random(8, 64, torch.float32), random(64, 8, dtype).T):
        assert not dense_linear_fits(weight)
        with pytest.raises(ValueError, match="a weight must be contiguous"):
            dense_linear_partials(random(1, weight.shape[1], weight.dtype), weight)
    for x in (random(2, 128, dtype), random(2, 64, torch.float32), random(64, 2, dtype).T, random(1, 64, dtype)[0]):
        with pytest.raises(ValueError, match="rows must be contiguous"):
            dense_linear_partials(x, random(8, 64, dtype))


@pytest.mark.gpu
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(4096, 4096), (128256, 2048)])
def test_bfloat16_against_float64(num_outputs: int, num_inputs: int) -> None:
    """Hopper adds the products of 16 inputs with fewer bits than float32 has: thousands of terms stay within 1e-4."""
    weight = random(num_outputs, num_inputs, torch.bfloat16, 5)
    for num_rows in (1, 17, 64, 256):
        x = random(num_rows, num_inputs, torch.bfloat16, num_rows)
        assert_near(dense_linear_partials(x, weight).sum(0), x.double() @ weight.double().T, 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(4096, 4096), (32000, 2048)])
def test_bits_do_not_depend_on_the_rows_beside(num_outputs: int, num_inputs: int) -> None:
    weight, x = random(num_outputs, num_inputs, torch.bfloat16, 6), random(300, num_inputs, torch.bfloat16, 7)
    whole = dense_linear_partials(x, weight)
    for count in (1, 2, 7, 16, 17, 64, 65, 256):
        for begin in (0, 300 - count):
            part = dense_linear_partials(x[begin : begin + count].contiguous(), weight)
            assert torch.equal(part, whole[:, begin : begin + count]), (count, begin)
