"""A linear layer whose weight has its columns in an order of its own, as GPTQ's act-order leaves them."""

from dataclasses import replace

import torch

from kernels.fusion import FusedLinear, Fusion, Prologue


class ReorderedLinear:
    """y = f(x) W^T where `inner` holds W with its columns sorted (`kernels.fusion.FusedLinear`).

    Norm and gate are the same for sorted inputs as for others, so they stay fused in `inner`, and only `x` is sorted.

    Args:
        inner: made with `reorder_fusion`.
        order: int64 [K], which input each column of the inner weight is multiplied with.
        fusion: of the layer as a whole.
    """

    def __init__(self, inner: FusedLinear, order: torch.Tensor, fusion: Fusion) -> None:
        self._inner = inner
        gated = fusion.prologue is Prologue.SILU_MUL
        self._columns = torch.cat([order, order + len(order)]) if gated else order

    @property
    def num_bytes(self) -> int:
        """Memory of the weight and of its order, in bytes."""
        return self._inner.num_bytes + self._columns.nbytes

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """As `FusedLinear`."""
        return self._inner(x.index_select(1, self._columns), out)


def reorder_fusion(fusion: Fusion, order: torch.Tensor) -> Fusion:
    """What is fused around the sorted weight: the norm's weight belongs to the inputs."""
    if fusion.norm_weight is None:
        return fusion
    return replace(fusion, norm_weight=fusion.norm_weight[order].contiguous())
