"""A matrix on its way from a checkpoint to a linear layer: floats, or int4 with or without an order of its columns."""

import math
from collections.abc import Sequence
from typing import TypeGuard

import torch

from kernels.int4 import PackedInt4, ReorderedInt4, dequantize, quantize, regroup
from kernels.int4 import stack as stack_packed
from workers.config import WeightConfig

Matrix = torch.Tensor | PackedInt4 | ReorderedInt4
MAX_GROUP = 128  # the largest that all kernels take
CHUNK_WEIGHTS = 2**20  # quantised at a time, by way of several float32 copies of them


def to_device(matrix: Matrix, device: torch.device) -> Matrix:
    """The same matrix on a device."""
    if isinstance(matrix, torch.Tensor):
        return matrix.to(device)
    if isinstance(matrix, ReorderedInt4):
        return ReorderedInt4(packed_to(matrix.packed, device), matrix.order.to(device))
    return packed_to(matrix, device)


def packed_to(packed: PackedInt4, device: torch.device) -> PackedInt4:
    return PackedInt4(packed.nibbles.to(device), packed.scales.to(device), packed.zeros.to(device), packed.group_size)


def hold(matrix: Matrix, config: WeightConfig, *, keep_floats: bool) -> Matrix:
    """The matrix as `config` asks: floats packed, or packed ones turned to floats where nothing is to be quantised.

    What is packed already stays exactly as it is, whatever the group size in `config`, and with `keep_floats` floats
    stay floats too. Raises ValueError where the group size does not fit.
    """
    dtype: torch.dtype = getattr(torch, config.dtype)
    if isinstance(matrix, torch.Tensor):
        keep = keep_floats or config.quantization == "none"
        return matrix.to(dtype) if keep else quantize_in_chunks(matrix, config.group_size)
    if config.quantization == "none":
        return dequantize(matrix, dtype)
    if isinstance(matrix, ReorderedInt4):
        return ReorderedInt4(cut_groups(matrix.packed), matrix.order)
    return cut_groups(matrix)


def cut_groups(packed: PackedInt4) -> PackedInt4:
    """The same matrix in groups of at most `MAX_GROUP` weights, where they can be cut evenly."""
    group_size = math.gcd(packed.group_size, MAX_GROUP)
    return packed if packed.group_size <= MAX_GROUP or group_size < 32 else regroup(packed, group_size)


def quantize_in_chunks(matrix: torch.Tensor, group_size: int) -> PackedInt4:
    """`quantize`, some rows at a time: it computes with several float32 copies of them."""
    rows = max(1, CHUNK_WEIGHTS // matrix.shape[1])
    return stack_packed([quantize(matrix[row : row + rows], group_size) for row in range(0, len(matrix), rows)])


def stack(shards: Sequence[Matrix]) -> Matrix:
    """The shards of a packed module as one matrix, without a float between where they are packed.

    Raises ValueError where some are packed and some are not, or their columns have different orders.
    """
    if all_packed(shards):
        return stack_packed(shards)
    if all_floats(shards):
        return torch.cat(list(shards)) if len(shards) > 1 else shards[0]
    if not all_reordered(shards):
        raise ValueError("some of its shards are quantised and some are not; quantise or spare all of them")
    order = shards[0].order
    if any(not torch.equal(shard.order, order) for shard in shards):
        raise ValueError("its shards are quantised with different act-orders (g_idx), which one product cannot serve")
    return ReorderedInt4(stack_packed([shard.packed for shard in shards]), order)


def all_packed(matrices: Sequence[Matrix]) -> TypeGuard[Sequence[PackedInt4]]:
    return all(isinstance(matrix, PackedInt4) for matrix in matrices)


def all_floats(matrices: Sequence[Matrix]) -> TypeGuard[Sequence[torch.Tensor]]:
    return all(isinstance(matrix, torch.Tensor) for matrix in matrices)


def all_reordered(matrices: Sequence[Matrix]) -> TypeGuard[Sequence[ReorderedInt4]]:
    return all(isinstance(matrix, ReorderedInt4) for matrix in matrices)
