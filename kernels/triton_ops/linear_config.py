"""How the products of a linear layer are cut into programs: small static tables, nothing is tuned while serving.

What a row's bits depend on is fixed by the weight alone: the ranges of inputs that are summed apart (`num_splits`, by
the shape [N, K]), the order of the steps within a range, and the inputs of a step. The number of rows chooses only how
many of them a program takes, and with that the width of the product's instruction, the warps and the stages.
"""

from dataclasses import dataclass

WAVE = 250  # programs that keep an H200's 132 SMs at work, about two for each
MAX_SPLITS = 8
MIN_STEPS = 2  # of a range: fewer are mostly starting up


@dataclass(frozen=True)
class LinearConfig:
    """One launch.

    Attributes:
        num_outputs: rows of the weight of one program, 64 or 128.
        num_rows: rows of x of one program, 16 to 128: with 8 the compiler takes Ampere's product.
        num_splits: ranges of inputs that are summed apart.
        num_stages: steps whose loads are under way at once.
    """

    num_outputs: int
    num_rows: int
    num_splits: int
    num_stages: int

    @property
    def num_warps(self) -> int:
        """A warp holds 16 rows of the weight: four make one warp-group product."""
        return self.num_outputs // 16


def splits_for(num_outputs: int, num_steps: int) -> int:
    """Ranges for a weight of N outputs: enough programs of 64 outputs to fill the GPU, a few steps each."""
    splits, tiles = 1, -(-num_outputs // 64)
    while splits < MAX_SPLITS and tiles * splits < WAVE and num_steps >= 2 * splits * MIN_STEPS:
        splits *= 2
    return splits


def rows_for(num_rows: int) -> int:
    """Rows of x of one program: all there are up to 128, rounded up to a width of the product."""
    return next((tile for tile in (16, 32, 64) if num_rows <= tile), 128)


def int4_config(num_outputs: int, num_steps: int, num_rows: int, *, gated: bool = False) -> LinearConfig:
    """For a packed weight, N outputs and `num_steps` steps of 64 or 128 inputs; two tiles a program for gate and up.

    A step's 4 KiB of weights and its part of x wait in shared memory; with 64 rows two programs share an SM, with 128
    rows the sums fill its registers with one.
    """
    tile = rows_for(num_rows)
    stages = {16: 6, 32: 5, 64: 5, 128: 4}[tile]
    wide = gated or tile == 128
    return LinearConfig(128 if wide else 64, tile, 1 if gated else splits_for(num_outputs, num_steps), stages)


def dense_config(num_outputs: int, num_steps: int, num_rows: int) -> LinearConfig:
    """For a weight as it is, N outputs and `num_steps` steps of 64 inputs: 8 KiB of a tile's weights a step."""
    tile = rows_for(num_rows)
    wide = tile == 128
    return LinearConfig(128 if wide else 64, tile, splits_for(num_outputs, num_steps), 4 if wide else 6)
