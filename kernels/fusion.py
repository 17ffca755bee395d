"""What is fused around the product of a linear layer."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch


class Prologue(IntEnum):
    """What is done to the rows first (the numbers are those of rows.h)."""

    NONE = 0
    RMS_NORM = 1
    SILU_MUL = 2


@dataclass(frozen=True)
class Fusion:
    """Around y = x W^T with W [N, K].

    Attributes:
        prologue: RMS_NORM normalises the rows with `norm_weight` and `eps`; SILU_MUL takes rows [2K], gate and up, to
            silu(gate) * up.
        norm_weight: float32 [K].
        bias: float32 [N], added to the product.
        accumulate: add to what the output holds, as a residual connection does.
    """

    prologue: Prologue = Prologue.NONE
    norm_weight: torch.Tensor | None = None
    eps: float = 0.0
    bias: torch.Tensor | None = None
    accumulate: bool = False


class FusedLinear(Protocol):
    """y = f(x) W^T (+ bias) (+ what out holds); f and the rest as its `Fusion` says."""

    @property
    def num_bytes(self) -> int:
        """Memory of the weight, in bytes."""

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply float32 [rows, K] ([rows, 2K] for SILU_MUL): returns `out`, float32 [rows, N], or a new tensor."""
