"""How the products of a linear layer are cut into programs: small static tables, nothing is tuned while serving.

What a row's bits depend on is fixed by the weight alone: the ranges of inputs that are summed apart (`num_splits`, by
the shape [N, K]), the order of the steps within a range, and the inputs of a step. The number of rows chooses only how
many of them a program takes, and with that the width of the product's instruction, the warps and the stages.
"""

from dataclasses import dataclass

WAVE = 250  # programs of 64 outputs that keep an H200's 132 SMs at work, about two for each
MAX_SPLITS = 8
MIN_STEPS = 2  # of a range: fewer are mostly starting up
FEW_ROWS = 16
MANY_OUTPUTS = 16384  # a program for each of 128 fills the GPU


@dataclass(frozen=True)
class LinearConfig:
    """One launch.

    Attributes:
        num_outputs: rows of the weight of one program, 64 or 128.
        num_rows: rows of x of one program, 16 to 128: with 8 the compiler takes Ampere's product.
        num_splits: ranges of inputs that are summed apart.
        num_stages: steps whose loads are under way at once.
        num_warps: of a program, 4 or 8: a warp holds 16 rows of the weight, or twice 16.
    """

    num_outputs: int
    num_rows: int
    num_splits: int
    num_stages: int
    num_warps: int

    @property
    def max_registers(self) -> int | None:
        """Of a thread: with 64 rows what lets two programs share an SM's 65536; fewer rows need less, more cannot."""
        return 65536 // (64 * self.num_warps) if self.num_rows == 64 else None


def splits_for(shape: tuple[int, int], step_size: int) -> int:
    """Ranges for a weight [N, K]: enough programs of 64 outputs to fill the GPU, a few steps each."""
    splits, tiles, num_steps = 1, -(-shape[0] // 64), shape[1] // step_size
    while splits < MAX_SPLITS and tiles * splits < WAVE and num_steps >= 2 * splits * MIN_STEPS:
        splits *= 2
    return splits


def rows_for(num_rows: int) -> int:
    """Rows of x of one program: all there are up to 128, rounded up to a width of the product."""
    return next((tile for tile in (16, 32, 64) if num_rows <= tile), 128)


def outputs_for(num_outputs: int, num_rows: int) -> int:
    """Outputs of one program. Every program reads all of its rows of x from the L2 cache, which for more than a few
    rows is as much as the weight: 128 outputs halve that. Few rows of a small matrix get more, smaller programs."""
    return 128 if num_rows > FEW_ROWS or num_outputs >= MANY_OUTPUTS else 64


def int4_config(shape: tuple[int, int], step_size: int, num_rows: int, *, gated: bool = False) -> LinearConfig:
    """For a packed weight [N, K], in steps of 64 or 128 inputs; two tiles a program for gate and up.

    Up to 64 rows two programs share an SM, by registers and by shared memory: one takes its weights apart while the
    other multiplies. With 128 rows the sums fill the registers with one. For few rows it is instructions that count, of
    which half are for the step and not for the weight: four warps do twice as much a step as eight.
    """
    tile = rows_for(num_rows)
    outputs = 128 if gated else outputs_for(shape[0], num_rows)
    splits = 1 if gated else splits_for(shape, step_size)
    stages = {16: 6, 32: 5, 64: 4, 128: 4}[tile] + (3 if step_size == 64 else 0)
    return LinearConfig(outputs, tile, splits, stages, num_warps=4 if tile == 16 else outputs // 16)


def dense_config(shape: tuple[int, int], step_size: int, num_rows: int) -> LinearConfig:
    """For a weight [N, K] as it is, in steps of 64 inputs."""
    tile = rows_for(num_rows)
    outputs = outputs_for(shape[0], num_rows)
    return LinearConfig(outputs, tile, splits_for(shape, step_size), 4, num_warps=outputs // 16)
