"""x W^T for a bfloat16 or float16 W as it is, the weight on the left: W x^T on Hopper's warp-group products.

The weight is read once by whole tiles, which for few rows of x is all that counts; the output head is the largest. A
row's result depends on the row and on the weight alone, as in int4_linear.py.
"""

import torch
import triton
import triton.language as tl

from kernels.triton_ops.linear_config import dense_config
from kernels.triton_ops.row_checks import DTYPES, check_rows

STEP = 64  # inputs of a step: 128 bytes, one row of swizzled shared memory


@triton.jit(do_not_specialize=["num_rows"])
def dense_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    num_rows: int,
    num_outputs: int,
    num_inputs: int,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """Grid (rows / ROWS, outputs / OUTPUTS, SPLITS)."""
    num_steps = num_inputs // STEP
    begin, end = tl.program_id(2) * num_steps // SPLITS, (tl.program_id(2) + 1) * num_steps // SPLITS
    first_row = (tl.program_id(0) * ROWS).to(tl.int64)
    rows = tl.arange(0, ROWS)
    live_rows = rows[None, :] < num_rows - first_row
    first_output = (tl.program_id(1) * OUTPUTS).to(tl.int64)
    outputs = tl.arange(0, OUTPUTS)
    live_outputs = outputs[:, None] < num_outputs - first_output
    inputs = tl.arange(0, STEP)
    x_tile = x + first_row * num_inputs + rows[None, :] * num_inputs + inputs[:, None]
    weight_tile = weight + first_output * num_inputs + outputs[:, None] * num_inputs + inputs[None, :]

    sums = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for step in range(begin, end):
        left = tl.load(weight_tile + step * STEP, mask=live_outputs, other=0.0)
        right = tl.load(x_tile + step * STEP, mask=live_rows, other=0.0)
        sums = tl.dot(left, right, sums)

    out_tile = out + (tl.program_id(2).to(tl.int64) * num_rows + first_row) * num_outputs + first_output
    tl.store(out_tile + rows[None, :] * num_outputs + outputs[:, None], sums, mask=live_rows & live_outputs)


def dense_linear_fits(weight: torch.Tensor) -> bool:
    """Whether `dense_linear_partials` takes this weight: contiguous, of 16 bits, the inputs a multiple of 64."""
    return weight.dtype in DTYPES and weight.is_contiguous() and weight.shape[1] % STEP == 0


def dense_linear_partials(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x W^T in ranges of inputs: float32 [splits, M, N], to be added in order.

    Args:
        x: [M, K], contiguous, in the dtype of the weight.
        weight: bfloat16 or float16 [N, K], contiguous, K a multiple of 64.

    Raises:
        ValueError: the rows or the weight are not such.
    """
    num_outputs, num_inputs = weight.shape
    if not dense_linear_fits(weight):
        raise ValueError(
            f"a weight must be contiguous bfloat16 or float16 with a multiple of {STEP} inputs, "
            f"not {weight.dtype} {tuple(weight.shape)}"
        )
    check_rows(x, num_inputs, (weight.dtype,))
    config = dense_config((num_outputs, num_inputs), STEP, len(x))
    out = torch.empty(config.num_splits, len(x), num_outputs, device=x.device)
    row_tiles = triton.cdiv(len(x), config.num_rows)
    dense_kernel[(row_tiles, triton.cdiv(num_outputs, config.num_outputs), config.num_splits)](
        x,
        weight,
        out,
        len(x),
        num_outputs,
        num_inputs,
        OUTPUTS=config.num_outputs,
        ROWS=config.num_rows,
        STEP=STEP,
        SPLITS=config.num_splits,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
