"""Rows to draw from, and their parameters as tensors; for the tests of the device's sampler."""

from collections.abc import Sequence

import torch

from kernels.sampling import GOLDEN, START, SamplingTensors, signed_word
from workers.engine.sampler import choice_seed
from workers.request import SamplingParams

SEED_OF_ZERO = -START * pow(GOLDEN, -1, 2**64) % 2**64  # SplitMix64 maps 0 to 0, and this seed to 0 at position 0


def tensors_of(params: Sequence[SamplingParams], positions: Sequence[int], device: torch.device) -> SamplingTensors:
    """What the rows of requests with these parameters are drawn with."""
    return SamplingTensors(
        torch.tensor([row.temperature for row in params], dtype=torch.float32, device=device),
        torch.tensor([row.top_k for row in params], dtype=torch.int32, device=device),
        torch.tensor([row.top_p for row in params], dtype=torch.float32, device=device),
        torch.tensor([row.min_p for row in params], dtype=torch.float32, device=device),
        torch.tensor([signed_word(choice_seed(row.seed, 0)) for row in params], device=device),
        torch.tensor(positions, device=device),
    )


def row_of(params: SamplingTensors, index: int) -> SamplingTensors:
    """One row's, as a batch of one."""
    return SamplingTensors(*(values[index : index + 1] for values in params))


def mixed_params(rows: int) -> list[SamplingParams]:
    """Every combination of the four parameters in turn, each row with a seed of its own."""
    return [
        SamplingParams(
            temperature=(0.0, 0.7, 1.0, 1.6)[row % 4],
            top_k=(0, 9, -1)[row % 3],
            top_p=(1.0, 0.8, 0.95, 0.3, 1.0)[row % 5],
            min_p=(0.0, 0.05, 0.0, 0.0, 0.0, 0.3, 0.0)[row % 7],
            seed=row * 0x9E3779B97F4A7C15 - 7,
        )
        for row in range(rows)
    ]
