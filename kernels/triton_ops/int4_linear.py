"""x W^T for a packed int4 W, the weight on the left: W x^T on Hopper's warp-group products.

The weight goes from shared memory to registers, is taken apart there, and is multiplied from there; x comes from shared
memory. (q - zero) is exact in bfloat16 and float16; the scale is applied in float32 to each group's sum.

Bits: a row's result depends on the row and on the weight alone, not on the rows beside it. Groups are added in order
into `num_splits` float32 sums, which depends on the weight's shape only (linear_config.py); nothing is atomic. What
varies with the number of rows is the instruction's width (m64n16k16 to m64n64k16), and who adds the sums up.
"""

import torch
import triton
import triton.language as tl

from kernels.triton_ops.int4_dequantize import dequantize
from kernels.triton_ops.int4_weight import PADDED_TO, UNIT, TritonInt4Weight
from kernels.triton_ops.linear_config import LinearConfig, int4_config
from kernels.triton_ops.row_checks import check_rows


@triton.jit
def add_group(
    sums: tl.tensor,
    packed: tl.tensor,
    coefficient: tl.tensor,
    x: tl.tensor,
    TILES: tl.constexpr,
    UNITS: tl.constexpr,
    STEPS: tl.constexpr,
    ASM: tl.constexpr,
) -> tl.tensor:
    """sums + scale * ((nibbles - zero) x) of one group of UNITS * STEPS * 16 inputs, x [inputs, ROWS]."""
    zeros = (coefficient & 15).to(tl.uint8).reshape(TILES, 1, 4, 2, 8, 1, 1, 1).trans(0, 1, 2, 4, 5, 6, 3, 7)
    zeros = tl.broadcast_to(zeros, (TILES, UNITS, 4, 8, 4, STEPS, 2, 2)).reshape(TILES, UNITS, 512 * STEPS)
    early, late = dequantize(packed, zeros, x.dtype, ASM)
    # (tile, unit, w, g, c, j, h, p, half) to outputs (tile, w, h, g) and inputs (unit, j, half, c, p).
    weight = tl.join(early, late).reshape(TILES, UNITS, 4, 8, 4, STEPS, 2, 2, 2)
    weight = weight.trans(0, 2, 6, 3, 1, 5, 8, 4, 7).reshape(64 * TILES, UNITS * STEPS * 16)
    scale = (coefficient & -16).to(tl.float32, bitcast=True)
    # An explicit fma: no variant may be compiled to round the product first.
    return tl.fma(tl.dot(weight, x), scale[:, None], sums)


@triton.jit
def add_step(
    sums: tl.tensor,
    packed: tl.tensor,
    x_tile: tl.tensor,
    live: tl.tensor,
    coefficients: tl.tensor,
    num_padded: int,
    UNITS: tl.constexpr,
    GROUP: tl.constexpr,
    ASM: tl.constexpr,
) -> tl.tensor:
    """sums + the product of a step: one group, or the two of 32 inputs in a unit."""
    TILES: tl.constexpr = packed.shape[0]
    columns = tl.load(x_tile, mask=live, other=0.0)
    coefficient = tl.load(coefficients)
    if GROUP >= 64:
        sums = add_group(sums, packed, coefficient, columns, TILES, UNITS, 4, ASM)
    else:
        # A thread's 16 bytes are its 8 of the first group, then those of the second.
        early, late = tl.split(packed.reshape(TILES, 1, 4, 8, 4, 2, 8).trans(0, 1, 2, 3, 4, 6, 5))
        sums = add_group(sums, early.reshape(TILES, 1, 1024), coefficient, columns, TILES, 1, 2, ASM)
        columns = tl.load(x_tile + 32, mask=live, other=0.0)
        coefficient = tl.load(coefficients + num_padded)
        sums = add_group(sums, late.reshape(TILES, 1, 1024), coefficient, columns, TILES, 1, 2, ASM)
    return sums


@triton.jit
def tile_of(
    out: tl.tensor, rows: tl.tensor, outputs: tl.tensor, num_rows: int, num_outputs: int
) -> tuple[tl.tensor, tl.tensor]:
    """Where a tile [outputs, rows] lies in out [num_rows, num_outputs], and what of it lies within."""
    mask = (rows[None, :] < num_rows) & (outputs[:, None] < num_outputs)
    return out + rows[None, :] * num_outputs + outputs[:, None], mask


@triton.jit(do_not_specialize=["num_rows"])
def int4_kernel(
    x: tl.tensor,
    words: tl.tensor,
    coefficients: tl.tensor,
    out: tl.tensor,
    num_rows: int,
    num_outputs: int,
    num_padded: int,
    num_inputs: int,
    tile_stride: int,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    SPLITS: tl.constexpr,
    WHOLE: tl.constexpr,
    GATED: tl.constexpr,
    ASM: tl.constexpr,
) -> None:
    """Grid (rows / ROWS, tiles / TILES, SPLITS): TILES tiles of 64 outputs, `tile_stride` apart, times ROWS rows.

    WHOLE: a program of a grid (.., .., 1) takes all ranges, and adds their sums up in `out`, in order.
    GATED: the two tiles are gate and up, and silu(gate) * up [num_rows, num_outputs] is what is written.
    """
    UNITS: tl.constexpr = GROUP // 64 if GROUP > 64 else 1
    GROUPS: tl.constexpr = 64 * UNITS // GROUP
    first_tile = tl.program_id(1) * (1 if GATED else TILES)
    num_steps = num_inputs // (64 * UNITS)

    first_row = (tl.program_id(0) * ROWS).to(tl.int64)
    rows = tl.arange(0, ROWS)
    live = rows[None, :] < num_rows - first_row
    x_tile = x + first_row * num_inputs + rows[None, :] * num_inputs + tl.arange(0, GROUP)[:, None]
    tiles = first_tile + tl.arange(0, TILES) * tile_stride
    lane = tl.arange(0, 64 * TILES)
    outputs = first_tile * 64 + lane // 64 * (tile_stride * 64) + lane % 64
    word_tile = words + tiles[:, None, None].to(tl.int64) * (num_inputs * 32)
    word_tile += tl.arange(0, UNITS)[None, :, None] * 2048 + tl.arange(0, 2048)[None, None, :]

    coefficients += outputs
    first_range = tl.program_id(2)
    out += (first_range.to(tl.int64) * num_rows + first_row) * num_outputs
    for split in range(first_range, SPLITS if WHOLE else first_range + 1):
        sums = tl.zeros((64 * TILES, ROWS), tl.float32)
        for step in range(split * num_steps // SPLITS, (split + 1) * num_steps // SPLITS):
            packed = tl.load(word_tile + step * (UNITS * 2048))
            group = coefficients + step * (GROUPS * num_padded)
            sums = add_step(sums, packed, x_tile + step * (UNITS * 64), live, group, num_padded, UNITS, GROUP, ASM)
        if GATED:
            gate, up = tl.split(sums.reshape(2, 64, ROWS).trans(1, 2, 0))
            gated = (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty)
            place, mask = tile_of(out, rows, first_tile * 64 + tl.arange(0, 64), num_rows - first_row, num_outputs)
            tl.store(place, gated, mask=mask)
        else:
            place, mask = tile_of(out, rows, outputs, num_rows - first_row, num_outputs)
            if WHOLE:
                sums += tl.load(place, mask=mask & (split > 0), other=-0.0)  # x + -0 is x, for 0 and -0 too
            tl.store(place, sums, mask=mask)


def int4_linear_partials(x: torch.Tensor, weight: TritonInt4Weight) -> torch.Tensor:
    """x W^T in ranges of inputs: float32 [splits, M, N], to be added in order; of many rows their sum, [1, M, N].

    Args:
        x: bfloat16 or float16 [M, K], contiguous.
        weight: [N, K].

    Raises:
        ValueError: the rows are not such.
    """
    check_rows(x, weight.num_inputs)
    config = int4_config(weight.shape, weight.step_size, len(x))
    out = torch.empty(config.num_partials, len(x), weight.num_outputs, device=x.device)
    launch(x, weight, out, config, tile_stride=1)
    return out


def int4_gate_up(x: torch.Tensor, weight: TritonInt4Weight) -> torch.Tensor:
    """silu(gate) * up [M, N / 2] in the dtype of x: gate is the first half of the outputs, up the second.

    Args:
        x: bfloat16 or float16 [M, K], contiguous.
        weight: [N, K], N a multiple of 128.

    Raises:
        ValueError: the rows or the weight are not such.
    """
    check_rows(x, weight.num_inputs)
    if weight.num_outputs % PADDED_TO:
        raise ValueError(
            f"gate and up of {weight.num_outputs} outputs cannot be fused: they must be a multiple of {PADDED_TO}; "
            "use int4_linear_partials and multiply afterwards"
        )
    config = int4_config(weight.shape, weight.step_size, len(x), gated=True)
    out = torch.empty(len(x), weight.num_outputs // 2, dtype=x.dtype, device=x.device)
    launch(x, weight, out, config, tile_stride=weight.num_outputs // PADDED_TO)
    return out


def launch(
    x: torch.Tensor, weight: TritonInt4Weight, out: torch.Tensor, config: LinearConfig, *, tile_stride: int
) -> None:
    """Multiply into `out`: partial sums, or where the tiles are not neighbours silu(gate) * up."""
    row_tiles = triton.cdiv(len(x), config.num_rows)
    int4_kernel[(row_tiles, weight.num_padded // config.num_outputs, config.num_partials)](
        x,
        weight.words,
        weight.coefficients,
        out,
        len(x),
        out.shape[-1],
        weight.num_padded,
        weight.num_inputs,
        tile_stride,
        TILES=config.num_outputs // UNIT,
        ROWS=config.num_rows,
        GROUP=weight.group_size,
        SPLITS=config.num_splits,
        WHOLE=config.whole,
        GATED=out.ndim == 2,
        ASM=not triton.knobs.runtime.interpret,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        maxnreg=config.max_registers,
    )
