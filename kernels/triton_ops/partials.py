"""Partial sums of a linear layer, float32 [splits, tokens, outputs]: whoever reads them adds them up, in order.

That spares a kernel between two layers, and the order of the sum is the same whatever the batch.
"""

import torch
import triton
import triton.language as tl


@triton.jit
def load_sum(
    partials: tl.tensor, num_rows: int, row: tl.tensor, columns: tl.tensor, mask: tl.tensor, WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Float32, the sum over splits at `columns` of one row (int64) of partials [SPLITS, num_rows, WIDTH]."""
    total = tl.load(partials + row * WIDTH + columns, mask=mask, other=0.0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(partials + (row + split * num_rows) * WIDTH + columns, mask=mask, other=0.0)
    return total


def check_partials(partials: torch.Tensor, width: int) -> None:
    """Raise ValueError unless `partials` are contiguous float32 [splits, tokens, width] with at least one split."""
    fits = partials.dim() == 3 and partials.shape[2] == width and len(partials) > 0
    if not fits or partials.dtype != torch.float32 or not partials.is_contiguous():
        raise ValueError(
            f"partials are {partials.dtype} {tuple(partials.shape)}; they must be contiguous, torch.float32 and "
            f"[splits, tokens, {width}]"
        )
