"""How the products of a linear layer are cut into programs: small static tables, nothing is tuned while serving.

What a row's bits depend on is fixed by the weight alone: the ranges of inputs that are summed apart (`num_splits`, by
the shape [N, K]), the order of the steps within a range, and the inputs of a step. The number of rows chooses only how
many of them a program takes, and with that the width of the product's instruction, the warps and the stages, and
whether a program takes one range or all of them, which it then adds up in the order that others would.

The figures are of an H200, groups of 128, from sweeps of some 800 launches; docs/performance.md has the times.
"""

from dataclasses import dataclass

WAVE = 250  # programs that keep an H200's 132 SMs at work, about two for each
DEEP_WAVE = 400  # what a long sum is worth: while ranges stay at LONG_INPUTS
LONG_INPUTS = 1792
MAX_SPLITS = 8
MIN_STEPS = 2  # of a range: fewer are mostly starting up
FULL = 200  # programs of 128 outputs that need not be halved
MANY = 500  # programs of 128 outputs and 128 rows, which have an SM for themselves


@dataclass(frozen=True)
class LinearConfig:
    """One launch.

    Attributes:
        num_outputs: rows of the weight of one program, 64 or 128.
        num_rows: rows of x of one program, 16 to 128: with 8 the compiler takes Ampere's product.
        num_splits: ranges of inputs that are summed apart.
        num_stages: steps whose loads are under way at once.
        num_warps: of a program, 4 or 8: a warp holds 16 rows of the weight, or twice 16.
        whole: a program takes all ranges; else one, and leaves its sum to be added up.
        max_registers: of a thread, where more would keep other programs off the SM.
    """

    num_outputs: int
    num_rows: int
    num_splits: int
    num_stages: int
    num_warps: int
    whole: bool = False
    max_registers: int | None = None

    @property
    def num_partials(self) -> int:
        """Sums that are left to be added up."""
        return 1 if self.whole else self.num_splits


def splits_for(shape: tuple[int, int], step_size: int) -> int:
    """Ranges for a weight [N, K]: enough programs of 64 outputs to fill the GPU, a few steps each."""
    splits, tiles = 1, -(-shape[0] // 64)
    while splits < MAX_SPLITS and shape[1] // step_size >= 2 * splits * MIN_STEPS:
        programs, inputs = tiles * splits, shape[1] // (2 * splits)
        if programs >= (DEEP_WAVE if inputs >= LONG_INPUTS else WAVE):
            break
        splits *= 2
    return splits


def rows_for(num_rows: int) -> int:
    """Rows of x of one program: all there are up to 64, rounded up to a width of the product."""
    return next((tile for tile in (16, 32) if num_rows <= tile), 64)


def outputs_for(num_outputs: int, tile: int, num_rows: int, splits: int) -> int:
    """Outputs of one program. Each reads its rows of x from the L2 cache, which 128 outputs do half as often as 64;
    but only where programs enough are left."""
    return 128 if num_programs(num_outputs, 128, num_rows, tile) * splits >= FULL else 64


def num_programs(num_outputs: int, outputs: int, num_rows: int, rows: int) -> int:
    """Of one range."""
    return -(-num_outputs // outputs) * -(-num_rows // rows)


def int4_config(shape: tuple[int, int], step_size: int, num_rows: int, *, gated: bool = False) -> LinearConfig:
    """For a packed weight [N, K], in steps of 64 or 128 inputs; two tiles a program for gate and up.

    A step waits for its loads, takes its weights apart, multiplies, and waits again: what fills the gaps are other
    programs on the SM, so stages are as many as leave shared memory for two to four. Only where there is work for
    every SM several times over, large programs pay, because they load less.
    """
    longer = 2 if step_size == 64 else 1  # half the bytes a stage
    splits = 1 if gated else splits_for(shape, step_size)
    tile = rows_for(num_rows)
    if num_rows > 64 and num_programs(shape[0], 128, num_rows, 128) >= MANY:
        whole = splits > 1  # which takes registers: 128 rows would spill some
        return LinearConfig(128, 64 if whole else 128, splits, 3 * longer, 8, whole)
    outputs = 128 if gated else outputs_for(shape[0], tile, num_rows, splits)
    stages = {16: 3 if outputs == 128 and not gated else 4, 32: 5, 64: 4 if outputs == 128 else 3}[tile]
    registers = 128 if (tile, outputs) == (64, 64) else None
    return LinearConfig(outputs, tile, splits, stages * longer, 4, max_registers=registers)


def dense_config(shape: tuple[int, int], step_size: int, num_rows: int) -> LinearConfig:
    """For a weight [N, K] as it is, in steps of 64 inputs."""
    tile = rows_for(num_rows)
    splits = splits_for(shape, step_size)
    return LinearConfig(64, tile, splits, 6, 4) if tile == 16 else LinearConfig(128, tile, splits, 4, 4)
