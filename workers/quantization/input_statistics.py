"""What a linear layer is multiplied with, over all calibration text."""

import torch


class InputStatistics:
    """Sums over inputs x [K], in memory of K^2 numbers however long the text is."""

    def __init__(self, num_inputs: int) -> None:
        self._gram = torch.zeros(num_inputs, num_inputs)
        self._sizes = torch.zeros(num_inputs)
        self._count = 0

    def add(self, rows: torch.Tensor) -> None:
        """Take in inputs, float32 [rows, K]."""
        self._gram.addmm_(rows.T, rows)
        self._sizes += rows.abs().sum(0)
        self._count += len(rows)

    @property
    def gram(self) -> torch.Tensor:
        """Mean of x x^T, float32 [K, K]: half the Hessian of the squared error of an output by its weights."""
        return self._gram / self._count

    @property
    def sizes(self) -> torch.Tensor:
        """Mean of |x|, float32 [K]."""
        return self._sizes / self._count


def output_error(difference: torch.Tensor, gram: torch.Tensor) -> float:
    """What a difference [N, K] of weights makes of the outputs: their mean squared difference, summed over outputs."""
    return float(((difference @ gram) * difference).sum())
