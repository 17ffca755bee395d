"""Linear layers in C++ against the torch reference, and bits that do not depend on the rows beside a row.

Tolerance: rows are rounded to bfloat16 in both and weights are exact, so what is left is float32 summation, of terms up
to 17 times the result (a nibble is added as 128 + q).
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from kernels.cpu_ops.linear import CpuLinear, cpu_linear_fits
from kernels.cpu_ops.loader import load_library
from kernels.fusion import Fusion, Prologue
from kernels.int4 import PackedInt4, dequantize, quantize
from kernels.linear import TorchLinear, apply_prologue, head, int8_linear, linear, round_to_int8

pytestmark = pytest.mark.skipif(load_library() is None, reason="no C++ compiler, or a CPU without AVX2")

SHAPES = [(16, 32, 32), (100, 64, 16), (960, 576, 32), (272, 256, 64), (33, 512, 256), (7, 512, 512)]
ROW_COUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 95, 96, 97, 200]
NORMED = Prologue.RMS_NORM
GATED = Prologue.SILU_MUL


def packed_of(shape: tuple[int, int, int], shift: float = 0.0) -> PackedInt4:
    num_outputs, num_inputs, group_size = shape
    generator = torch.Generator().manual_seed(num_outputs)
    return quantize(torch.randn(num_outputs, num_inputs, generator=generator) * 0.05 + shift, group_size)


def matrix_of(shape: tuple[int, int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[0])
    return torch.randn(shape[:2], generator=generator).bfloat16()


def rows_of(count: int, num_inputs: int) -> torch.Tensor:
    return torch.randn(count, num_inputs, generator=torch.Generator().manual_seed(count))


def exact(x: torch.Tensor, weight: PackedInt4 | torch.Tensor, fusion: Fusion) -> torch.Tensor:
    """The product in float64, of rows rounded to bfloat16."""
    matrix = dequantize(weight, torch.float32) if isinstance(weight, PackedInt4) else weight
    product = apply_prologue(x, fusion).bfloat16().double() @ matrix.double().T
    return product if fusion.bias is None else product + fusion.bias


def assert_close(y: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    assert y.dtype == torch.float32
    assert y.shape == wanted.shape
    assert (y - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.3])  # zero points in the middle, at the low end, at the high end
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_is_the_exact_product(shape: tuple[int, int, int], shift: float) -> None:
    packed, x = packed_of(shape, shift), rows_of(11, shape[1])
    assert_close(CpuLinear(packed, Fusion())(x), exact(x, packed, Fusion()), 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_the_exact_product(shape: tuple[int, int, int]) -> None:
    matrix, x = matrix_of(shape), rows_of(11, shape[1])
    assert_close(CpuLinear(matrix, Fusion())(x), exact(x, matrix, Fusion()), 1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_rows_are_the_exact_product_of_what_they_are_rounded_to(shape: tuple[int, int, int], shift: float) -> None:
    packed, x = packed_of(shape, shift), rows_of(11, shape[1])
    if shape[2] > 256:
        with pytest.raises(ValueError, match="cpu_linear_fits"):
            CpuLinear(packed, Fusion(), int8_rows=True)
        return
    x[3, : shape[2]] = 0  # a group that has no scale
    rounded = round_to_int8(x, shape[2]).double()
    assert 1e-3 < (rounded - x).norm() / x.norm() < 1e-2
    y = CpuLinear(packed, Fusion(), int8_rows=True)(x)
    # Where a value lies half way between two levels, the last bit of the scale decides.
    assert_close(y, rounded @ dequantize(packed, torch.float32).double().T, 2e-4)
    reference = int8_linear(replace(packed, scales=packed.scales * 2.0**30), Fusion(), strict=True)
    assert isinstance(reference, TorchLinear)
    assert_close(reference(x) / 2.0**30, y.double(), 2e-4)


@pytest.mark.parametrize("kind", ["int4", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", SHAPES[:5])
@pytest.mark.parametrize("prologue", list(Prologue))
def test_bits_do_not_depend_on_the_rows_beside(shape: tuple[int, int, int], prologue: Prologue, kind: str) -> None:
    norm = torch.rand(shape[1]) + 0.5 if prologue is NORMED else None
    weight = matrix_of(shape) if kind == "bfloat16" else packed_of(shape)
    layer = CpuLinear(weight, Fusion(prologue, norm, 1e-5), int8_rows=kind == "int8")
    x = rows_of(max(ROW_COUNTS) + 3, shape[1] * (2 if prologue is GATED else 1))
    whole = layer(x)
    for count in ROW_COUNTS:
        for first in (0, 3):
            part = x[first : first + count].contiguous()
            assert torch.equal(layer(part), whole[first : first + count]), (count, first)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_bits_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    layers = [CpuLinear(packed_of(SHAPES[2]), Fusion()), CpuLinear(matrix_of(SHAPES[2]), Fusion())]
    x, before = rows_of(130, 576), torch.get_num_threads()
    whole = [layer(x) for layer in layers]
    torch.set_num_threads(threads)
    try:
        assert all(torch.equal(layer(x), y) for layer, y in zip(layers, whole, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_rows", [1, 9, 100])
def test_norm_gate_bias_and_sum_are_those_of_the_reference(num_rows: int) -> None:
    shape = (100, 64, 16)
    packed, generator = packed_of(shape), torch.Generator().manual_seed(1)
    norm, bias = torch.rand(64, generator=generator) + 0.5, torch.randn(100, generator=generator)
    for fusion in (
        Fusion(NORMED, norm, 1e-5, bias),
        Fusion(NORMED, norm, 0.5, bias, accumulate=True),
        Fusion(GATED, accumulate=True),
        Fusion(bias=bias),
    ):
        x = rows_of(num_rows, 128 if fusion.prologue is GATED else 64) * 3
        out = torch.randn(num_rows, 100, generator=generator)
        wanted = exact(x, packed, fusion) + (out if fusion.accumulate else 0)
        reference = TorchLinear(dequantize(packed, torch.float32), fusion, torch.float32, strict=True)
        # A norm or an exponential that differs in its last bit may round to another bfloat16.
        for layer in (CpuLinear(packed, fusion), reference):
            result = out.clone()
            assert layer(x, result) is result
            assert_close(result, wanted, 4e-3)
        assert_close(CpuLinear(packed, fusion)(x, out.clone()), wanted, 1e-3)


def test_the_gate_is_silu_over_its_whole_range() -> None:
    """Through an identity: what comes out is silu(gate), rounded to bfloat16."""
    gate = torch.cat([torch.linspace(-120, 120, 4000), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 88.9, -88.9])])
    gate = F.pad(gate, (0, -len(gate) % 16)).view(-1, 16)
    identity = CpuLinear(torch.eye(16).bfloat16(), Fusion(GATED))
    y = identity(torch.cat([gate, torch.ones_like(gate)], dim=1))
    torch.testing.assert_close(y, F.silu(gate), rtol=2**-8, atol=1e-30)


def test_infinite_and_missing_numbers_are_not_hidden() -> None:
    layer = CpuLinear(matrix_of((16, 32, 32)), Fusion())
    x = rows_of(3, 32)
    x[1, 5] = float("nan")
    y = layer(x)
    assert y[1].isnan().all()
    assert not y[[0, 2]].isnan().any()


def test_what_the_operators_do_not_take_goes_to_torch() -> None:
    odd, huge = packed_of((8, 6, 2)), packed_of((16, 32, 32))
    huge.scales[0, 0] = 1e5
    for weight in (odd, huge, matrix_of((16, 6, 2)), matrix_of((16, 32, 2)).float()):
        assert not cpu_linear_fits(weight)
        with pytest.raises(ValueError, match="cpu_linear_fits"):
            CpuLinear(weight, Fusion())
        assert isinstance(linear(weight, Fusion(), torch.bfloat16, strict=True), TorchLinear)
    assert isinstance(linear(packed_of((16, 32, 32)), Fusion(), torch.bfloat16, strict=True), CpuLinear)
    assert isinstance(linear(packed_of((16, 32, 32)), Fusion(), torch.float32, strict=True), TorchLinear)


def test_a_head_gives_the_logits_of_the_reference() -> None:
    matrix, x = matrix_of((100, 64, 16)), rows_of(3, 64)
    fusion = Fusion(NORMED, torch.ones(64), 1e-5)
    assert isinstance(head(matrix, fusion, strict=True), CpuLinear)
    assert isinstance(head(matrix.float(), fusion, strict=True), TorchLinear)
    assert_close(head(matrix, fusion, strict=True)(x), exact(x, matrix, fusion), 1e-3)
    assert_close(head(matrix.float(), fusion, strict=True)(x), exact(x, matrix, fusion), 4e-3)


@pytest.mark.parametrize(
    ("x", "out", "message"),
    [
        (torch.zeros(3, 31), None, r"rows must be .*\[rows, 32\], not torch.float32 \(3, 31\)"),
        (torch.zeros(3, 32).double(), None, "not torch.float64"),
        (torch.zeros(32, 3).T, None, "contiguous"),
        (torch.zeros(3, 32), torch.zeros(3, 15), r"out must be .*\(3, 16\), not torch.float32 \(3, 15\)"),
        (torch.zeros(3, 32), torch.zeros(2, 16), r"\(2, 16\)"),
        (torch.zeros(3, 32), torch.zeros(3, 16).half(), "torch.float16"),
        (torch.zeros(3, 32), torch.zeros(16, 3).T, "contiguous"),
    ],
)
def test_wrong_tensors_are_refused_before_they_are_read(
    x: torch.Tensor, out: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CpuLinear(packed_of((16, 32, 32)), Fusion())(x, out)


@pytest.mark.parametrize(
    "fusion",
    [
        Fusion(NORMED, torch.ones(31)),
        Fusion(NORMED, torch.ones(32).double()),
        Fusion(bias=torch.ones(15)),
        Fusion(bias=torch.ones(32)[::2]),
    ],
)
def test_wrong_vectors_are_refused(fusion: Fusion) -> None:
    with pytest.raises(ValueError, match="expected a contiguous float32"):
        CpuLinear(packed_of((16, 32, 32)), fusion)


def test_no_rows_give_no_rows() -> None:
    assert CpuLinear(packed_of((16, 32, 32)), Fusion())(torch.zeros(0, 32)).shape == (0, 16)


def test_memory_is_half_a_byte_a_weight_and_four_a_group() -> None:
    layer = CpuLinear(packed_of((64, 128, 32)), Fusion())
    assert layer.num_bytes == 64 * 128 // 2 + 64 * 4 * 4
