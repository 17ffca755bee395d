"""The linear layers of Llama 3 and TinyLlama: packed int4 against torch's bfloat16, and the output head."""

import torch
import torch.nn.functional as F

from bench.kernels.case import KernelCase, Launch
from kernels.triton_ops.dense_linear import dense_linear_partials
from kernels.triton_ops.int4_linear import int4_gate_up, int4_linear_partials
from kernels.triton_ops.int4_weight import UNIT, UNIT_BYTES, TritonInt4Weight
from kernels.triton_ops.linear_config import dense_config, int4_config
from kernels.triton_ops.sum_partials import sum_partials

# (N, K). 8B: qkv, o, down; 70B: qkv, o, down; TinyLlama: qkv, o, gate and up, down.
SHAPES_8B = ((6144, 4096), (4096, 4096), (4096, 14336))
SHAPES_70B = ((10240, 8192), (8192, 8192), (8192, 28672))
SHAPES_TINY = ((2560, 2048), (2048, 2048), (11264, 2048), (2048, 5632))
GATE_UP = ((28672, 4096), (57344, 8192))
HEAD = (128256, 4096)
ROWS = (1, 16, 64, 256)


def cases() -> list[KernelCase]:
    """What a GPU is timed with."""
    linear = [int4_case(shape, rows, 128) for shape in SHAPES_8B + SHAPES_70B + SHAPES_TINY for rows in ROWS]
    gate_up = [gate_up_case(shape, rows, 128) for shape in GATE_UP for rows in ROWS]
    groups = [int4_case((4096, 4096), 16, group) for group in (32, 64)]
    head = [dense_case(HEAD, rows) for rows in ROWS[:3]]
    return [*linear, *gate_up, *groups, *head, sum_case(4, 1, 4096), sum_case(4, 64, 4096)]


def compiled_cases() -> list[KernelCase]:
    """One for every way a kernel is compiled that differs in more than numbers."""
    linear = [int4_case((4096, 4096), rows, 128) for rows in (1, 32, 64, 256, 2048)]
    groups = [int4_case((4096, 4096), rows, group) for rows, group in ((1, 32), (1, 64), (256, 32))]
    gate_up = [gate_up_case((28672, 4096), rows, 128) for rows in (1, 64, 256, 2048)]
    deep = [int4_case((4096, 14336), rows, 128) for rows in (1, 64)]
    return [*linear, *deep, *groups, *gate_up, dense_case(HEAD, 1), dense_case(HEAD, 64), sum_case(4, 64, 4096)]


def int4_case(shape: tuple[int, int], rows: int, group_size: int) -> KernelCase:
    """The product and its partial sums, which whatever comes next adds up."""
    splits = int4_config(shape, max(UNIT, group_size), rows).num_partials

    def make(device: torch.device) -> Launch:
        x, weight = random(rows, shape[1], device), random_weight(shape, group_size, device)
        return lambda: int4_linear_partials(x, weight)

    return KernelCase(
        f"int4_linear {shape[0]}x{shape[1]} g{group_size} M={rows}",
        make,
        num_bytes=int4_bytes(shape, group_size) + rows * shape[1] * 2 + splits * rows * shape[0] * 4,
        num_flops=2 * rows * shape[0] * shape[1],
        baselines={"torch bf16": lambda device: torch_linear(shape, rows, device)},
    )


def gate_up_case(shape: tuple[int, int], rows: int, group_size: int) -> KernelCase:
    """Gate and up with their product; torch's is the linear layer alone."""

    def make(device: torch.device) -> Launch:
        x, weight = random(rows, shape[1], device), random_weight(shape, group_size, device)
        return lambda: int4_gate_up(x, weight)

    return KernelCase(
        f"int4_gate_up {shape[0]}x{shape[1]} g{group_size} M={rows}",
        make,
        num_bytes=int4_bytes(shape, group_size) + rows * shape[1] * 2 + rows * shape[0],
        num_flops=2 * rows * shape[0] * shape[1],
        baselines={"torch bf16": lambda device: torch_linear(shape, rows, device)},
    )


def dense_case(shape: tuple[int, int], rows: int) -> KernelCase:
    """A weight in bfloat16, float32 results."""
    splits = dense_config(shape, 64, rows).num_partials

    def make(device: torch.device) -> Launch:
        x, weight = random(rows, shape[1], device), random(*shape, device)
        return lambda: dense_linear_partials(x, weight)

    return KernelCase(
        f"dense_linear {shape[0]}x{shape[1]} M={rows}",
        make,
        num_bytes=(shape[0] + rows) * shape[1] * 2 + splits * rows * shape[0] * 4,
        num_flops=2 * rows * shape[0] * shape[1],
        baselines={"torch bf16": lambda device: torch_linear(shape, rows, device)},
    )


def sum_case(splits: int, rows: int, num_outputs: int) -> KernelCase:
    """The sum of partial results onto what is there."""

    def make(device: torch.device) -> Launch:
        partials = torch.randn(splits, rows, num_outputs, device=device)
        out = torch.zeros(rows, num_outputs, device=device)
        return lambda: sum_partials(partials, None, out, accumulate=True)

    return KernelCase(
        f"sum_partials {splits}x{rows}x{num_outputs}",
        make,
        num_bytes=(splits + 2) * rows * num_outputs * 4,
        num_flops=splits * rows * num_outputs,
        baselines={"torch": lambda device: torch_sum(splits, rows, num_outputs, device)},
    )


def int4_bytes(shape: tuple[int, int], group_size: int) -> int:
    """Half a byte a weight, and four a group."""
    return shape[0] * shape[1] // 2 + shape[0] * shape[1] // group_size * 4


def random(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """bfloat16 of a standard normal; on a CPU, where nothing is run, whatever lies there."""
    if device.type == "cpu":
        return torch.empty(rows, columns, dtype=torch.bfloat16)
    return torch.randn(rows, columns, device=device, dtype=torch.bfloat16)


def random_weight(shape: tuple[int, int], group_size: int, device: torch.device) -> TritonInt4Weight:
    """Random nibbles, scale 1/64 and zero 8 throughout; on a CPU, where nothing is run, whatever lies there."""
    num_outputs, num_inputs = shape
    words = torch.empty(num_outputs // UNIT, num_inputs // UNIT, UNIT_BYTES, dtype=torch.uint8, device=device)
    if device.type != "cpu":
        words.random_(0, 256)
    scales = torch.full((num_inputs // group_size, num_outputs), 1 / 64, device=device)
    return TritonInt4Weight(words, scales.view(torch.int32) | 8, num_outputs, num_inputs, group_size)


def torch_linear(shape: tuple[int, int], rows: int, device: torch.device) -> Launch:
    """torch's product of bfloat16 matrices."""
    x, weight = random(rows, shape[1], device), random(*shape, device)
    return lambda: F.linear(x, weight)


def torch_sum(splits: int, rows: int, num_outputs: int, device: torch.device) -> Launch:
    """torch's sum onto what is there."""
    partials = torch.randn(splits, rows, num_outputs, device=device)
    out = torch.zeros(rows, num_outputs, device=device)
    return lambda: out.add_(partials.sum(0))
