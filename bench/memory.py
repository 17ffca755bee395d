"""The speed of memory, and of the int4 operator that reads weights from it."""

import statistics
from dataclasses import dataclass

import torch

from bench.timing import alternate
from kernels.cpu_ops.linear import CpuLinear, cpu_linear_fits
from kernels.fusion import FusedLinear, Fusion
from kernels.int4 import PackedInt4
from kernels.linear import linear

READ_BYTES = 2**28
SIZE = 4096  # of the square matrices; 16 of them are 4 times an L3 cache of 32 MiB
NUM_MATRICES = 16
REPEATS = 21


@dataclass(frozen=True)
class MemorySpeed:
    """Medians, in GB/s; `int4_over_read` is the median of neighbouring pairs, for the memory's speed changes."""

    read_gb_s: float
    int4_gb_s: float
    int4_over_read: float


def memory_speed(group_size: int, *, int8_rows: bool) -> MemorySpeed:
    """What all threads read from memory, and the packed weights that one row is multiplied with, in turn.

    Read is the sum of 256 MiB of float32; packed weights are counted with their scales and zero points.
    """
    buffer = torch.ones(READ_BYTES // 4)
    matrices = [random_linear(group_size, int8_rows=int8_rows) for _ in range(NUM_MATRICES)]
    num_bytes = sum(matrix.num_bytes for matrix in matrices)
    x, out = torch.randn(1, SIZE), torch.empty(1, SIZE)
    seconds = alternate({"read": buffer.sum, "int4": lambda: [matrix(x, out) for matrix in matrices]}, REPEATS)
    read = [READ_BYTES / value / 1e9 for value in seconds["read"]]
    int4 = [num_bytes / value / 1e9 for value in seconds["int4"]]
    ratio = statistics.median(i / r for i, r in zip(int4, read, strict=True))
    return MemorySpeed(statistics.median(read), statistics.median(int4), ratio)


def random_linear(group_size: int, *, int8_rows: bool) -> FusedLinear:
    nibbles = torch.randint(0, 256, (SIZE, SIZE // 2), dtype=torch.uint8)
    groups = (SIZE, SIZE // group_size)
    scales = (torch.rand(groups) + 0.5).half().float()  # as those of a checkpoint: the C++ operator takes no others
    packed = PackedInt4(nibbles, scales, torch.full(groups, 8, dtype=torch.uint8), group_size)
    if int8_rows and cpu_linear_fits(packed, int8_rows=True):
        return CpuLinear(packed, Fusion(), int8_rows=True)
    return linear(packed, Fusion(), torch.bfloat16, strict=True)
