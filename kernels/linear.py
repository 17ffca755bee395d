"""A linear layer with what stands around it fused in: norm or gate in front, bias and residual sum behind.

`TorchLinear` is the reference; `kernels.cpu_ops.linear.CpuLinear` does the same in C++, on a GPU
`kernels.triton_ops.linear.TritonLinear` in Triton.
"""

import torch
import torch.nn.functional as F

from kernels.cpu_ops.linear import CpuLinear, cpu_linear_fits
from kernels.fusion import FusedLinear, Fusion, Prologue
from kernels.int4 import PackedInt4, dequantize
from kernels.int4_linear import Int4Weight, int4_linear, prepare
from kernels.strict_attention import TILE


class TorchLinear:
    """The reference, on any device.

    Args:
        weight: [N, K], packed or not.
        fusion: what to do around the product.
        dtype: rows are rounded to it before they are multiplied.
        strict: a row's bits must not depend on the rows beside it.
        int8_group: round the rows to int8 first, so many values by one scale; 0 for not.
    """

    def __init__(
        self,
        weight: torch.Tensor | Int4Weight,
        fusion: Fusion,
        dtype: torch.dtype,
        *,
        strict: bool,
        int8_group: int = 0,
    ) -> None:
        self._weight = weight
        self._fusion = fusion
        self._dtype = dtype
        self._strict = strict
        self._int8_group = int8_group

    @property
    def num_bytes(self) -> int:
        """Memory of the weight, in bytes."""
        return self._weight.num_bytes if isinstance(self._weight, Int4Weight) else self._weight.nbytes

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        rows = apply_prologue(x, self._fusion)
        if self._int8_group:
            rows = round_to_int8(rows, self._int8_group)
        y = self._multiply(rows.to(self._dtype)).float()
        if self._fusion.bias is not None:
            y = y + self._fusion.bias
        if out is None:
            return y
        return out.add_(y) if self._fusion.accumulate else out.copy_(y)

    def _multiply(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(self._weight, Int4Weight):
            return linear_in_tiles(x, self._weight) if self._strict else F.linear(x, self._weight)
        if self._strict and self._weight.operator is None and self._weight.packed is not None:
            return linear_in_tiles(x, dequantize(self._weight.packed, x.dtype))
        return int4_linear(x, self._weight)


def linear_in_tiles(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T, always `TILE` rows at a time: for another number of rows the BLAS sums in another order."""
    tiles = F.pad(x, (0, 0, 0, -len(x) % TILE))
    return torch.cat([F.linear(tile, weight) for tile in torch.split(tiles, TILE)])[: len(x)]


def round_to_int8(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """float32 [rows, K], each group rounded to the nearest of 255 levels between plus and minus its largest value."""
    groups = x.reshape(len(x), -1, group_size)
    largest = groups.abs().amax(-1, keepdim=True)
    levels = torch.round(groups * torch.where(largest > 0, 127 / largest, 0.0))
    return (levels * (largest / 127)).flatten(1)


def apply_prologue(x: torch.Tensor, fusion: Fusion) -> torch.Tensor:
    """RMS normalisation (Zhang and Sennrich 2019) or SwiGLU's gate (Shazeer 2020), in float32."""
    if fusion.prologue is Prologue.RMS_NORM:
        return F.rms_norm(x, x.shape[-1:], fusion.norm_weight, fusion.eps)
    if fusion.prologue is Prologue.SILU_MUL:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    return x


def linear(weight: PackedInt4 | torch.Tensor, fusion: Fusion, dtype: torch.dtype, *, strict: bool) -> FusedLinear:
    """The fastest implementation for this weight, on the device it lies on."""
    if (on_gpu := triton_linear(weight, fusion, dtype)) is not None:
        return on_gpu
    if dtype == torch.bfloat16 and cpu_linear_fits(weight):
        return CpuLinear(weight, fusion)
    held = prepare(weight, dtype, strict=strict) if isinstance(weight, PackedInt4) else weight
    return TorchLinear(held, fusion, dtype, strict=strict)


def triton_linear(weight: PackedInt4 | torch.Tensor, fusion: Fusion, dtype: torch.dtype) -> FusedLinear | None:
    """In Triton, or None where the weight does not lie on a GPU or does not fit. Its bits never depend on the batch."""
    device = weight.nibbles.device if isinstance(weight, PackedInt4) else weight.device
    if device.type != "cuda":
        return None
    from kernels.triton_ops.linear import TritonLinear, triton_linear_fits  # needs Triton, which a CPU has not

    return TritonLinear(weight, fusion, dtype) if triton_linear_fits(weight, dtype) else None


def int8_linear(weight: PackedInt4, fusion: Fusion, *, strict: bool) -> FusedLinear:
    """The same with rows rounded to int8, each group of the weight's size by a scale of its own."""
    if cpu_linear_fits(weight, int8_rows=True):
        return CpuLinear(weight, fusion, int8_rows=True)
    held = prepare(weight, torch.float32, strict=strict)
    return TorchLinear(held, fusion, torch.float32, strict=strict, int8_group=weight.group_size)


def head(weight: torch.Tensor, fusion: Fusion, *, strict: bool) -> FusedLinear:
    """The layer that makes logits, in float32: rounded to bfloat16, neighbouring logits tie and the order of summation
    decides the token. In Triton and C++ a bfloat16 weight is read as it is; torch needs it in float32 for that."""
    if (on_gpu := triton_linear(weight, fusion, weight.dtype)) is not None:
        return on_gpu
    if cpu_linear_fits(weight):
        return CpuLinear(weight, fusion)
    return TorchLinear(weight.float(), fusion, torch.float32, strict=strict)
