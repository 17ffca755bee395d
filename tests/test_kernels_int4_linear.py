"""int4_linear: the operator against plain arithmetic, and bits that do not depend on the batch in strict mode.

Tolerance: bfloat16 keeps 8 bits, and the scale, the zero and the result are each rounded to it once (2^-9 relative).
Their sum, in the norm of the whole result, is held under 2^-7 = 0.8 %.
"""

import pytest
import torch

from kernels.int4 import PackedInt4, dequantize, quantize
from kernels.int4_linear import FAST_MIN_ROWS, Int4Weight, int4_linear, int4_linear_reference, prepare

TOLERANCE = 2**-7
OPERATOR_SHAPES = [(16, 32, 32), (48, 96, 32), (272, 256, 64), (32, 384, 128), (64, 512, 256)]
FALLBACK_SHAPES = [(1, 32, 32), (17, 64, 32), (40, 128, 64), (16, 64, 16), (8, 6, 2)]
ROW_COUNTS = [1, 2, 3, 7, 16, 17, 64, 255, 600]


def random_packed(num_outputs: int, num_inputs: int, group_size: int) -> PackedInt4:
    generator = torch.Generator().manual_seed(num_outputs * 1000 + num_inputs)
    return quantize(torch.randn(num_outputs, num_inputs, generator=generator) * 0.05, group_size)


def random_rows(num_rows: int, num_inputs: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(num_rows, num_inputs, generator=torch.Generator().manual_seed(num_rows)).to(dtype)


def assert_close_to_float32(out: torch.Tensor, x: torch.Tensor, packed: PackedInt4, tolerance: float) -> None:
    exact = x.float() @ dequantize(packed, torch.float32).T
    assert out.dtype == x.dtype
    assert out.shape == exact.shape
    assert (out.float() - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("num_rows", [1, 5, 33])
@pytest.mark.parametrize("shape", OPERATOR_SHAPES)
def test_the_operator_equals_dequantise_and_multiply(shape: tuple[int, int, int], num_rows: int) -> None:
    packed, x = random_packed(*shape), random_rows(num_rows, shape[1])
    weight = prepare(packed, torch.bfloat16, strict=True)
    assert weight.operator is not None
    assert_close_to_float32(int4_linear(x, weight), x, packed, TOLERANCE)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("shape", FALLBACK_SHAPES)
def test_a_shape_the_operator_does_not_take_falls_back(shape: tuple[int, int, int], strict: bool) -> None:
    packed, x = random_packed(*shape), random_rows(3, shape[1])
    weight = prepare(packed, torch.bfloat16, strict=strict)
    assert weight.operator is None
    assert_close_to_float32(int4_linear(x, weight), x, packed, TOLERANCE)


@pytest.mark.parametrize("strict", [False, True])
def test_float32_activations_are_exact(strict: bool) -> None:
    packed, x = random_packed(64, 128, 32), random_rows(9, 128, torch.float32)
    weight = prepare(packed, torch.float32, strict=strict)
    assert weight.operator is None
    assert_close_to_float32(int4_linear(x, weight), x, packed, 1e-6)


def test_rows_need_not_be_contiguous() -> None:
    packed, x = random_packed(32, 64, 32), random_rows(64, 8).T
    weight = prepare(packed, torch.bfloat16, strict=True)
    assert not x.is_contiguous()
    assert torch.equal(int4_linear(x, weight), int4_linear(x.contiguous(), weight))


@pytest.mark.parametrize("shape", [(16, 64, 32), (272, 256, 64), (256, 512, 128)])
@pytest.mark.parametrize("num_rows", ROW_COUNTS)
def test_strict_bits_do_not_depend_on_the_batch(shape: tuple[int, int, int], num_rows: int) -> None:
    weight = prepare(random_packed(*shape), torch.bfloat16, strict=True)
    x = random_rows(613, shape[1])
    together = int4_linear(x, weight)
    for offset in (0, 1, 13):
        alone = int4_linear(x[offset : offset + num_rows], weight)
        assert torch.equal(alone, together[offset : offset + num_rows])


def test_a_broken_row_does_not_reach_its_neighbours() -> None:
    weight = prepare(random_packed(64, 128, 32), torch.bfloat16, strict=True)
    x = random_rows(20, 128)
    clean = int4_linear(x, weight)
    x[7] = float("nan")
    others = torch.arange(20) != 7
    assert torch.equal(int4_linear(x, weight)[others], clean[others])


def test_fast_mode_switches_to_the_matrix_product_for_many_rows() -> None:
    packed, x = random_packed(272, 256, 64), random_rows(FAST_MIN_ROWS, 256)
    fast, strict = (prepare(packed, torch.bfloat16, strict=strict) for strict in (False, True))
    assert fast.operator is not None
    assert fast.packed is not None
    product = int4_linear_reference(x, packed)
    assert not torch.equal(product, int4_linear(x, strict)), "the two ways must differ, or this test shows nothing"
    assert torch.equal(int4_linear(x, fast), product)
    assert torch.equal(int4_linear(x[:-1], fast), int4_linear(x[:-1], strict))


def test_strict_mode_holds_half_a_byte_per_weight_and_the_scales() -> None:
    packed = random_packed(256, 512, 128)
    strict = prepare(packed, torch.bfloat16, strict=True)
    weights, groups = 256 * 512, 256 * 512 // 128
    assert strict.packed is None
    assert strict.num_bytes == weights // 2 + groups * 4
    assert prepare(packed, torch.bfloat16, strict=False).num_bytes == strict.num_bytes + weights // 2 + groups * 5
    assert prepare(packed, torch.float32, strict=True).num_bytes == weights // 2 + groups * 5


def test_a_weight_without_a_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one layout"):
        int4_linear(random_rows(1, 32), Int4Weight(None, None))
