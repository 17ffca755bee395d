"""The speed of memory, and of the int4 operator that reads weights from it."""

import statistics
import time
from collections.abc import Callable

import torch

from kernels.fusion import Fusion
from kernels.int4 import PackedInt4
from kernels.linear import linear

READ_BYTES = 2**28
SIZE = 4096  # of the square matrices; 16 of them are 8 times an L3 cache of 32 MiB
NUM_MATRICES = 16
REPEATS = 15


def read_gb_s() -> float:
    """What all threads together read from memory: the sum of 256 MiB of float32, median."""
    buffer = torch.ones(READ_BYTES // 4)
    return READ_BYTES / median_s(buffer.sum) / 1e9


def int4_gb_s(group_size: int) -> float:
    """Bytes of packed weights, scales and zero points that one row is multiplied with a second, median."""
    matrices = [linear(random_int4(group_size), Fusion(), torch.bfloat16, strict=True) for _ in range(NUM_MATRICES)]
    num_bytes = sum(matrix.num_bytes for matrix in matrices)
    x, out = torch.randn(1, SIZE), torch.empty(1, SIZE)
    return num_bytes / median_s(lambda: [matrix(x, out) for matrix in matrices]) / 1e9


def random_int4(group_size: int) -> PackedInt4:
    nibbles = torch.randint(0, 256, (SIZE, SIZE // 2), dtype=torch.uint8)
    groups = (SIZE, SIZE // group_size)
    return PackedInt4(nibbles, torch.rand(groups) + 0.5, torch.full(groups, 8, dtype=torch.uint8), group_size)


def median_s(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        begin_s = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin_s)
    return statistics.median(seconds)
