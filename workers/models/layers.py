"""The layers decoders are made of. The residual stream is float32; matrices are multiplied in the weights' dtype."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.int4_linear import Int4Weight, int4_linear
from kernels.strict_attention import TILE


@dataclass(frozen=True)
class Linear:
    """y = x W^T. `weight` is [N, K], packed or not; x of any float dtype is rounded to `dtype` first."""

    weight: torch.Tensor | Int4Weight
    dtype: torch.dtype

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply [rows, K]: returns [rows, N] in `dtype`."""
        x = x.to(self.dtype)
        return int4_linear(x, self.weight) if isinstance(self.weight, Int4Weight) else F.linear(x, self.weight)


@dataclass(frozen=True)
class Head:
    """Logits in float32: rounded to bfloat16, neighbouring logits tie and the order of summation decides the token.

    With `strict`, rows are padded to whole tiles: the BLAS sums a single row in another order than many.
    """

    weight: torch.Tensor
    strict: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply float32 [rows, hidden]: returns float32 [rows, vocab]."""
        padding = -len(x) % TILE if self.strict else 0
        return F.linear(F.pad(x, (0, 0, 0, padding)), self.weight)[: len(x)]


@dataclass(frozen=True)
class RMSNorm:
    """Root mean square normalisation (Zhang and Sennrich 2019), in float32."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise float32 [rows, hidden]."""
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class RotaryEmbedding:
    """Rotary position embedding (Su et al. 2021), halves rotated as in Hugging Face checkpoints."""

    def __init__(self, head_dim: int, max_len: int, theta: float, device: torch.device) -> None:
        frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angles = torch.outer(torch.arange(max_len, dtype=torch.float32), frequencies)
        self._cos = angles.cos().to(device)
        self._sin = angles.sin().to(device)

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate x [rows, heads, head_dim] by int64 positions [rows], in float32, returned in the dtype of x."""
        cos, sin = self._cos[positions, None], self._sin[positions, None]
        first, second = x.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
