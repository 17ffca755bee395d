"""The layers decoders are made of. The residual stream is float32; matrices are multiplied in the weights' dtype."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.int4_linear import Int4Weight, int4_linear
from kernels.strict_attention import TILE


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b. `weight` is [N, K], packed or not; x of any float dtype is rounded to `dtype` first.

    `bias` is float32 [N] or None, added to the product in float32.
    """

    weight: torch.Tensor | Int4Weight
    dtype: torch.dtype
    bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply [rows, K]: returns [rows, N] in `dtype`."""
        x = x.to(self.dtype)
        y = int4_linear(x, self.weight) if isinstance(self.weight, Int4Weight) else F.linear(x, self.weight)
        return y if self.bias is None else (y + self.bias).to(self.dtype)


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
        """Normalise float32 [..., N] along the last dimension; `weight` is float32 [N]."""
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
