"""The packed int4 format: byte order, rounding error, exact zeros, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.int4 import NIBBLE_MAX, dequantize, pack_nibbles, quantize, unpack_nibbles


def random_weight(seed: int, num_outputs: int = 8, num_inputs: int = 256) -> torch.Tensor:
    return torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(seed))


def test_the_first_weight_of_a_byte_is_in_its_high_nibble() -> None:
    values = torch.tensor([[10, 5, 0, 15], [1, 2, 15, 0]], dtype=torch.uint8)
    assert pack_nibbles(values).tolist() == [[0xA5, 0x0F], [0x12, 0xF0]]
    assert unpack_nibbles(torch.tensor([[0xA5]], dtype=torch.uint8)).tolist() == [[10, 5]]


@given(rows=st.integers(1, 4), pairs=st.integers(1, 9), data=st.data())
@settings(deadline=None, max_examples=60)
def test_packing_loses_nothing(rows: int, pairs: int, data: st.DataObject) -> None:
    nibble = st.integers(0, NIBBLE_MAX)
    row = st.lists(nibble, min_size=2 * pairs, max_size=2 * pairs)
    values = torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)), dtype=torch.uint8)
    packed = pack_nibbles(values)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, pairs)
    assert torch.equal(unpack_nibbles(packed), values)


def test_every_byte_survives_unpacking_and_packing() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8)[None]
    assert torch.equal(pack_nibbles(unpack_nibbles(every_byte)), every_byte)


@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([1e-3, 0.02, 1.0, 1e4]),
    shift=st.sampled_from([-3.0, -0.5, 0.0, 0.5, 3.0]),
    group_size=st.sampled_from([2, 32, 64, 256]),
)
@settings(deadline=None, max_examples=60)
def test_no_weight_moves_by_more_than_half_a_step(seed: int, size: float, shift: float, group_size: int) -> None:
    weight = (random_weight(seed) + shift) * size
    packed = quantize(weight, group_size)
    error = (dequantize(packed, torch.float32) - weight).abs().reshape(8, -1, group_size)
    assert (error <= 0.51 * packed.scales[..., None]).all()  # the scale is rounded to float16


@pytest.mark.parametrize("shift", [-9.0, 0.0, 9.0])
def test_a_step_is_a_fifteenth_of_the_range_of_its_group_and_zero(shift: float) -> None:
    groups = (random_weight(3) + shift).reshape(8, -1, 32)
    span = groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)
    scales = quantize(groups.flatten(1), 32).scales
    torch.testing.assert_close(scales, span / 15, rtol=2**-11, atol=0)
    assert torch.equal(scales, scales.half().float())


def test_values_on_the_levels_come_back_exactly() -> None:
    weight = (torch.arange(16.0) - 6).repeat(3, 2) / 4
    assert torch.equal(dequantize(quantize(weight, 16), torch.float32), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_a_zero_weight_stays_exactly_zero(dtype: torch.dtype, shift: float) -> None:
    mask = random_weight(1) > 0
    weight = torch.where(mask, 0.0, random_weight(2) + shift)
    assert (dequantize(quantize(weight, 32), dtype)[mask] == 0).all()


def test_a_matrix_of_zeros_stays_zero() -> None:
    packed = quantize(torch.zeros(4, 64), 32)
    assert (packed.scales > 0).all()
    assert torch.equal(dequantize(packed, torch.float32), torch.zeros(4, 64))


@pytest.mark.parametrize("group_size", [2, 16, 32, 64, 128, 256])
def test_shapes_and_dtypes_follow_the_group_size(group_size: int) -> None:
    packed = quantize(random_weight(0), group_size)
    assert packed.shape == (8, 256)
    assert (packed.nibbles.dtype, packed.nibbles.shape) == (torch.uint8, (8, 128))
    assert (packed.scales.dtype, packed.scales.shape) == (torch.float32, (8, 256 // group_size))
    assert (packed.zeros.dtype, packed.zeros.shape) == (torch.uint8, (8, 256 // group_size))
    assert packed.zeros.max() <= NIBBLE_MAX
    assert dequantize(packed, torch.bfloat16).dtype == torch.bfloat16


def test_an_outlier_costs_precision_in_its_own_group_only() -> None:
    weight = random_weight(4)
    clean = quantize(weight, 64)
    weight[2, 70] = 1000.0
    packed = quantize(weight, 64)
    same = torch.ones(8, 4, dtype=torch.bool)
    same[2, 1] = False
    assert torch.equal(packed.scales == clean.scales, same)
    assert torch.equal((packed.nibbles == clean.nibbles).reshape(8, 4, 32).all(-1), same)


@pytest.mark.parametrize("group_size", [-2, 0, 1, 3, 48, 512])
def test_a_group_size_that_does_not_fit_is_refused(group_size: int) -> None:
    with pytest.raises(ValueError, match=f"group_size {group_size} does not fit a weight with 256 inputs"):
        quantize(random_weight(0), group_size)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_damaged_weight_is_refused(value: float) -> None:
    weight = random_weight(0)
    weight[7, 255] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(weight, 32)


def test_a_finite_weight_never_becomes_nan() -> None:
    weight = random_weight(0)
    weight[0, 0], weight[0, 1] = 3e38, -3e38
    assert torch.isfinite(dequantize(quantize(weight, 32), torch.float32)).all()
