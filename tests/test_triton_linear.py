"""A linear layer in Triton with what is around it: against the torch reference, and the sum of partial results."""

import pytest
import torch

from kernels.fusion import FusedLinear, Fusion, Prologue
from kernels.int4 import PackedInt4, dequantize, quantize
from kernels.linear import TorchLinear, head, linear
from kernels.triton_ops.linear import TritonLinear, triton_linear_fits
from kernels.triton_ops.sum_partials import sum_partials
from tests.triton_device import DEVICE, DTYPES

NUM_OUTPUTS, NUM_INPUTS = 144, 256
DTYPE = DTYPES[-1]
FUSIONS = {
    "plain": Fusion(),
    "norm": Fusion(
        Prologue.RMS_NORM,
        torch.linspace(0.5, 1.5, NUM_INPUTS, device=DEVICE),
        1e-5,
        torch.linspace(-1.0, 1.0, NUM_OUTPUTS, device=DEVICE),
    ),
    "gate": Fusion(Prologue.SILU_MUL, accumulate=True),
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def layers(kind: str, fusion: Fusion) -> tuple[TritonLinear, TorchLinear]:
    """The layer, and the reference on the same weight in float32 after the same rounding of rows."""
    matrix = random(NUM_OUTPUTS, NUM_INPUTS, seed=1) / 16
    weight = quantize(matrix, 32) if kind == "int4" else matrix.to(DTYPE)
    plain = dequantize(weight, torch.float32) if isinstance(weight, PackedInt4) else weight.float()
    return TritonLinear(weight, fusion, DTYPE), TorchLinear(plain, fusion, torch.float32, strict=False)


@pytest.mark.parametrize("num_rows", [1, 18])
@pytest.mark.parametrize("kind", ["int4", "none"])
@pytest.mark.parametrize("name", FUSIONS)
def test_it_is_the_reference(name: str, kind: str, num_rows: int) -> None:
    """Rows are rounded to the weight's dtype after the norm or gate: half a unit in the last place of each."""
    fusion = FUSIONS[name]
    layer, reference = layers(kind, fusion)
    x = random(num_rows, NUM_INPUTS * (2 if fusion.prologue is Prologue.SILU_MUL else 1), seed=num_rows)
    wanted = reference(x)
    y = layer(x)
    assert y.dtype == torch.float32
    assert (y - wanted).abs().max() <= 2 * torch.finfo(DTYPE).eps * wanted.abs().max()
    out = torch.full_like(y, 3.0)
    assert layer(x, out) is out
    torch.testing.assert_close(out, y + 3 if fusion.accumulate else y)


def test_a_whole_product_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are large. One in ranges, with a bias, or onto what is there is added up."""
    weight, x = random(10, 64).to(DTYPE), random(3, 64)
    wanted = x.to(DTYPE).double() @ weight.double().T
    monkeypatch.setattr("kernels.triton_ops.linear.sum_partials", lambda *args: None)
    whole, biased = (TritonLinear(weight, Fusion(bias=bias), DTYPE) for bias in (None, random(10)))
    torch.testing.assert_close(whole(x).double(), wanted, rtol=1e-4, atol=1e-4)
    assert whole(x[:0]).shape == (0, 10)
    assert whole(x, torch.zeros(3, 10, device=DEVICE)) is None
    assert biased(x) is None
    assert layers("none", Fusion())[0](random(3, NUM_INPUTS)) is None


def test_it_says_what_it_holds() -> None:
    layer, _ = layers("int4", Fusion())
    fused: FusedLinear = layer
    assert (layer.num_outputs, layer.num_inputs) == (NUM_OUTPUTS, NUM_INPUTS)
    assert fused.num_bytes == 256 * NUM_INPUTS // 2 + 256 * (NUM_INPUTS // 32) * 4  # padded to 256 outputs
    assert layer.partials(random(3, NUM_INPUTS).to(DTYPE)).shape[1:] == (3, NUM_OUTPUTS)
    assert layers("none", Fusion())[0].num_bytes == NUM_OUTPUTS * NUM_INPUTS * 2


def test_what_does_not_fit_is_refused() -> None:
    matrix = random(64, 128)
    for weight, dtype in ((matrix, torch.float32), (matrix.half(), torch.bfloat16), (quantize(matrix, 16), DTYPE)):
        assert not triton_linear_fits(weight, dtype)
        with pytest.raises(ValueError, match="cannot be used with the Triton kernels"):
            TritonLinear(weight, Fusion(), dtype)
    assert not triton_linear_fits(quantize(matrix, 32), torch.float32)


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_partials_are_added_in_order(splits: int) -> None:
    """To the bit: each is some 2^12 times the one before, so that another order makes another sum."""
    partials = random(splits, 3, 1100, seed=splits) * 2.0 ** torch.arange(splits, device=DEVICE)[:, None, None].mul(12)
    bias, out = random(1100), random(3, 1100, seed=9)
    wanted = partials[0].clone()
    for partial in partials[1:]:
        wanted += partial
    assert torch.equal(sum_partials(partials), wanted)
    assert torch.equal(sum_partials(partials, bias), wanted + bias)
    expected = (wanted + bias) + out
    assert sum_partials(partials, bias, out, accumulate=True) is out
    assert torch.equal(out, expected)


def test_other_tensors_are_refused() -> None:
    partials = random(2, 3, 8)
    for bad in ({"accumulate": True}, {"bias": random(7)}, {"out": random(3, 8).double()}, {"out": random(8, 3).T}):
        with pytest.raises(ValueError, match=r"accumulate|must be contiguous float32"):
            sum_partials(partials, **bad)
    with pytest.raises(ValueError, match="partials must be contiguous float32"):
        sum_partials(partials.half())


@pytest.mark.gpu
def test_a_weight_on_the_gpu_is_multiplied_in_triton() -> None:
    packed = quantize(random(64, 128), 32)
    assert isinstance(linear(packed, Fusion(), torch.bfloat16, strict=True), TritonLinear)
    assert isinstance(linear(packed, Fusion(), torch.float32, strict=True), TorchLinear)
    assert isinstance(head(random(64, 128).bfloat16(), Fusion(), strict=True), TritonLinear)
    assert isinstance(head(random(64, 128), Fusion(), strict=True), TorchLinear)


@pytest.mark.gpu
@pytest.mark.parametrize("num_inputs", [576, 2048])
def test_logits_of_a_row_do_not_depend_on_the_batch(num_inputs: int) -> None:
    """The norm before the product included."""
    fusion = Fusion(Prologue.RMS_NORM, random(num_inputs, seed=2), 1e-5)
    layer = TritonLinear(random(16000, num_inputs, seed=3).bfloat16(), fusion, torch.bfloat16)
    x = random(300, num_inputs, seed=4)
    together = layer(x)
    for size in (1, 2, 7, 16, 17, 65, 256):
        assert torch.equal(layer(x[:size]), together[:size]), size
