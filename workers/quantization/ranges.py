"""Where the levels of each group begin and end: all of its weights, or less of them in smaller steps."""

import torch

from workers.quantization.grid import Grid, Scheme, grid_between
from workers.quantization.options import Granularity, Search
from workers.quantization.weight_histogram import divergence_of_clipping, weight_histogram

SHRINKS = tuple(1 - step / 50 for step in range(26))  # of the range, down to half of it
OUTLIERS = 0.005  # of the weights, at each end


def fit_grid(
    weight: torch.Tensor,
    scheme: Scheme,
    granularity: Granularity,
    group_size: int,
    search: Search,
    gram: torch.Tensor | None = None,
) -> Grid:
    """The grid of a float32 matrix [N, K].

    Args:
        search: "minmax" from the least to the largest weight; "percentile" leaves the `OUTLIERS` out; "mse" takes the
            one of the `SHRINKS` with the least squared error, of the outputs where `gram` is given and of the weights
            elsewhere; "kl" the one after which the weights' distribution tells most of what it was (one for the
            matrix: Migacz 2017, "8-bit inference with TensorRT", for activations there).
        gram: mean of x x^T over inputs x: float32 [K, K].
    """
    units = cut(weight, granularity, group_size)
    low, high = (percentile_range if search == "percentile" else full_range)(units)
    grid = grid_between(low, high, scheme)
    if search == "kl":
        shrink = least_divergent(units, scheme)
        grid = grid_between(low * shrink, high * shrink, scheme)
    elif search == "mse":
        grid = least_squares(units, low, high, scheme, None if granularity == "tensor" else gram)
    return grid if granularity != "tensor" else repeat_rows(grid, len(weight))


def cut(weight: torch.Tensor, granularity: Granularity, group_size: int) -> torch.Tensor:
    """Weights that share a scale: [N, G, K / G], or [1, 1, N * K] where all do."""
    if granularity == "tensor":
        return weight.reshape(1, 1, -1)
    return weight.reshape(len(weight), -1, group_size if granularity == "group" else weight.shape[1])


def repeat_rows(grid: Grid, rows: int) -> Grid:
    """One scale as one for each row: no reader of checkpoints knows a single one."""
    return Grid(grid.scales.expand(rows, 1).contiguous(), grid.zeros.expand(rows, 1).contiguous(), grid.scheme)


def full_range(units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return units.amin(-1), units.amax(-1)


def percentile_range(units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without `OUTLIERS` at each end, between two weights where that is no whole number of them.

    `torch.quantile` takes no more than 16 million weights.
    """
    size = units.shape[-1]
    whole, part = divmod(OUTLIERS * (size - 1), 1)
    least, next_least = (units.kthvalue(min(int(whole) + place, size))[0] for place in (1, 2))
    largest, next_largest = (units.kthvalue(max(size - int(whole) - place, 1))[0] for place in (0, 1))
    return torch.lerp(least, next_least, part), torch.lerp(largest, next_largest, part)


def least_squares(
    units: torch.Tensor, low: torch.Tensor, high: torch.Tensor, scheme: Scheme, gram: torch.Tensor | None
) -> Grid:
    """For each unit the shrunken range with the least squared error."""
    blocks = None if gram is None else diagonal_blocks(gram, units.shape[1])
    best = grid_between(low, high, scheme)
    least = squared_error(units, best, blocks)
    for shrink in SHRINKS[1:]:
        grid = grid_between(low * shrink, high * shrink, scheme)
        error = squared_error(units, grid, blocks)
        better = error < least
        least = torch.where(better, error, least)
        scales, zeros = torch.where(better, grid.scales, best.scales), torch.where(better, grid.zeros, best.zeros)
        best = Grid(scales, zeros, scheme)
    return best


def squared_error(units: torch.Tensor, grid: Grid, blocks: torch.Tensor | None) -> torch.Tensor:
    """[N, G], of weights [N, G, g]; of their parts in the outputs where the gram's `blocks` [G, g, g] are given."""
    error = grid.nearest(units.flatten(1)).view(units.shape) - units
    weighted = error if blocks is None else torch.matmul(error.transpose(0, 1), blocks).transpose(0, 1)
    return (weighted * error).sum(-1)


def diagonal_blocks(gram: torch.Tensor, groups: int) -> torch.Tensor:
    """What the inputs of one group have to do with each other: [G, K / G, K / G]."""
    size = len(gram) // groups
    return torch.stack([gram[start : start + size, start : start + size] for start in range(0, len(gram), size)])


def least_divergent(units: torch.Tensor, scheme: Scheme) -> float:
    """The shrink of all ranges that changes the distribution of the weights least."""
    histogram = weight_histogram(units)
    return min(SHRINKS, key=lambda shrink: divergence_of_clipping(histogram, shrink, scheme.highest))
