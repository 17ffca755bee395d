"""SwiGLU's gate (Shazeer 2020) on the partial sums of the layer that makes gate and up."""

import torch
import triton
import triton.language as tl

from kernels.triton_ops.partials import check_partials, load_sum

BLOCK = 1024


@triton.jit(do_not_specialize=["num_rows"])
def silu_mul_kernel(
    partials: tl.tensor, out: tl.tensor, num_rows: int, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr
) -> None:
    """`BLOCK` columns of one row of `out` [num_rows, WIDTH]."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < WIDTH
    gate = load_sum(partials, num_rows, row, columns, mask, 2 * WIDTH, SPLITS)
    up = load_sum(partials, num_rows, row, columns + WIDTH, mask, 2 * WIDTH, SPLITS)
    gated = gate * tl.sigmoid(gate) * up
    tl.store(out + row * WIDTH + columns, gated.to(out.dtype.element_ty), mask=mask)


def silu_mul(partials: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """silu(gate) * up, computed in float32.

    Args:
        partials: float32 [splits, tokens, 2 N]: N of gate, then N of up.
        dtype: of the result.

    Returns:
        [tokens, N].

    Raises:
        ValueError: `partials` are of another dtype, not contiguous, or of an odd width.
    """
    width = partials.shape[-1] // 2
    check_partials(partials, 2 * width)
    splits, num_rows, _ = partials.shape
    out = torch.empty(num_rows, width, dtype=dtype, device=partials.device)
    grid = (num_rows, triton.cdiv(width, BLOCK))
    silu_mul_kernel[grid](partials, out, num_rows, WIDTH=width, BLOCK=BLOCK, SPLITS=splits, num_warps=4)
    return out
