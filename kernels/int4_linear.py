"""y = x W^T for a packed int4 W: torch's own int4 operator on a CPU, dequantise and multiply elsewhere.

Two numeric modes. In `strict` the operator computes every row count: its order of accumulation depends on the weight
alone, so a row's bits are the same whatever it is batched with (tests/test_kernels_int4_linear.py). In `fast` many rows
are dequantised to bfloat16 and multiplied by torch's GEMM, whose bits depend on the batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.int4 import PackedInt4, dequantize, unpack_nibbles

# bfloat16, two Zen 4 cores, operator time over dequantise-and-multiply time (docs/measurements.md):
# [1536 x 256] 0.04 at 16 rows, 0.80 at 256, 1.80 at 512; [2048 x 2048] 0.06 at 16, 1.19 at 256, 1.75 at 512.
FAST_MIN_ROWS = 256
OPERATOR_GROUP_SIZES = (32, 64, 128, 256)


@dataclass(frozen=True)
class OperatorInt4:
    """A packed weight laid out for `torch._weight_int4pack_mm_for_cpu` (private, but stable since torch 2.6).

    Attributes:
        weight: uint8 [N, K / 2] in the operator's own order, which depends on the CPU.
        scales_and_zeros: bfloat16 [K / group_size, N, 2].
        group_size: how many consecutive weights of a row share one scale.
    """

    weight: torch.Tensor
    scales_and_zeros: torch.Tensor
    group_size: int


@dataclass(frozen=True)
class Int4Weight:
    """A matrix in the layouts its device and mode need; at least one of the two is there."""

    operator: OperatorInt4 | None
    packed: PackedInt4 | None

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        held = [self.operator.weight, self.operator.scales_and_zeros] if self.operator else []
        held += [self.packed.nibbles, self.packed.scales, self.packed.zeros] if self.packed else []
        return sum(tensor.nbytes for tensor in held)


def prepare(packed: PackedInt4, dtype: torch.dtype, *, strict: bool) -> Int4Weight:
    """Lay a packed matrix out once, at load, for activations of `dtype` on the device it lies on."""
    if not operator_fits(packed, dtype):
        return Int4Weight(None, packed)
    return Int4Weight(to_operator_layout(packed), None if strict else packed)


def operator_fits(packed: PackedInt4, dtype: torch.dtype) -> bool:
    """Whether torch's operator takes this weight; in float32 it is not vectorised (12 times slower), so never there."""
    on_cpu = packed.nibbles.device.type == "cpu" and dtype == torch.bfloat16
    return on_cpu and packed.shape[0] % 16 == 0 and packed.group_size in OPERATOR_GROUP_SIZES


def to_operator_layout(packed: PackedInt4) -> OperatorInt4:
    weight = torch._convert_weight_to_int4pack_for_cpu(unpack_nibbles(packed.nibbles).to(torch.int32), 1)
    # The operator computes (nibble - 8) * scale + zero.
    zeros = (8 - packed.zeros.float()) * packed.scales
    scales_and_zeros = torch.stack([packed.scales.T, zeros.T], dim=-1).to(torch.bfloat16).contiguous()
    return OperatorInt4(weight, scales_and_zeros, packed.group_size)


def int4_linear(x: torch.Tensor, weight: Int4Weight) -> torch.Tensor:
    """Multiply x [rows, K] by a packed [N, K]: returns [rows, N] in the dtype of x."""
    if weight.packed is not None and (weight.operator is None or x.shape[0] >= FAST_MIN_ROWS):
        return int4_linear_reference(x, weight.packed)
    if weight.operator is None:
        raise ValueError("an Int4Weight needs at least one layout; make it with prepare()")
    layout = weight.operator
    return torch._weight_int4pack_mm_for_cpu(x.contiguous(), layout.weight, layout.group_size, layout.scales_and_zeros)


def int4_linear_reference(x: torch.Tensor, packed: PackedInt4) -> torch.Tensor:
    """Dequantise the whole matrix to the dtype of x, then multiply: right anywhere, and fast for many rows."""
    return F.linear(x, dequantize(packed, x.dtype))
