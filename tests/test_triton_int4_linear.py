"""The int4 product in Triton: against float64, its ranges, its gate, and the same bits whatever is beside a row.

The weights (q - zero) and their scales are exact, so only the sum's rounding is left: float32 of some hundred terms.
"""

import pytest
import torch
import torch.nn.functional as F

from kernels.int4 import PackedInt4, dequantize
from kernels.triton_ops.int4_linear import int4_gate_up, int4_linear_partials
from kernels.triton_ops.int4_weight import pack_for_triton
from kernels.triton_ops.sum_partials import sum_partials
from tests.test_triton_int4_weight import random_packed
from tests.triton_device import DEVICE, DTYPES

TOLERANCE = 1e-5  # of the largest result: Hopper cuts off where the interpreter rounds


def on_device(packed: PackedInt4) -> PackedInt4:
    tensors = (packed.nibbles, packed.scales, packed.zeros)
    nibbles, scales, zeros = (tensor.to(DEVICE) for tensor in tensors)
    return PackedInt4(nibbles, scales, zeros, packed.group_size)


def rows(count: int, num_inputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, num_inputs, generator=torch.Generator().manual_seed(count)).to(DEVICE, dtype)


def product(x: torch.Tensor, packed: PackedInt4) -> torch.Tensor:
    """float64 [M, N]."""
    return x.double() @ dequantize(packed, torch.float64).T


def assert_near(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert found.shape == wanted.shape
    assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", [1, 3, 17, 33])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_it_is_the_product(group_size: int, num_rows: int, dtype: torch.dtype) -> None:
    packed = on_device(random_packed(200, 256, group_size, num_rows))
    x = rows(num_rows, 256, dtype)
    assert_near(int4_linear_partials(x, pack_for_triton(packed)).sum(0), product(x, packed))


@pytest.mark.parametrize("group_size", [32, 128])
@pytest.mark.parametrize("num_rows", [129, 70])
def test_many_rows_in_tiles_of_two(num_rows: int, group_size: int) -> None:
    packed = on_device(random_packed(130, 128, group_size, 7))
    x = rows(num_rows, 128, DTYPES[-1])
    assert_near(int4_linear_partials(x, pack_for_triton(packed)).sum(0), product(x, packed))


@pytest.mark.parametrize("zero", [0, 8, 15])
def test_every_zero_is_exact(zero: int) -> None:
    """Rows of one 1: the results are the weights themselves, to the last bit."""
    packed = random_packed(64, 128, 64, zero)
    packed = on_device(PackedInt4(packed.nibbles, packed.scales, torch.full_like(packed.zeros, zero), 64))
    x = torch.eye(128, device=DEVICE, dtype=DTYPES[-1])[40:72]
    wanted = dequantize(packed, torch.float32).T[40:72]
    assert torch.equal(int4_linear_partials(x, pack_for_triton(packed)).sum(0), wanted)


def test_ranges_of_inputs_are_summed_apart() -> None:
    """Ten steps in four ranges: each partial is the product of its range alone."""
    packed = on_device(random_packed(64, 640, 64, 3))
    x = rows(2, 640, DTYPES[-1])
    partials = int4_linear_partials(x, pack_for_triton(packed))
    assert partials.shape == (4, 2, 64)
    weight = dequantize(packed, torch.float64)
    for split, partial in enumerate(partials):
        begin, end = (part * 10 // 4 * 64 for part in (split, split + 1))
        assert_near(partial, x[:, begin:end].double() @ weight[:, begin:end].T)


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_ranges_are_added_up_in_order_where_a_program_takes_all(
    group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As whoever reads partial sums adds them: the same bits, which another order has not."""
    weight = pack_for_triton(on_device(random_packed(130, 1280, group_size, 3)))
    x = rows(70, 1280, DTYPES[-1])
    partials = int4_linear_partials(x, weight)
    assert len(partials) > 2
    monkeypatch.setattr("kernels.triton_ops.linear_config.MANY", 1)
    (whole,) = int4_linear_partials(x, weight)
    in_order = partials[0]
    for partial in partials[1:]:
        in_order = in_order + partial
    assert torch.equal(whole, in_order)
    assert not torch.equal(whole, partials.flip(0).cumsum(0)[-1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_rows", "group_size"), [(1, 32), (3, 128), (33, 64), (65, 128)])
def test_gate_and_up(num_rows: int, group_size: int, dtype: torch.dtype) -> None:
    packed = on_device(random_packed(256, 128, group_size, 5))
    packed = PackedInt4(packed.nibbles, packed.scales / 64, packed.zeros, group_size)
    x = rows(num_rows, 128, dtype)
    gate, up = product(x, packed).chunk(2, dim=-1)
    y = int4_gate_up(x, pack_for_triton(packed))
    assert y.dtype == dtype
    assert_near(y, F.silu(gate) * up, torch.finfo(dtype).eps)


def test_gate_and_up_must_fill_tiles() -> None:
    weight = pack_for_triton(on_device(random_packed(192, 64, 64, 0)))
    with pytest.raises(ValueError, match="multiple of 128"):
        int4_gate_up(rows(1, 64, DTYPES[-1]), weight)


def test_no_rows_make_no_rows() -> None:
    weight = pack_for_triton(on_device(random_packed(128, 64, 64, 0)))
    assert int4_linear_partials(rows(0, 64, DTYPES[-1]), weight).shape == (1, 0, 128)
    assert int4_gate_up(rows(0, 64, DTYPES[-1]), weight).shape == (0, 64)


def test_other_rows_are_refused() -> None:
    weight, x = pack_for_triton(on_device(random_packed(128, 128, 64, 0))), rows(2, 128, DTYPES[-1])
    for bad in (x.float(), x[:, :64].contiguous(), x.T.contiguous().T, x[0]):
        for multiply in (int4_linear_partials, int4_gate_up):
            with pytest.raises(ValueError, match="rows must be contiguous"):
                multiply(bad, weight)


@pytest.mark.gpu
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(4096, 4096), (6144, 4096), (2048, 5632)])
def test_bfloat16_against_float64(num_outputs: int, num_inputs: int, group_size: int) -> None:
    """Hopper adds the products of 16 inputs with fewer bits than float32 has: thousands of terms stay within 1e-4."""
    packed = on_device(random_packed(num_outputs, num_inputs, group_size, 1))
    weight = pack_for_triton(packed)
    for num_rows in (1, 17, 64, 256):
        x = rows(num_rows, num_inputs, torch.bfloat16)
        assert_near(int4_linear_partials(x, weight).sum(0), product(x, packed), 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(4096, 4096), (28672, 4096)])
def test_bits_do_not_depend_on_the_rows_beside(num_outputs: int, num_inputs: int, group_size: int) -> None:
    """The many rows are whole sums of large programs, those of fewer rows are partial and of smaller ones."""
    weight = pack_for_triton(on_device(random_packed(num_outputs, num_inputs, group_size, 2)))
    x = rows(2100, num_inputs, torch.bfloat16)
    (whole,), gated = int4_linear_partials(x, weight), int4_gate_up(x, weight)
    for count in (1, 2, 7, 16, 17, 64, 65, 256, 1024):
        for begin in (0, len(x) - count):
            part = x[begin : begin + count].contiguous()
            summed = sum_partials(int4_linear_partials(part, weight))
            assert torch.equal(summed, whole[begin : begin + count]), (count, begin)
            assert torch.equal(int4_gate_up(part, weight), gated[begin : begin + count]), (count, begin)
