"""Adding up the partial sums of a linear layer, in order."""

import torch
import triton
import triton.language as tl

COLUMNS = 1024  # of one program


@triton.jit(do_not_specialize=["num_rows"])
def sum_kernel(
    partials: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: int,
    num_outputs: int,
    SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Grid (rows, num_outputs / COLUMNS)."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns < num_outputs
    row = tl.program_id(0).to(tl.int64)
    total = tl.load(partials + row * num_outputs + columns, mask=mask)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(partials + (row + split * num_rows) * num_outputs + columns, mask=mask)
    if HAS_BIAS:
        total += tl.load(bias + columns, mask=mask)
    if ACCUMULATE:
        total += tl.load(out + row * num_outputs + columns, mask=mask)
    tl.store(out + row * num_outputs + columns, total, mask=mask)


def sum_partials(
    partials: torch.Tensor, bias: torch.Tensor | None = None, out: torch.Tensor | None = None, accumulate: bool = False
) -> torch.Tensor:
    """partials[0] + partials[1] + ... (+ bias) (+ what out holds), in this order, in one launch.

    Args:
        partials: float32 [splits, M, N], contiguous.
        bias: float32 [N].
        out: float32 [M, N], contiguous, or None for a new one.
        accumulate: add to what `out` holds; needs one.

    Returns:
        `out`.

    Raises:
        ValueError: `accumulate` without `out`, or tensors that are not such.
    """
    splits, num_rows, num_outputs = partials.shape
    if out is None:
        if accumulate:
            raise ValueError("there is nothing to accumulate to: give out, float32 [M, N]")
        out = torch.empty(num_rows, num_outputs, device=partials.device)
    check_float32("partials", partials, (splits, num_rows, num_outputs))
    check_float32("out", out, (num_rows, num_outputs))
    if bias is not None:
        check_float32("bias", bias, (num_outputs,))
    sum_kernel[(num_rows, triton.cdiv(num_outputs, COLUMNS))](
        partials, bias, out, num_rows, num_outputs, splits, bias is not None, accumulate, COLUMNS
    )
    return out


def check_float32(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the tensor is a contiguous float32 of this shape."""
    if tensor.dtype != torch.float32 or tensor.shape != shape or not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous float32 {shape}, not {tensor.dtype} {tuple(tensor.shape)}")
