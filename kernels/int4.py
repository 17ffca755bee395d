"""The packed int4 format: two weights a byte, the first in the high nibble, group scales and zero points beside them.

A weight matrix [N, K] (N outputs, K inputs) is cut along K into groups; weight = (nibble - zero) * scale of its group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

NIBBLE_MAX = 15


@dataclass(frozen=True)
class PackedInt4:
    """A packed matrix [N, K].

    Attributes:
        nibbles: uint8 [N, K / 2]; weight 2i in the high half of byte i, weight 2i + 1 in the low half.
        scales: float32 [N, K / group_size], all positive; those of `quantize` are float16 numbers.
        zeros: uint8 [N, K / group_size], the nibble that stands for 0.0 (0 to 15).
        group_size: how many consecutive weights of a row share one scale.
    """

    nibbles: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K) of the matrix that is packed."""
        return self.nibbles.shape[0], self.nibbles.shape[1] * 2


@dataclass(frozen=True)
class ReorderedInt4:
    """A packed matrix [N, K] whose columns were sorted so that those of one group stand together.

    Attributes:
        packed: the sorted matrix.
        order: int64 [K], a permutation: column i of `packed` is multiplied with input order[i].
    """

    packed: PackedInt4
    order: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K) of the matrix that is packed."""
        return self.packed.shape


def pack_nibbles(values: torch.Tensor) -> torch.Tensor:
    """Pack uint8 [N, K] of values 0 to 15 into uint8 [N, K / 2]: 10 and 5 become 0xA5."""
    return (values[:, 0::2] << 4) | values[:, 1::2]


def unpack_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Undo `pack_nibbles`: uint8 [N, K / 2] to uint8 [N, K]."""
    return torch.stack([packed >> 4, packed & NIBBLE_MAX], dim=-1).flatten(1)


def swap_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Bytes uint8 with the first weight in the low nibble to bytes with it in the high one, and back."""
    return (packed << 4).bitwise_or_(packed >> 4)


def regroup(packed: PackedInt4, group_size: int) -> PackedInt4:
    """The same matrix in smaller groups, several of one scale and zero; `group_size` divides the present one."""
    times = packed.group_size // group_size
    if times == 1:
        return packed
    scales, zeros = (matrix.repeat_interleave(times, dim=1) for matrix in (packed.scales, packed.zeros))
    return PackedInt4(packed.nibbles, scales, zeros, group_size)


def stack(parts: Sequence[PackedInt4]) -> PackedInt4:
    """Matrices with equal K as one, their rows one after another, in the largest groups that fit all of them."""
    if len(parts) == 1:
        return parts[0]
    group_size = math.gcd(*(part.group_size for part in parts))
    parts = [regroup(part, group_size) for part in parts]
    return PackedInt4(
        torch.cat([part.nibbles for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat([part.zeros for part in parts]),
        group_size,
    )


def check_group_size(num_inputs: int, group_size: int) -> None:
    """Raise ValueError unless groups of `group_size` tile `num_inputs` weights and fill whole bytes."""
    if group_size < 2 or group_size % 2 or num_inputs % group_size:
        raise ValueError(
            f"group_size {group_size} does not fit a weight with {num_inputs} inputs: "
            "it must be even and divide them; try 128, 64 or 32"
        )


def quantize(weight: torch.Tensor, group_size: int) -> PackedInt4:
    """Round a float matrix [N, K] to the nearest of 16 levels between each group's minimum and maximum.

    Zero always has a level of its own, so a zero weight stays exactly zero.

    Raises:
        ValueError: the group size does not divide K, or the weight is not finite.
    """
    num_outputs, num_inputs = weight.shape
    check_group_size(num_inputs, group_size)
    groups = weight.float().reshape(num_outputs, -1, group_size)
    low, high = groups.amin(-1), groups.amax(-1)  # NaN wins in both; aminmax is eight times slower by rows
    if not (torch.isfinite(low) & torch.isfinite(high)).all():
        raise ValueError("cannot quantise a weight that holds NaN or infinity: the checkpoint is damaged")
    low, high = low.clamp(max=0), high.clamp(min=0)
    scales = round_scales(high / NIBBLE_MAX - low / NIBBLE_MAX)
    zeros = torch.round(-low / scales)
    values = (torch.round(groups / scales[..., None]) + zeros[..., None]).clamp(0, NIBBLE_MAX)
    nibbles = pack_nibbles(values.to(torch.uint8).reshape(num_outputs, num_inputs))
    return PackedInt4(nibbles, scales, zeros.to(torch.uint8), group_size)


def round_scales(scales: torch.Tensor, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """The nearest numbers of `dtype`, as float32, but none below float16's; what is too large for it stays as it is."""
    rounded = scales.to(dtype).float().clamp(min=torch.finfo(torch.float16).smallest_normal)
    return torch.where(rounded.isinf(), scales, rounded)


def dequantize(packed: PackedInt4 | ReorderedInt4, dtype: torch.dtype) -> torch.Tensor:
    """The matrix [N, K] that `packed` stands for, computed in float32 and rounded once to `dtype`."""
    if isinstance(packed, ReorderedInt4):
        return dequantize(packed.packed, dtype)[:, packed.order.argsort()]
    values = unpack_nibbles(packed.nibbles).to(torch.float32).view(len(packed.nibbles), -1, packed.group_size)
    return ((values - packed.zeros[..., None]) * packed.scales[..., None]).flatten(1).to(dtype)
