"""A linear layer on an NVIDIA GPU: the Triton products, and the sum of their partial results."""

import torch

from kernels.fusion import Fusion, Prologue
from kernels.int4 import PackedInt4
from kernels.linear import apply_prologue
from kernels.triton_ops.add_norm import add_norm
from kernels.triton_ops.dense_linear import dense_linear_fits, dense_linear_partials
from kernels.triton_ops.int4_linear import int4_linear_partials
from kernels.triton_ops.int4_weight import TritonInt4Weight, pack_for_triton, triton_int4_fits
from kernels.triton_ops.row_checks import DTYPES
from kernels.triton_ops.sum_partials import sum_partials


def triton_linear_fits(weight: PackedInt4 | torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether `TritonLinear` takes this weight with rows rounded to `dtype`."""
    if isinstance(weight, PackedInt4):
        return dtype in DTYPES and triton_int4_fits(weight)
    return dtype == weight.dtype and dense_linear_fits(weight)


class TritonLinear:
    """One linear layer (`kernels.fusion.FusedLinear`); a row's bits do not depend on the rows beside it.

    Args:
        weight: packed int4, or [N, K] in `dtype`; see `triton_linear_fits`.
        fusion: what to do around the product.
        dtype: bfloat16 or float16; rows are rounded to it before they are multiplied.

    Attributes:
        weight: as the kernels read it.
        fusion: as given, for who fuses more of the chain around `partials`.
        dtype: of the rows that `partials` takes.

    Raises:
        ValueError: the weight does not fit.
    """

    def __init__(self, weight: PackedInt4 | torch.Tensor, fusion: Fusion, dtype: torch.dtype) -> None:
        if not triton_linear_fits(weight, dtype):
            raise ValueError("this weight cannot be used with the Triton kernels; ask triton_linear_fits() first")
        self.weight: TritonInt4Weight | torch.Tensor = (
            pack_for_triton(weight) if isinstance(weight, PackedInt4) else weight
        )
        self.fusion = fusion
        self.dtype = dtype
        self.num_outputs, self.num_inputs = self.weight.shape

    @property
    def num_bytes(self) -> int:
        """Memory of the weight, in bytes."""
        return self.weight.num_bytes if isinstance(self.weight, TritonInt4Weight) else self.weight.nbytes

    def partials(self, x: torch.Tensor) -> torch.Tensor:
        """The product of rows [M, K] of `dtype` alone: float32 [splits, M, N], to be added in order."""
        if isinstance(self.weight, TritonInt4Weight):
            return int4_linear_partials(x, self.weight)
        return dense_linear_partials(x, self.weight)

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply float32 [M, K] ([M, 2K] for SILU_MUL): returns `out`, float32 [M, N], or a new tensor."""
        made = self.partials(self._rows(x))
        if out is None and self.fusion.bias is None and len(made) == 1:
            return made[0]  # logits, as a rule: large, and whole as they are
        accumulate = self.fusion.accumulate and out is not None
        return sum_partials(made, self.fusion.bias, out, accumulate)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """What is multiplied. The norm is not torch's: how that adds a row up may depend on how many there are."""
        norm_weight, eps = self.fusion.norm_weight, self.fusion.eps
        if self.fusion.prologue is Prologue.RMS_NORM and norm_weight is not None:
            return add_norm(x.contiguous(), None, None, norm_weight, eps, self.dtype)
        return apply_prologue(x, self.fusion).to(self.dtype).contiguous()
