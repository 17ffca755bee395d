"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after another, and those that are still to come
make up for the error that the rounded ones leave in the outputs.

Columns with large inputs go first ("act-order"), while they can still be made up for. Each column is rounded to the
levels of the group that it lies in ("static groups"), so that the stored layout knows nothing of the order.
"""

import torch

from workers.quantization.grid import Grid, Quantized

DAMPING = 0.01  # of the mean diagonal, added to it: the paper's
BLOCK = 128  # columns whose errors are applied together to those behind them: the paper's


class Gptq:
    """The order of columns and what their errors mean to each other, for all matrices with the same inputs."""

    def __init__(self, gram: torch.Tensor) -> None:
        """`gram`: mean of x x^T over inputs x, float32 [K, K]."""
        diagonal = gram.diagonal()
        self._order = diagonal.argsort(descending=True, stable=True)
        hessian = gram[self._order][:, self._order].double()
        damping = DAMPING * diagonal.double().mean()
        hessian.diagonal().add_(damping if damping > 0 else 1.0)  # 1 where no input is ever other than zero
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        self._factor = torch.linalg.cholesky(inverse, upper=True).float()

    def quantize(self, weight: torch.Tensor, grid: Grid) -> Quantized:
        """Round a float32 matrix [N, K] to levels of a grid that was fitted to it."""
        group_of = self._order // (weight.shape[1] // grid.scales.shape[1])
        scales, zeros = grid.scales[:, group_of], grid.zeros[:, group_of]
        columns = weight[:, self._order]
        levels = torch.empty_like(columns)
        for begin in range(0, columns.shape[1], BLOCK):
            block = slice(begin, begin + BLOCK)
            part = Grid(scales[:, block], zeros[:, block], grid.scheme)
            levels[:, block], errors = self._round_block(columns[:, block], part, self._factor[block, block])
            columns[:, begin + BLOCK :] -= errors @ self._factor[block, begin + BLOCK :]
        stored = torch.empty_like(levels, dtype=torch.uint8)
        stored[:, self._order] = levels.to(torch.uint8)
        return Quantized(stored, grid)

    @staticmethod
    def _round_block(columns: torch.Tensor, grid: Grid, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Levels of columns [N, B], each with a scale of its own, and the errors that columns behind them make up for.

        `columns` is overwritten.
        """
        levels, errors = torch.empty_like(columns), torch.empty_like(columns)
        for index in range(columns.shape[1]):
            column, scale, zero = columns[:, index], grid.scales[:, index], grid.zeros[:, index]
            levels[:, index] = (torch.round(column / scale) + zero).clamp(0, grid.scheme.highest)
            errors[:, index] = (column - (levels[:, index] - zero) * scale) / factor[index, index]
            columns[:, index + 1 :] -= torch.outer(errors[:, index], factor[index, index + 1 :])
        return levels, errors
