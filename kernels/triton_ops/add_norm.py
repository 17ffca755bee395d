"""The residual stream between two linear layers: add what one has made, normalise the sum for the next.

One program per row, which it holds in registers. How it sums depends on the hidden size only, so a row's bits do not
depend on the batch.
"""

import torch
import triton
import triton.language as tl

from kernels.triton_ops.partials import check_partials, load_sum

MAX_HIDDEN_SIZE = 16384  # 32 elements a thread


@triton.jit(do_not_specialize=["num_rows"])
def add_norm_kernel(
    residual: tl.tensor, partials: tl.tensor, bias: tl.tensor, norm_weight: tl.tensor, out: tl.tensor, eps: float,
    num_rows: int, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_NORM: tl.constexpr,
) -> None:  # fmt: skip
    """One row. `num_rows` is no constant anywhere: what the compiler knew of it would decide the order of the sum."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < WIDTH
    x = tl.load(residual + row * WIDTH + columns, mask=mask, other=0.0)
    if SPLITS > 0:
        y = load_sum(partials, num_rows, row, columns, mask, WIDTH, SPLITS)
        if HAS_BIAS:
            y += tl.load(bias + columns, mask=mask, other=0.0)
        x += y
        tl.store(residual + row * WIDTH + columns, x, mask=mask)
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(x * x) / WIDTH + eps)
        normed = x * scale * tl.load(norm_weight + columns, mask=mask, other=0.0)
        tl.store(out + row * WIDTH + columns, normed.to(out.dtype.element_ty), mask=mask)


def add_norm(
    residual: torch.Tensor,
    partials: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Add a layer's output to the residual stream and normalise it (RMSNorm, Zhang and Sennrich 2019).

    Args:
        residual: float32 [tokens, hidden], contiguous; the sum is left in it.
        partials: float32 [splits, tokens, hidden]; None adds nothing.
        bias: float32 [hidden], of the layer that made the partials.
        norm_weight: float32 [hidden].
        dtype: of the result.

    Returns:
        [tokens, hidden].

    Raises:
        ValueError: the shapes do not fit each other, or a row is longer than `MAX_HIDDEN_SIZE`.
    """
    out = torch.empty_like(residual, dtype=dtype)
    _launch(residual, partials, bias, norm_weight, out, eps)
    return out


def add_partials(residual: torch.Tensor, partials: torch.Tensor, bias: torch.Tensor | None) -> None:
    """The same without the norm, for the last layer: only rows that are drawn from go on from there."""
    _launch(residual, partials, bias, None, None, 0.0)


def _launch(
    residual: torch.Tensor,
    partials: torch.Tensor | None,
    bias: torch.Tensor | None,
    norm_weight: torch.Tensor | None,
    out: torch.Tensor | None,
    eps: float,
) -> None:
    num_rows, width = residual.shape
    _check(residual, partials, width)
    block = triton.next_power_of_2(width)
    add_norm_kernel[(num_rows,)](
        residual, partials, bias, norm_weight, out, eps, num_rows,
        WIDTH=width, BLOCK=block, SPLITS=0 if partials is None else len(partials), HAS_BIAS=bias is not None,
        HAS_NORM=norm_weight is not None, num_warps=min(max(block // 512, 1), 16),
    )  # fmt: skip


def _check(residual: torch.Tensor, partials: torch.Tensor | None, width: int) -> None:
    if width > MAX_HIDDEN_SIZE:
        raise ValueError(f"a row of {width} is longer than the {MAX_HIDDEN_SIZE} that one program holds")
    if residual.dtype != torch.float32 or not residual.is_contiguous():
        raise ValueError("the residual stream must be contiguous and torch.float32")
    if partials is not None:
        check_partials(partials, width)
        if partials.shape[1] != len(residual):
            raise ValueError(f"partials of {partials.shape[1]} tokens do not fit a residual stream of {len(residual)}")
