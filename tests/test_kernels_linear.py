"""The torch reference of a linear layer: right, and in strict mode the same bits whatever is beside a row."""

import pytest
import torch
import torch.nn.functional as F

from kernels.fusion import Fusion, Prologue
from kernels.int4 import dequantize, quantize
from kernels.int4_linear import prepare
from kernels.linear import TorchLinear, linear_in_tiles

NUM_OUTPUTS, NUM_INPUTS, NUM_ROWS = 144, 256, 103
PARTS = [(0, 1), (3, 4), (0, 2), (5, 12), (1, 17), (0, 16), (16, 33), (40, 103), (102, 103)]
NORM = torch.linspace(0.5, 1.5, NUM_INPUTS)
BIAS = torch.linspace(-1.0, 1.0, NUM_OUTPUTS)
FUSIONS = {
    "plain": Fusion(),
    "norm": Fusion(Prologue.RMS_NORM, NORM, 1e-5, BIAS),
    "gate": Fusion(Prologue.SILU_MUL, accumulate=True),
}


def matrix() -> torch.Tensor:
    return torch.randn(NUM_OUTPUTS, NUM_INPUTS, generator=torch.Generator().manual_seed(1)) / 16


def rows_for(fusion: Fusion) -> torch.Tensor:
    columns = NUM_INPUTS * (2 if fusion.prologue is Prologue.SILU_MUL else 1)
    return torch.randn(NUM_ROWS, columns, generator=torch.Generator().manual_seed(2))


def layer_of(kind: str, dtype: torch.dtype, fusion: Fusion) -> TorchLinear:
    weight = prepare(quantize(matrix(), 32), dtype, strict=True) if kind == "int4" else matrix().to(dtype)
    return TorchLinear(weight, fusion, dtype, strict=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["int4", "none"])
@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS)
def test_bits_do_not_depend_on_the_rows_beside(fusion: Fusion, kind: str, dtype: torch.dtype) -> None:
    """In every number of rows, as the BLAS takes other kernels for few of them; int4 in float32 is dequantised."""
    layer, x = layer_of(kind, dtype, fusion), rows_for(fusion)
    whole = layer(x)
    for begin, end in PARTS:
        assert torch.equal(layer(x[begin:end]), whole[begin:end]), (begin, end)
        shuffled = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(end))[: end - begin]
        assert torch.equal(layer(x[shuffled]), whole[shuffled]), (begin, end)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["int4", "none"])
def test_bits_do_not_depend_on_the_number_of_threads(kind: str, threads: int) -> None:
    layer, x, before = layer_of(kind, torch.float32, Fusion()), rows_for(Fusion()), torch.get_num_threads()
    whole = layer(x)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(layer(x), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["int4", "none"])
def test_it_is_the_product_with_what_is_around_it(kind: str) -> None:
    """Against float64; float32 sums of 256 terms stay within 1e-5 of the largest."""
    weight = (dequantize(quantize(matrix(), 32), torch.float32) if kind == "int4" else matrix()).double()
    x = rows_for(Fusion()).double()
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * NORM.double()
    doubled = rows_for(FUSIONS["gate"]).double()
    gated = doubled[:, :NUM_INPUTS] * doubled[:, :NUM_INPUTS].sigmoid() * doubled[:, NUM_INPUTS:]
    wanted = {"plain": x @ weight.T, "norm": normed @ weight.T + BIAS.double(), "gate": gated @ weight.T}
    for name, fusion in FUSIONS.items():
        y = layer_of(kind, torch.float32, fusion)(rows_for(fusion))
        assert y.dtype == torch.float32
        assert (y - wanted[name]).abs().max() <= 1e-5 * wanted[name].abs().max()


def test_the_output_is_added_to_or_overwritten() -> None:
    for accumulate in (False, True):
        layer = layer_of("none", torch.float32, Fusion(accumulate=accumulate))
        out = torch.full((NUM_ROWS, NUM_OUTPUTS), 3.0)
        y = layer(rows_for(Fusion()))
        assert layer(rows_for(Fusion()), out) is out
        assert torch.equal(out, y + 3 if accumulate else y)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 32])
def test_tiles_give_as_many_rows_as_they_get(count: int) -> None:
    x = rows_for(Fusion())[:count]
    y = linear_in_tiles(x, matrix())
    assert y.shape == (count, NUM_OUTPUTS)
    torch.testing.assert_close(y, F.linear(x, matrix()))
